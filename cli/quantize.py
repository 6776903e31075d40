"""``qcaps quantize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.quantize import QuantizeConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Quantize a checkpoint under an accuracy tolerance and a memory budget, into a packed artifact."
EXAMPLES = (
    "qcaps quantize --memory-budget 1",
    "qcaps quantize efficient_capsnet_digits.pt --rounding truncation",
)
CHECKPOINT = Annotated[
    str | None,
    typer.Argument(
        help="Checkpoint to quantize, a file or the name of a shipped one.",
        show_default="efficient_capsnet_digits.pt",
    ),
]


def _quantize(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.quantize import quantize

    with output.progress() as on_progress:
        return quantize(cast("str | None", arguments["checkpoint"]), on_progress=on_progress, **options)


run = command(QuantizeConfig, _quantize, {"checkpoint": CHECKPOINT})
