"""Note what a network says of every image while it is measured, so that no image is run twice for a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from qcaps.models.network import Output


class Outputs:
    """What a network said of the images of one measurement, in their order."""

    def __init__(self) -> None:
        self._scores: list[Tensor] = []
        self._capsules: list[Tensor] = []

    def see(self, output: Output) -> None:
        """Note the output of a batch; see :func:`~qcaps.evaluation.measure.predictor`."""
        self._scores.append(output.scores.float().cpu())
        self._capsules.append(output.capsules.float().cpu())

    def of(self, positions: Tensor) -> Outputs:
        """Give what was said of some of the images, by their position, shape ``(m,)``."""
        found = Outputs()
        found.see(Output(self.scores[positions], self.capsules[positions]))
        return found

    @property
    def scores(self) -> Tensor:
        """Give the scores of all images so far, float32, shape ``(n, classes)``."""
        return torch.cat(self._scores)

    @property
    def capsules(self) -> Tensor:
        """Give the class capsules of all images so far, float32, shape ``(n, classes, dim)``."""
        return torch.cat(self._capsules)
