"""Move, cut out, enlarge, mirror and turn images, every one by its own numbers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Swap left and right of the images whose flag is set, bool, shape ``(n,)``."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def shift(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images by whole pixels, with zeros moving in.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    amounts
        Rows down and columns to the right, shape ``(n, 2)``.
    """
    rows, columns = _lines(images)
    return _looked_up(images, rows - amounts[:, :1], columns - amounts[:, 1:])


def slide(images: Tensor, amounts: Tensor) -> Tensor:
    """Move images by fractions of pixels, bilinear, repeating the outermost row or column behind.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    amounts
        Rows down and columns to the right, float, shape ``(n, 2)``.
    """
    height, width = images.shape[2:]
    rows, columns = _lines(images)
    rows, columns = (rows - amounts[:, :1]).clamp(0, height - 1), (columns - amounts[:, 1:]).clamp(0, width - 1)
    return _looked_up(images, rows, columns)


def crop(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cut squares out of images.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    corners
        Upper row and left column, shape ``(n, 2)``.
    size
        Side of the squares, in pixels.

    Returns
    -------
    Tensor
        Shape ``(n, channels, size, size)``.
    """
    line = torch.arange(size, device=images.device)
    return _looked_up(images, corners[:, :1] + line, corners[:, 1:] + line)


def enlarge(images: Tensor, corners: Tensor, sides: Tensor) -> Tensor:
    """Cut squares out of images and resize them to the whole, bilinear with half-pixel centres.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    corners
        Upper row and left column, shape ``(n, 2)``.
    sides
        In pixels, shape ``(n,)``.
    """
    side = sides[:, None]
    rows, columns = (
        start + ((line + 0.5) * (side / len(line)) - 0.5).clamp(min=0).minimum(side - 1)
        for start, line in zip((corners[:, :1], corners[:, 1:]), _lines(images), strict=True)
    )
    return _looked_up(images, rows, columns)


def turn(images: Tensor, degrees: Tensor, shears: Tensor, amounts: Tensor) -> Tensor:
    """Shear, rotate about the centre and move images: every pixel takes the nearest one's value, zeros outside.

    Parameters
    ----------
    images
        Shape ``(n, channels, height, width)``.
    degrees
        Of the rotation, clockwise, shape ``(n,)``.
    shears
        Degrees by which rows move to the left the lower they lie, before the rotation; shape ``(n,)``.
    amounts
        Rows down and columns to the right, after the rotation; shape ``(n, 2)``.
    """
    height, width = images.shape[2:]
    angle, lean = degrees.deg2rad(), shears.deg2rad().tan()
    cos, sin = angle.cos(), angle.sin()
    right = torch.arange(width, device=images.device) - (width - 1) / 2 - amounts[:, 1:]
    down = torch.arange(height, device=images.device) - (height - 1) / 2 - amounts[:, :1]
    # Where a pixel comes from, as an offset from the centre: moved back, turned back, sheared back.
    x = _plane((cos - lean * sin)[:, None] * right, (sin + lean * cos)[:, None] * down)
    y = _plane(-sin[:, None] * right, cos[:, None] * down)
    grid = torch.stack([x * (2 / width), y * (2 / height)], dim=3).to(images.dtype)
    return functional.grid_sample(images, grid, mode="nearest", align_corners=False)


def _plane(by_column: Tensor, by_row: Tensor) -> Tensor:
    """Add numbers of columns, shape ``(n, width)``, and of rows, to shape ``(n, height, width)``."""
    return by_column[:, None, :] + by_row[:, :, None]


def _lines(images: Tensor) -> tuple[Tensor, Tensor]:
    """Give the numbers of all rows, and of all columns."""
    return torch.arange(images.shape[2], device=images.device), torch.arange(images.shape[3], device=images.device)


def _looked_up(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolate images at rows, shape ``(n, to)``, and columns: two products, zeros outside."""
    left, right = (
        (1 - (places[:, :, None] - line).abs()).clamp(min=0).to(images.dtype)
        for places, line in zip((rows, columns), _lines(images), strict=True)
    )  # (n, to, from)
    return left[:, None] @ images @ right[:, None].transpose(2, 3)
