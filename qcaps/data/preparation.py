"""How 8-bit images become the numbers that a network sees."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DIVISORS = (255, 256)
_LARGEST_SIDE = 1024


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a data set, training images or not: plain numbers for file headers.

    Parameters
    ----------
    divisor
        8-bit pixels are divided by this number, 255 or 256.
    resize
        Height and width after a bilinear resize with half-pixel centres; None keeps the size.
    resize_rounds
        Whether the 8-bit image is resized, widening the filter to shrink it, and rounded, as Pillow and torchvision
        do; otherwise the divided one, without antialiasing, as TensorFlow does.
    mean, std
        Then the mean is subtracted and the deviation divided by: one number for all channels, one a channel, or one
        a value of the resized image, channel by channel and row by row.
    test_mean, test_std
        The same for test images, where they are standardised by statistics of their own; empty where they are not.
    crop
        Height and width of the centre that a network sees in the end; None for all.
    """

    divisor: int = 255
    resize: tuple[int, int] | None = None
    resize_rounds: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    test_mean: tuple[float, ...] = ()
    test_std: tuple[float, ...] = ()
    crop: tuple[int, int] | None = None

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Give height and width of an image after preparation."""
        return self.crop or self.resize or (height, width)

    def of(self, *, test: bool) -> Preparation:
        """Give the preparation of test images or of all others: with their statistics alone."""
        mean, std = (self.test_mean, self.test_std) if test and self.test_mean else (self.mean, self.std)
        return dataclasses.replace(self, mean=mean, std=std, test_mean=(), test_std=())

    def misfit(self, channels: int, height: int, width: int) -> str:
        """Say what is wrong with these numbers for images of this size, or nothing.

        Types are checked as well: the numbers may have come out of a file.
        """
        if type(self.divisor) is not int or self.divisor not in DIVISORS:
            return "pixels are divided by 255 or 256"
        if not all(pair is None or _is_size(pair) for pair in (self.resize, self.crop)):
            return f"sizes are a height and a width from 1 to {_LARGEST_SIDE}"
        if type(self.resize_rounds) is not bool:
            return "resize_rounds is true or false"
        height, width = self.resize or (height, width)
        if self.crop is not None and (self.crop[0] > height or self.crop[1] > width):
            return f"the crop is larger than images of {height}x{width}"
        # A random crop would not know which of the statistics of single values are its own.
        counts = (1, channels, channels * height * width)[: 2 if self.crop else 3]
        if not _are_statistics(self.mean, self.std, counts):
            return "mean and std are a finite number and a positive one for all channels, or for each"
        if not (self.test_mean == self.test_std == ()) and not _are_statistics(self.test_mean, self.test_std, counts):
            return "test_mean and test_std are as mean and std, or empty"
        return ""


PLAIN = Preparation()


def prepare(pixels: Tensor, preparation: Preparation) -> Tensor:
    """Turn 8-bit images into float32 of the shape that a network takes.

    Parameters
    ----------
    pixels
        uint8, shape ``(n, channels, height, width)``.
    preparation
        What is done to them; its statistics of test images are not looked at.
    """
    return cropped(standardised(scaled(pixels, preparation), preparation), preparation)


def scaled(pixels: Tensor, preparation: Preparation) -> Tensor:
    """Resize 8-bit images and divide them, to float32 in [0, 1]; the first step of `prepare`."""
    size = preparation.resize
    if size is not None and preparation.resize_rounds:
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    values = pixels.to(torch.float32) / preparation.divisor
    if size is not None and not preparation.resize_rounds:
        values = functional.interpolate(values, size, mode="bilinear")
    return values


def standardised(values: Tensor, preparation: Preparation) -> Tensor:
    """Subtract the mean and divide by the deviation; the second step of `prepare`."""
    if preparation.mean == PLAIN.mean and preparation.std == PLAIN.std:
        return values
    return (values - _spread(preparation.mean, values)) / _spread(preparation.std, values)


def cropped(values: Tensor, preparation: Preparation) -> Tensor:
    """Cut the centre out of images that are larger than a network takes; the last step of `prepare`."""
    height, width = preparation.crop or values.shape[2:]
    top, left = (values.shape[2] - height) // 2, (values.shape[3] - width) // 2
    return values[:, :, top : top + height, left : left + width]


def restored(values: Tensor, preparation: Preparation) -> Tensor:
    """Turn what a network sees, or what a decoder draws of it, back into 8-bit pixels of the size it has.

    Parameters
    ----------
    values
        Shape ``(n, channels, height, width)``; beyond what pixels can be they are clamped.
    preparation
        What was done to the images; resizing and cropping are not undone.
    """
    divided = values * _spread(preparation.std, values) + _spread(preparation.mean, values)
    return (divided * preparation.divisor).round().clamp(0, 255).to(torch.uint8)


def _spread(numbers: tuple[float, ...], values: Tensor) -> Tensor:
    """Shape statistics so that they broadcast over images."""
    per_value = len(numbers) > values.shape[1]
    return torch.tensor(numbers, device=values.device).view(1, *(values.shape[1:] if per_value else (-1, 1, 1)))


def _is_size(pair: object) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    return all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in pair)


def _are_statistics(mean: object, std: object, counts: tuple[int, ...]) -> bool:
    if not isinstance(mean, tuple) or not isinstance(std, tuple) or not len(mean) == len(std) in counts:
        return False
    return all(type(number) is float and math.isfinite(number) for number in (*mean, *std)) and bool(min(std) > 0)
