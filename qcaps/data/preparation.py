"""How 8-bit images become the numbers that a network sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preparation:
    """What is done to every image of a data set, training images or not.

    Parameters
    ----------
    divisor
        8-bit pixels are divided by this number.
    """

    divisor: int = 255


PLAIN = Preparation()


def prepare(pixels: Tensor, preparation: Preparation) -> Tensor:
    """Turn 8-bit images into float32 of the shape that a network takes.

    Parameters
    ----------
    pixels
        uint8, shape ``(n, channels, height, width)``.
    preparation
        What is done to them.
    """
    return pixels.to(torch.float32) / preparation.divisor
