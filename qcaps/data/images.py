"""Labelled 8-bit images in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from qcaps.data.decoded_cache import Decoded
from qcaps.data.preparation import PLAIN, Preparation, prepare

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some labelled images of one data set.

    Parameters
    ----------
    dataset
        Registry name of the data set.
    split
        The part of the data set that the images belong to.
    pixels
        8-bit images, uint8, shape ``(n, channels, height, width)``.
    labels
        Class of every image, int64, shape ``(n,)``.
    indices
        Place of every image in its source, int64, shape ``(n,)``: the training file for ``train`` and
        ``validation``, the test file for ``test``.
    class_names
        Name of every class, by label.
    preparation
        How they become what a network sees.
    note
        What is to be said beside every result on these images, for example ``JPEG q75``.
    groups
        The object that every image shows, int64, shape ``(n,)``, where several images show the same one.
    """

    dataset: str
    split: Split
    pixels: Tensor
    labels: Tensor
    indices: Tensor
    class_names: tuple[str, ...]
    preparation: Preparation = PLAIN
    note: str = ""
    groups: Tensor | None = None

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def subset(self, positions: Tensor) -> ImageSet:
        """Pick images by their position in this set, int64, shape ``(m,)``, in that order."""
        return replace(
            self,
            pixels=self.pixels[positions],
            labels=self.labels[positions],
            indices=self.indices[positions],
            groups=None if self.groups is None else self.groups[positions],
        )

    def prepared(self) -> Tensor:
        """Give the images as a network sees them, float32, shape ``(n, channels, height, width)``."""
        return prepare(self.pixels, self.preparation)

    def sha256(self) -> str:
        """Identify pixels, labels, indices, their order and preparation by 64 hexadecimal digits."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.preparation)).encode())
        digest.update(np.ascontiguousarray(self.pixels.numpy()).data)
        for numbers in (self.labels, self.indices):
            digest.update(np.ascontiguousarray(numbers.numpy(), dtype="<i8").data)
        return digest.hexdigest()


def image_set(dataset: str, part: Split, decoded: Decoded, class_names: tuple[str, ...]) -> ImageSet:
    """Make a set of the decoded images of one part, in their order."""
    return ImageSet(
        dataset,
        part,
        torch.from_numpy(decoded.pixels),
        torch.from_numpy(decoded.labels),
        torch.arange(len(decoded.labels)),
        class_names,
        note=decoded.note,
        groups=None if decoded.groups is None else torch.from_numpy(decoded.groups),
    )
