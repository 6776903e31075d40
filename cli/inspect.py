"""``qcaps inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.inspect import InspectConfig
from qcaps.registry import MODELS

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Inspect a network, a checkpoint or an artifact: stages, shapes, sizes, costs, sites and their ranges."
EXAMPLES = (
    "qcaps inspect deepcaps --input 3x32x32 --units",
    "qcaps inspect efficient_capsnet_digits.pt --ranges",
)


def _complete(typed: str) -> list[str]:
    return [name for name in MODELS.names() if name.startswith(typed)]


SUBJECT = Annotated[
    str | None,
    typer.Argument(
        help="A network of `qcaps list models`, else a file or the name of a shipped one.",
        autocompletion=_complete,
        show_default="efficient_capsnet_digits.pt",
    ),
]


def _inspect(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.inspect import inspect

    with output.progress() as on_progress:
        return inspect(cast("str | None", arguments["subject"]), on_progress=on_progress, **options)


run = command(InspectConfig, _inspect, {"subject": SUBJECT})
