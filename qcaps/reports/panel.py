"""Images and their reconstructions as one picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor

PER_LINE, GAP, SMALLEST_SIDE = 10, 2, 56
WHITE = 255


def panel_png(images: Tensor, reconstructions: Tensor) -> bytes:
    """Draw lines of ten images, every line with its reconstructions below.

    Parameters
    ----------
    images, reconstructions
        Shape ``(n, channels, height, width)`` each. What is black and white in the images is so in both. Three channels
        are colours; other numbers of them, two eyes for example, are shown side by side in grey.

    Returns
    -------
    bytes
        A PNG, the same for the same numbers.
    """
    low, high = float(images.min()), float(images.max())
    lines = []
    for start in range(0, len(images), PER_LINE):
        for each in (images, reconstructions):
            scaled = (each[start : start + PER_LINE] - low) / max(high - low, 1e-12)
            lines.append(_line([_picture(one) for one in scaled.clamp(0, 1)]))
    widest = max(line.shape[1] for line in lines)
    padded = [np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0)), constant_values=WHITE) for line in lines]
    picture = Image.fromarray(np.concatenate(padded))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _picture(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Turn one image into colours, large enough to be looked at: shape ``(height, width, 3)``."""
    levels = (image * WHITE).round().byte().numpy()
    beside = levels if len(levels) == 3 else np.concatenate(list(levels), axis=1)[None].repeat(3, axis=0)
    times = -(-SMALLEST_SIDE // image.shape[1])
    return beside.transpose(1, 2, 0).repeat(times, axis=0).repeat(times, axis=1)


def _line(
    pictures: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Put pictures side by side, each with a white border to the right and below."""
    framed = [np.pad(one, ((0, GAP), (0, GAP), (0, 0)), constant_values=WHITE) for one in pictures]
    return np.concatenate(framed, axis=1)
