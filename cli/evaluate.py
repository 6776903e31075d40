"""``qcaps eval``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Evaluate checkpoints or artifacts: accuracy with interval, per class, size, cost and latency."
EXAMPLES = (
    "qcaps eval",
    "qcaps eval efficient_capsnet_digits.pt --split validation --json",
)
FILES = Annotated[
    list[str] | None,
    typer.Argument(
        help="Checkpoints or artifacts, files or names of shipped ones.",
        show_default="efficient_capsnet_digits.pt",
    ),
]


def _evaluate(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.evaluate import evaluate

    with output.progress() as on_progress:
        return evaluate(*cast("list[str]", arguments["files"] or []), on_progress=on_progress, **options)


run = command(EvaluateConfig, _evaluate, {"files": FILES})
