"""``qcaps prune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.prune import PruneConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Prune a checkpoint to a share of its cost: search, fine-tune, and keep the best."
EXAMPLES = (
    "qcaps prune --flops 0.5",
    "qcaps prune efficient_capsnet_digits.pt --params 0.4 --importance taylor",
)
CHECKPOINT = Annotated[
    str | None,
    typer.Argument(
        help="Checkpoint to prune, a file or the name of a shipped one.",
        show_default="efficient_capsnet_digits.pt",
    ),
]


def _prune(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.prune import prune

    with output.progress() as on_progress:
        return prune(cast("str | None", arguments["checkpoint"]), on_progress=on_progress, **options)


run = command(PruneConfig, _prune, {"checkpoint": CHECKPOINT})
