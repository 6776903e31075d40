"""``qcaps train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.train import TrainConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Train a capsule network; the best epoch is chosen on validation images."
EXAMPLES = (
    "qcaps train --dataset digits --epochs 2 --decoder deconv28",
    "qcaps train --model shallow-capsnet --dataset mnist --epochs 5",
)


def _train(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.train import train

    with output.progress() as on_progress:
        return train(on_progress=on_progress, **options)


run = command(TrainConfig, _train, {})
