"""Measure a network on a set of images: the prediction for each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.capsules.sites import Sites
from qcaps.data.images import ImageSet
from qcaps.errors import StoppedError
from qcaps.models.network import CapsuleNetwork, Output, array_sites, predictions
from qcaps.progress import OnProgress, Step, silent

# The largest array of a block may take this much, so that it is still in the last-level cache when it is read.
BLOCK_BYTES = 16 << 20

# Images ``(batch, c, h, w)`` and their indices ``(batch,)`` → predictions ``(batch,)``.
Predict = Callable[[Tensor, Tensor], Tensor]
# Shown what a network says of a batch.
See = Callable[[Output], None]


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
            found.append(predict(batch.prepared(), batch.indices).cpu())
            done += len(batch)
            on_progress(Step(phase, done, len(images)))
            if stop():
                raise StoppedError("interrupted while measuring")
    return Measurement(torch.cat(found), images.labels)


def batches(images: ImageSet, batch_size: int) -> Iterator[ImageSet]:
    """Cut a set of images into consecutive batches, the last one possibly smaller."""
    for start in range(0, len(images), batch_size):
        yield images.subset(torch.arange(start, min(start + batch_size, len(images))))


def unseen(_output: Output) -> None:
    """Show an output to nobody."""


def predictor(network: CapsuleNetwork, see: See = unseen) -> Predict:
    """Make the candidate that is a float network as it stands, on its own device; `see` is shown every output."""
    device = next(network.parameters()).device

    def predict(pixels: Tensor, _indices: Tensor) -> Tensor:
        output: Output = network(pixels.to(device))
        see(output)
        return predictions(output)

    return in_blocks(network, predict)


def in_blocks(network: CapsuleNetwork, predict: Predict) -> Predict:
    """Make a candidate that cuts every batch into blocks, which is faster and bounds memory.

    Parameters
    ----------
    network
        What `predict` runs.
    predict
        Given a block at a time.
    """
    blocks = even_blocks(network)

    def in_turn(pixels: Tensor, indices: Tensor) -> Tensor:
        count = blocks(pixels)
        return torch.cat([predict(*each) for each in zip(pixels.chunk(count), indices.chunk(count), strict=True)])

    return in_turn


def even_blocks(network: CapsuleNetwork) -> Callable[[Tensor], int]:
    """Make what tells into how many blocks to cut a batch, so that the largest array of each fits the cache."""
    limits: dict[torch.Size, int] = {}

    def blocks(pixels: Tensor) -> int:
        image = pixels.shape[1:]
        if image not in limits:
            limits[image] = max(1, BLOCK_BYTES // (4 * _largest_array(network, image)))
        return math.ceil(len(pixels) / limits[image])

    return blocks


def _largest_array(network: CapsuleNetwork, image: torch.Size) -> int:
    """Count the values of one image in the largest array."""
    blank = CapsuleNetwork(dict(copy.deepcopy(network.stages).to("meta"))).eval()
    for module in blank.modules():
        if isinstance(module, Sites):
            module.hook = None
    channels, height, width = image
    return max(array_sites(blank, (channels, height, width)).values())
