"""Efficient-CapsNet's augmentation of digits: rotate, shift, squish and erase.

All random numbers are drawn first and then applied, so that a test can fix the draws.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from qcaps.data.augment import Augmentation
from qcaps.data.augmentation.draws import clipped_normal, flags, integers
from qcaps.data.augmentation.geometry import shift
from qcaps.data.resample import lanczos3_matrix
from qcaps.errors import UsageError

_SIZE = 28
_WIDEST_SQUISH = 7
_PATCH = 4
_FIRST_PATCH, _LAST_PATCH = 4, 22


def digits_augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, shift, squish and erase, as Efficient-CapsNet does for MNIST.

    Parameters
    ----------
    images
        float32 in [0, 1], shape ``(n, channels, 28, 28)``.
    generator
        Source of all draws.

    Returns
    -------
    Tensor
        Same shape; the squish can leave values slightly outside [0, 1].

    Raises
    ------
    UsageError
        If the images are not 28x28.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, "Efficient-CapsNet: Capsule Network with Self-Attention Routing", 2021,
    and the source code published with it.
    """
    if images.shape[2:] != (_SIZE, _SIZE):
        height, width = images.shape[2:]
        raise UsageError(f"the augmentation 'efficient-capsnet' needs 28x28 images, not {height}x{width}")
    draws = draw(len(images), generator, images.device)
    return apply(images, draws)


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of one batch of n images.

    Parameters
    ----------
    angles
        Whole degrees counter-clockwise, -29 to 29, shape ``(n,)``; 0 leaves the image untouched.
    shift_shares
        Share of the free margin to move by, rows and columns, in [0, 0.9999], shape ``(n, 2)``.
    shift_up
        Whether to move towards high indices, rows and columns, bool, shape ``(n, 2)``.
    squish_widths
        Columns removed, 1 to 7, shape ``(n,)``.
    squish_offsets
        Columns moved to the right afterwards, 0 or 1, shape ``(n,)``.
    patches
        Upper row and left column of the erased patch, 4 to 22, shape ``(n, 2)``.
    """

    angles: Tensor
    shift_shares: Tensor
    shift_up: Tensor
    squish_widths: Tensor
    squish_offsets: Tensor
    patches: Tensor


def draw(count: int, generator: torch.Generator, device: torch.device) -> Draws:
    """Draw the random numbers for `count` images, and bring them to `device`."""
    rotated = flags((count,), 0.5, generator)
    angles = (30 * clipped_normal((count,), generator)).long() * rotated
    shift_shares = clipped_normal((count, 2), generator).abs()
    shift_up = flags((count, 2), 0.5, generator)
    squish_widths = (_WIDEST_SQUISH * clipped_normal((count,), generator).abs() + 1).floor().long()
    squish_offsets = (2 * clipped_normal((count,), generator).abs()).floor().long()
    patches = integers((count, 2), _FIRST_PATCH, _LAST_PATCH, generator)
    drawn = (angles, shift_shares, shift_up, squish_widths, squish_offsets, patches)
    return Draws(*(numbers.to(device) for numbers in drawn))


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Apply drawn numbers to images of shape ``(n, channels, 28, 28)``."""
    rotated = rotate(images, draws.angles)
    amounts = shift_within_margins(rotated, draws.shift_shares, draws.shift_up)
    squished = squish(shift(rotated, amounts), draws.squish_widths, draws.squish_offsets)
    return erase(squished, draws.patches)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate about pixel (14, 14) of 28, bilinear, with zeros outside.

    Parameters
    ----------
    images
        Square, shape ``(n, channels, size, size)``; the centre is pixel (size/2, size/2).
    angles
        Degrees counter-clockwise, shape ``(n,)``; images with angle 0 stay bit for bit as they are.
    """
    turned = angles.nonzero().squeeze(1)
    if len(turned) == 0:
        return images
    radians = angles[turned] * (math.pi / 180)
    cos, sin = radians.cos(), radians.sin()
    # The grid runs from -1 to 1 between the outermost pixel centres, where pixel size/2 lies at 1/(size - 1).
    centre = 1 / (images.shape[-1] - 1)
    x_row = torch.stack([cos, -sin, centre * (1 - cos + sin)], dim=1)
    y_row = torch.stack([sin, cos, centre * (1 - cos - sin)], dim=1)
    chosen = images[turned]
    grid = functional.affine_grid(torch.stack([x_row, y_row], dim=1), list(chosen.shape), align_corners=True)
    result = images.clone()
    result[turned] = functional.grid_sample(chosen, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return result


def shift_within_margins(images: Tensor, shares: Tensor, up: Tensor) -> Tensor:
    """Turn shares of the free margins into whole pixels that never cut what the image shows.

    Parameters
    ----------
    images
        Non-negative, shape ``(n, channels, height, width)``; a row or column is free while it sums to 0.
    shares
        In [0, 1), rows and columns, shape ``(n, 2)``.
    up
        Whether to move towards high indices, shape ``(n, 2)``.

    Returns
    -------
    Tensor
        Rows and columns to move by, int64, shape ``(n, 2)``: down from a margin m by the share of m rounded
        up, or up by the share of 1 + m rounded down.
    """
    used_rows = images.sum(dim=(1, 3)) > 0  # (n, height)
    used_columns = images.sum(dim=(1, 2)) > 0  # (n, width)
    # The first largest value is the first used line; an empty image has no margin.
    low = torch.stack([used.long().argmax(dim=1) for used in (used_rows, used_columns)], dim=1)
    high = torch.stack([used.flip(1).long().argmax(dim=1) for used in (used_rows, used_columns)], dim=1)
    return torch.where(up, (shares * (1 + high)).floor(), -(shares * low).ceil()).long()


def squish(images: Tensor, widths: Tensor, offsets: Tensor) -> Tensor:
    """Make images narrower with Lanczos, and place them about the middle of zeros.

    Parameters
    ----------
    images
        Shape ``(n, channels, 28, 28)``.
    widths
        Columns removed, w in 1 to 7, shape ``(n,)``.
    offsets
        o, 0 or 1, shape ``(n,)``; the first column lands at ``w // 2 + o``.

    Returns
    -------
    Tensor
        Same shape; values are not clipped.
    """
    matrices = _squish_matrices().to(images)[widths - 1, offsets]  # (n, 28, 28)
    return images @ matrices[:, None]


@functools.cache
def _squish_matrices() -> Tensor:
    """Give the matrix of every width and offset, shape ``(7, 2, 28, 28)``."""
    matrices = torch.zeros(_WIDEST_SQUISH, 2, _SIZE, _SIZE)
    for removed in range(1, _WIDEST_SQUISH + 1):
        for offset in range(2):
            start = removed // 2 + offset
            kept = _SIZE - removed
            matrices[removed - 1, offset, :, start : start + kept] = lanczos3_matrix(_SIZE, kept)
    return matrices


def erase(images: Tensor, patches: Tensor) -> Tensor:
    """Zero a patch of 4x4 pixels whose upper row and left column are given, shape ``(n, 2)``."""
    rows = torch.arange(images.shape[2], device=images.device) - patches[:, :1]  # (n, height)
    columns = torch.arange(images.shape[3], device=images.device) - patches[:, 1:]  # (n, width)
    in_rows = (rows >= 0) & (rows < _PATCH)
    in_columns = (columns >= 0) & (columns < _PATCH)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


EFFICIENT_CAPSNET = Augmentation(digits_augmented)
