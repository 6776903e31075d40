"""The 8x8 handwritten digits that ship inside scikit-learn, enlarged to 28x28; needs no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from qcaps.data.dataset import DataSet, Part
from qcaps.data.images import ImageSet
from qcaps.data.split import hold_out
from qcaps.progress import OnProgress, silent

# The set has no official test part: ours is the same for every split seed, so that it is never trained on.
TEST_PER_CLASS = 36
TEST_SEED = 20_000
_SIZE = 28
_LARGEST_VALUE = 16


def read_digits(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read the training part (1,437 images) or our test part (36 per class, 360 in all) of the digits.

    Indices count the 1,797 images in scikit-learn's order. No other argument is used.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target.astype(np.int64))
    parts = hold_out(labels, TEST_PER_CLASS, TEST_SEED)
    positions = parts.taken if part == "test" else parts.left
    pixels = torch.from_numpy(enlarge(source.images.astype(np.int64)))
    whole = ImageSet("digits", part, pixels.unsqueeze(1), labels, torch.arange(len(labels)), DIGITS.class_names)
    return whole.subset(positions)


def enlarge(images: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Resize 8x8 images of values 0..16 to 28x28 pixels of 8 bits, bilinear with half-pixel centres.

    Parameters
    ----------
    images
        Shape ``(n, 8, 8)``.

    Returns
    -------
    ndarray
        uint8, shape ``(n, 28, 28)``; 16 becomes 255, halves are rounded up.

    Notes
    -----
    Pixel i lies at (i + 1/2)·8/28 - 1/2 = (4i - 5)/14 of the small image, so all weights are fourteenths and
    the result is exact: the same bytes on every machine.
    """
    small = images.shape[-1]
    weights = np.zeros((_SIZE, small), dtype=np.int64)  # in fourteenths
    for i in range(_SIZE):
        low, rest = divmod(4 * i - 5, 14)
        weights[i, max(low, 0)] += 14 - rest
        weights[i, min(low + 1, small - 1)] += rest
    numerator = 255 * (weights @ images @ weights.T)  # (n, 28, 28)
    denominator = _LARGEST_VALUE * 14 * 14
    return ((2 * numerator + denominator) // (2 * denominator)).astype(np.uint8)


DIGITS = DataSet(
    name="digits",
    channels=1,
    height=_SIZE,
    width=_SIZE,
    class_names=tuple("0123456789"),
    validation_per_class=30,
    augmentation="shift",
    read=read_digits,
)
