"""Random changes of training images, a whole batch at a time.

Every augmentation draws its parameters first and then applies them, so that a test can fix the draws. The
draws come from the device of the generator and do not depend on the device of the images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from qcaps.data.images import ImageSet
from qcaps.data.preparation import cropped, scaled, standardised
from qcaps.data.resample import lanczos3_matrix
from qcaps.errors import UsageError
from qcaps.registry import AUGMENTATIONS

Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """A random change of training images.

    Parameters
    ----------
    change
        Images and the source of all draws → changed images, perhaps smaller.
    standardised
        Whether it changes standardised values, and not pixels in [0, 1].
    """

    change: Change
    standardised: bool = False


_SIZE = 28
_WIDEST_SQUISH = 7
_PATCH = 4
_FIRST_PATCH, _LAST_PATCH = 4, 22
_MAX_SHIFT = 2
_FLIP_PROBABILITY = 0.2


def augmentation(name: str) -> Augmentation:
    """Find an augmentation by its registry name.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    return cast(Augmentation, AUGMENTATIONS.load(name))


def augmented(images: ImageSet, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Prepare training images as `ImageSet.prepared` does, with a random change on the way.

    Resized and divided, then changed and standardised or the other way round, and of what is still larger than the
    network takes the centre: a change that cuts out the right size leaves nothing for that.

    Parameters
    ----------
    images
        A batch.
    augmentation
        The change.
    generator
        Source of all draws.

    Returns
    -------
    Tensor
        float32, shape ``(n, channels, height, width)``.
    """
    preparation = images.preparation
    values = scaled(images.pixels, preparation)
    if augmentation.standardised:
        values = augmentation.change(standardised(values, preparation), generator)
    else:
        values = standardised(augmentation.change(values, generator), preparation)
    return cropped(values, preparation)


def _unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give the images back as they are."""
    return images


def shift_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift every image by -2 to 2 pixels per axis, with zeros moving in.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    generator
        Source of all draws.
    """
    return shift(images, _draw_integers((len(images), 2), -_MAX_SHIFT, _MAX_SHIFT, generator).to(images.device))


def shift_flip_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift as `shift_augmentation` does, then mirror left and right with probability 0.2.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    generator
        Source of all draws.
    """
    shifted = shift_augmentation(images, generator)
    mirrored = (_draw_uniform((len(images),), generator) < _FLIP_PROBABILITY).to(images.device)
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)


def efficient_capsnet_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
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
    draws = draw_efficient_capsnet(len(images), generator, images.device)
    return apply_efficient_capsnet(images, draws)


@dataclass(frozen=True, eq=False)
class EfficientCapsNetDraws:
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


def draw_efficient_capsnet(count: int, generator: torch.Generator, device: torch.device) -> EfficientCapsNetDraws:
    """Draw the random numbers for `count` images, and bring them to `device`."""
    rotated = _draw_uniform((count,), generator) < 0.5
    angles = (30 * _draw_normal((count,), generator)).long() * rotated
    shift_shares = _draw_normal((count, 2), generator).abs()
    shift_up = _draw_uniform((count, 2), generator) < 0.5
    squish_widths = (_WIDEST_SQUISH * _draw_normal((count,), generator).abs() + 1).floor().long()
    squish_offsets = (2 * _draw_normal((count,), generator).abs()).floor().long()
    patches = _draw_integers((count, 2), _FIRST_PATCH, _LAST_PATCH, generator)
    drawn = (angles, shift_shares, shift_up, squish_widths, squish_offsets, patches)
    return EfficientCapsNetDraws(*(numbers.to(device) for numbers in drawn))


def apply_efficient_capsnet(images: Tensor, draws: EfficientCapsNetDraws) -> Tensor:
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


def shift(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images by whole pixels, with zeros moving in.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    amounts
        Rows down and columns to the right, shape ``(n, 2)``.
    """
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    down = rows[:, None] - rows[None, :] == amounts[:, 0, None, None]  # (n, to, from)
    right = columns[None, :] - columns[:, None] == amounts[:, 1, None, None]  # (n, from, to)
    return down[:, None].to(images.dtype) @ images @ right[:, None].to(images.dtype)


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


def _draw_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution of mean 0 and standard deviation 0.33, clipped below 1."""
    return (0.33 * torch.randn(shape, generator=generator, device=generator.device)).clamp(-0.9999, 0.9999)


def _draw_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw uniformly from [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _draw_integers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Tensor:
    """Draw integers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


NO_AUGMENTATION = Augmentation(_unchanged)
EFFICIENT_CAPSNET = Augmentation(efficient_capsnet_augmentation)
SHIFT = Augmentation(shift_augmentation)
SHIFT_FLIP = Augmentation(shift_flip_augmentation)
