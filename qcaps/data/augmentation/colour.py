"""Brightness and contrast of images, every one by its own numbers."""

from __future__ import annotations

import torch
from torch import Tensor

# Weights of red, green and blue in the grey of a colour, ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def lift(images: Tensor, amounts: Tensor) -> Tensor:
    """Add a number to all values of an image, shape ``(n,)``."""
    return images + amounts[:, None, None, None]


def stretch(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply the distance of all values from the mean of their image and channel, factors of shape ``(n,)``."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * factors[:, None, None, None] + mean


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor, bright_first: Tensor) -> Tensor:
    """Change brightness and contrast, keeping values in [0, 1].

    Parameters
    ----------
    images
        In [0, 1], shape ``(n, channels, height, width)``; three channels are red, green and blue.
    brightness
        Factors of all values, shape ``(n,)``.
    contrast
        Factors of the distance from the mean grey of the image, shape ``(n,)``.
    bright_first
        Whether the brightness is changed first, bool, shape ``(n,)``.
    """
    ones = torch.ones_like(brightness)
    images = _brightened(images, torch.where(bright_first, brightness, ones))
    mean = _grey(images).mean(dim=(2, 3), keepdim=True)
    images = ((images - mean) * contrast[:, None, None, None] + mean).clamp(0, 1)
    return _brightened(images, torch.where(bright_first, ones, brightness))


def _brightened(images: Tensor, factors: Tensor) -> Tensor:
    return (images * factors[:, None, None, None]).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Weigh red, green and blue; average channels that are no colours."""
    if images.shape[1] != len(_LUMA):
        return images.mean(dim=1, keepdim=True)
    return (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
