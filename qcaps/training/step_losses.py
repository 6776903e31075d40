"""The losses of one step: of the scores, of the reconstruction, of a lesson beside the labels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from qcaps.capsules.losses import LAST_SPREAD_MARGIN, class_loss, reconstruction_loss
from qcaps.config.train import TrainConfig
from qcaps.models.network import CapsuleNetwork, Output, predictions
from qcaps.training.schedule import epoch_spread_margin, margins, reconstruction_weight
from qcaps.training.setting import Lesson


class StepLosses(nn.Module):
    """The network and its losses as one module, the shape that data-parallel training needs.

    Parameters
    ----------
    network
        To be trained.
    config
        Says which losses, and their weights.
    lesson
        What is taught beside the labels.
    """

    def __init__(self, network: CapsuleNetwork, config: TrainConfig, lesson: Lesson) -> None:
        super().__init__()
        self.network, self.config, self.lesson = network, config, lesson

    def forward(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the loss to minimise, and the mean class and reconstruction losses."""
        output = self.network(images)
        own = class_loss(
            self.network.loss,
            output.scores,
            labels,
            margins=margins(self.config, epoch),
            spread_margin=LAST_SPREAD_MARGIN if self.lesson.trained else epoch_spread_margin(self.config, epoch),
        ).mean()
        total = own if self.lesson.beside is None else own + self.lesson.beside(images, output).mean()
        weight = reconstruction_weight(self.config, epoch) if self.network.decoder is not None else 0.0
        count = math.ceil(len(images) * self.config.reconstruction_share)
        if not weight or not count:
            return total, own.detach(), own.new_zeros(())
        reconstruction = self._reconstruction(output, images, labels, count)
        return total + weight * reconstruction, own.detach(), reconstruction.detach()

    def _reconstruction(self, output: Output, images: Tensor, labels: Tensor, count: int) -> Tensor:
        """Draw the first images of a batch; give the mean error."""
        kept = labels if self.config.mask == "label" else predictions(output)
        drawn = self.network.reconstruct(output.capsules[:count], kept[:count])
        return reconstruction_loss(drawn, images[:count], self.config.reconstruction).mean()
