"""Mean and deviation of images, computed once and then carried as numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.named_preparation import named_preparation
from qcaps.data.preparation import scaled
from qcaps.data.spec import DataSpec, data_spec

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_BLOCK = 1000


def with_preparation(spec: DataSpec, name: str, *, data_dir: Path | None = None) -> DataSpec:
    """Give the same images with a named preparation.

    Parameters
    ----------
    spec
        Whatever its preparation is.
    name
        Registry name; images are read only where the preparation is to have their statistics.
    data_dir
        Folder of all data sets.

    Raises
    ------
    UsageError
        If the name is unknown, the preparation does not suit the images, or they cannot be read.
    """
    named = named_preparation(name)
    made = data_spec(**{**vars(spec), "preparation": named.preparation})
    if named.statistics == "none":
        return made
    measure = value_statistics if named.each_value else channel_statistics
    mean, std = measure(load_split(made, "train", data_dir=data_dir))
    preparation = replace(named.preparation, mean=mean, std=std)
    if named.statistics == "split":
        mean, std = measure(load_split(made, "test", data_dir=data_dir))
        preparation = replace(preparation, test_mean=mean, test_std=std)
    return replace(made, preparation=preparation)


def channel_statistics(images: ImageSet) -> Statistics:
    """Give mean and deviation of every channel over all pixels of all images in their source, divided.

    Notes
    -----
    Pixels are counted by their value, so that the sums are exact and need no memory.
    """
    channels = images.pixels.shape[1]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for block in torch.split(images.pixels, _BLOCK):
        for channel in range(channels):
            counts[channel] += block[:, channel].flatten().bincount(minlength=256)
    shares = counts / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / images.preparation.divisor
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return _statistics(mean, variance)


def value_statistics(images: ImageSet) -> Statistics:
    """Give mean and deviation of every value of the resized and divided image over all images."""
    total, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for block in torch.split(images.pixels, _BLOCK):
        values = scaled(block, images.preparation).double()
        total, squares = total + values.sum(0), squares + (values**2).sum(0)
    mean = total / len(images)
    variance = (squares / len(images) - mean**2).clamp(min=0)
    return _statistics(mean.flatten(), variance.flatten())


def _statistics(mean: Tensor, variance: Tensor) -> Statistics:
    std = variance.sqrt()
    # What never changes is only shifted.
    std[std == 0] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
