"""``qcaps compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.compare import CompareConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Compare checkpoints and artifacts: bits, widths, bytes, MACs; with images also those lost and gained."
EXAMPLES = (
    "qcaps compare efficient_capsnet_digits.pt efficient_capsnet_mnist.pt",
    "qcaps compare efficient_capsnet_digits.pt efficient_capsnet_mnist.pt --max-growth 5",
)
FILES = Annotated[
    list[str],
    typer.Argument(
        help="Checkpoints or artifacts, files or names of shipped ones; the first is what others are held against.",
        show_default=False,
    ),
]


def _compare(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.compare import compare

    with output.progress() as on_progress:
        return compare(*cast("list[str]", arguments["files"]), on_progress=on_progress, **options)


run = command(CompareConfig, _compare, {"files": FILES})
