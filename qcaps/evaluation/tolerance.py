"""How many images a candidate may lose, in exact arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from qcaps.errors import UsageError, quoted

ToleranceKind = Literal["relative", "absolute"]


@dataclass(frozen=True)
class Tolerance:
    """The loss of accuracy that the user accepts.

    Parameters
    ----------
    percent
        From 0 to 100, with at most 20 decimals.
    kind
        ``relative``: percent of the accuracy of the float network. ``absolute``: points of accuracy.

    Raises
    ------
    UsageError
        If `percent` is outside its range.
    """

    percent: Decimal
    kind: ToleranceKind = "relative"

    def __post_init__(self) -> None:
        """Refuse a percentage that means nothing, or whose exact fraction would fill the memory."""
        if not (self.percent.is_finite() and 0 <= self.percent <= 100 and _is_short(self.percent)):
            raise UsageError(
                f"accuracy tolerance {quoted(self.percent)} is out of range",
                do="give percent from 0 to 100 with at most 20 decimals",
            )

    def allowance(self, *, correct: int, images: int) -> Fraction:
        """Turn the tolerance into images.

        Parameters
        ----------
        correct
            Images that the float network gets right.
        images
            Images in the split.

        Returns
        -------
        Fraction
            T in images, exact and mostly not whole.
        """
        base = correct if self.kind == "relative" else images
        return base * Fraction(self.percent) / 100

    def allowed_losses(self, *, correct: int, images: int, seeds: int = 1) -> int:
        """Give K, the largest ``lost - gained`` that passes, summed over `seeds` runs of every image."""
        return math.floor(seeds * self.allowance(correct=correct, images=images))


def search_allowance(tolerance: Tolerance, *, correct: int, images: int, margin_pct: int = 10, seeds: int = 1) -> int:
    """Give the net losses a search may spend: K less a margin of `margin_pct` percent of K, rounded down.

    The margin keeps the report split from failing by a coin toss.
    """
    allowed = tolerance.allowed_losses(correct=correct, images=images, seeds=seeds)
    return allowed * (100 - margin_pct) // 100


@dataclass(frozen=True)
class Verdict:
    """What the change of network did to the images of one split; `passed` is ``lost - gained <= allowed``."""

    lost: int
    gained: int
    allowed: int
    images: int
    passed: bool


def judge(baseline_correct: Tensor, candidate_correct: Tensor, allowed: int) -> Verdict:
    """Compare a candidate with its baseline, image by image.

    Parameters
    ----------
    baseline_correct, candidate_correct
        Whether each image is predicted right, bool, shape ``(images,)``, in the same order.
    allowed
        Largest net loss that passes.

    Raises
    ------
    ValueError
        If a tensor is not bool, or the shapes differ.
    """
    if baseline_correct.dtype != torch.bool or candidate_correct.dtype != torch.bool:
        raise ValueError("right or wrong must be bool")
    if baseline_correct.shape != candidate_correct.shape:
        raise ValueError(f"{len(baseline_correct)} and {len(candidate_correct)} images cannot be paired")
    lost = int((baseline_correct & ~candidate_correct).sum())
    gained = int((candidate_correct & ~baseline_correct).sum())
    return Verdict(lost, gained, allowed, baseline_correct.numel(), passed=lost - gained <= allowed)


def _is_short(percent: Decimal) -> bool:
    """Tell whether the exact fraction of a finite number has few digits."""
    exponent = percent.as_tuple().exponent
    return isinstance(exponent, int) and abs(exponent) <= 20
