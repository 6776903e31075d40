"""Measure a network on a set of images: the prediction for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.data.images import ImageSet, to_float
from qcaps.errors import StoppedError
from qcaps.models.network import CapsuleNetwork, predictions
from qcaps.progress import OnProgress, Step, silent

# Images ``(batch, c, h, w)`` and their indices ``(batch,)`` → predictions ``(batch,)``.
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Measurement:
    """Predictions and labels of a set of images, int64, shape ``(n,)`` each."""

    predictions: Tensor
    labels: Tensor

    @property
    def hits(self) -> Tensor:
        """Tell for every image whether it was recognised, bool, shape ``(n,)``."""
        return self.predictions == self.labels

    @property
    def correct(self) -> int:
        """Count the images recognised."""
        return int(self.hits.sum())

    @property
    def images(self) -> int:
        """Count all images."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Give the share of images recognised, in [0, 1]."""
        return self.correct / self.images


def measure(
    predict: Predict,
    images: ImageSet,
    *,
    divisor: int,
    batch_size: int,
    phase: str = "evaluate",
    on_progress: OnProgress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Measurement:
    """Predict every image once, in order.

    Parameters
    ----------
    predict
        The candidate; it is given pixels in [0, 1] and the indices of the images in their source.
    images
        What to predict.
    divisor
        Of the 8-bit pixels.
    batch_size
        Changes speed and memory, never a random draw.
    phase, on_progress
        Name of the work, and whom to tell.
    stop
        Asked after every batch.

    Raises
    ------
    StoppedError
        If `stop` said so.
    """
    found: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in batches(images, batch_size):
            found.append(predict(to_float(batch.pixels, divisor), batch.indices).cpu())
            done += len(batch)
            on_progress(Step(phase, done, len(images)))
            if stop():
                raise StoppedError("interrupted while measuring")
    return Measurement(torch.cat(found), images.labels)


def batches(images: ImageSet, batch_size: int) -> Iterator[ImageSet]:
    """Cut a set of images into consecutive batches, the last one possibly smaller."""
    for start in range(0, len(images), batch_size):
        yield images.subset(torch.arange(start, min(start + batch_size, len(images))))


def predictor(network: CapsuleNetwork) -> Predict:
    """Make the candidate that is a float network as it stands, on its own device."""
    device = next(network.parameters()).device

    def predict(pixels: Tensor, _indices: Tensor) -> Tensor:
        pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)
        return predictions(network(pixels))

    return predict
