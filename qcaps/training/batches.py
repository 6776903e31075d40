"""The batches of a training run: each is a function of (seed, epoch, step), so that a resumed run sees the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcaps.data.augment import augmented
from qcaps.training.setting import TrainingData


@dataclass(frozen=True)
class Batches:
    """Training images in an order of each epoch's own.

    Parameters
    ----------
    data
        Gives the images and their augmentation.
    batch_size
        Images of all processes together in one step.
    seed
        Of orders and augmentation.
    """

    data: TrainingData
    batch_size: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Count the batches of an epoch; the last one may be smaller."""
        return math.ceil(len(self.data.train) / self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Shuffle the images of an epoch: their positions, shape ``(n,)``."""
        return torch.randperm(len(self.data.train), generator=_generator(self.seed, epoch))

    def batch(self, order: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Give the images of a step as they are learned from, and their labels.

        Parameters
        ----------
        order
            Of this epoch.
        epoch, step
            Counted from 0, the step within its epoch.
        """
        start = step * self.batch_size
        batch = self.data.train.subset(order[start : start + self.batch_size])
        return augmented(batch, self.data.augment, _generator(self.seed, epoch, step)), batch.labels


def _generator(*key: int) -> torch.Generator:
    """Make the generator of one epoch or step, so that a resumed run draws what an uninterrupted one would."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
