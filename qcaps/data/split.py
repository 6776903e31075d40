"""The honest split: images are held out by class, with a seed, from wherever they lie in the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcaps.errors import UsageError


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Two disjoint sets of positions that together cover all images.

    Parameters
    ----------
    taken
        Positions held out, ascending, int64, shape ``(classes * per_class,)``.
    left
        All other positions, ascending, int64.
    """

    taken: Tensor
    left: Tensor


def hold_out_group(groups: Tensor, group: int) -> HeldOut:
    """Hold out all images of one group, int64, shape ``(n,)``, so that no object is on both sides."""
    taken = groups == group
    return HeldOut(taken=taken.nonzero().flatten(), left=(~taken).nonzero().flatten())


def evenly(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw images evenly by class, with a seed.

    Every class is permuted in turn, as `hold_out` does; then the first images of all classes are taken, the second
    ones and so on. So the numbers of two classes differ by one at most, unless a class has no more images, and a
    larger draw with the same seed holds the smaller one.

    Parameters
    ----------
    labels
        Class of every image, int64, shape ``(n,)``.
    count
        Images to draw; all are taken if there are no more.
    seed
        Seed of the generator.

    Returns
    -------
    Tensor
        Positions, ascending, int64, shape ``(min(count, n),)``.
    """
    generator = np.random.default_rng(seed)
    classes = labels.numpy()
    turns = np.empty(len(classes), dtype=np.int64)
    for label in np.unique(classes):
        positions = np.flatnonzero(classes == label)
        turns[generator.permutation(positions)] = np.arange(len(positions))
    return torch.from_numpy(np.sort(np.lexsort((classes, turns))[:count]))


def hold_out(labels: Tensor, per_class: int, seed: int) -> HeldOut:
    """Hold out the same number of images of every class, drawn with a seed.

    For each class in ascending order its positions are permuted by ``numpy.random.default_rng(seed)``, and
    the first `per_class` are taken. Nothing depends on how the classes are ordered in the file.

    Parameters
    ----------
    labels
        Class of every image, int64, shape ``(n,)``.
    per_class
        Images taken from every class.
    seed
        Seed of the generator that draws for all classes in turn.

    Raises
    ------
    UsageError
        If a class would be left without an image.
    """
    generator = np.random.default_rng(seed)
    classes = labels.numpy()
    is_taken = np.zeros(len(classes), dtype=bool)
    for label in np.unique(classes):
        positions = np.flatnonzero(classes == label)
        if per_class >= len(positions):
            raise UsageError(
                f"cannot hold out {per_class} images per class: class {label} has only {len(positions)}",
                do="hold out fewer",
            )
        is_taken[generator.permutation(positions)[:per_class]] = True
    return HeldOut(taken=torch.from_numpy(np.flatnonzero(is_taken)), left=torch.from_numpy(np.flatnonzero(~is_taken)))
