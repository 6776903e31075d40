"""What a number of lost and gained images allows one to claim."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Claim = Literal["pass", "fail", "inconclusive"]

# Below this number of flips the normal approximation of the paired difference is too coarse.
SCORE_INTERVAL_BELOW = 25
POWER = 0.8


def wilson_interval(correct: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Enclose an accuracy between two shares of 1, two-sided.

    Raises
    ------
    ValueError
        If there are no images, or `correct` is not one of ``0 ... images``.

    References
    ----------
    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    if images < 1 or not 0 <= correct <= images:
        raise ValueError(f"{correct} of {images} images is no accuracy")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _wilson_lower(correct, images, z), 1 - _wilson_lower(images - correct, images, z)


def _wilson_lower(correct: int, images: int, z: float) -> float:
    """Give the lower end; for the wrong images, it gives what the upper end lacks to 1."""
    half_width = z * math.sqrt(correct * (images - correct) / images + z * z / 4)
    return (correct + z * z / 2 - half_width) / (images + z * z)


@dataclass(frozen=True)
class PairedComparison:
    """One candidate against its baseline on the same images; shares are of 1, not percent.

    Parameters
    ----------
    images, lost, gained
        Images of the split; right before and wrong after; wrong before and right after.
    drop
        Loss of accuracy, ``(lost - gained) / images``.
    standard_error
        Paired standard error of `drop`.
    mcnemar_p
        Exact one-sided probability of as many losses among the flips, were both networks equally good.
    verdict
        Whether the true drop is at most the margin: ``pass``, ``fail`` or ``inconclusive``.
    bound
        Upper one-sided confidence bound of the true drop; ``pass`` means that it is within the margin.
    minimum_detectable_drop
        Smallest true drop that this many flips would show with a power of 80 %.
    """

    images: int
    lost: int
    gained: int
    drop: float
    standard_error: float
    mcnemar_p: float
    verdict: Claim
    bound: float
    minimum_detectable_drop: float


def compare_paired(*, lost: int, gained: int, images: int, margin: float, confidence: float = 0.95) -> PairedComparison:
    """Test whether a candidate is at most `margin` worse than its baseline.

    Parameters
    ----------
    lost, gained, images
        Counts over the images of one split.
    margin
        Accepted drop as a share of the images, T / n.
    confidence
        Of each one-sided bound.

    Raises
    ------
    ValueError
        If there are no images, or the counts do not fit into them.

    Notes
    -----
    Bounds are Tango's score bounds below 25 flips and Wald's from there on. The two forms differ, so that
    with three gains or fewer the bounds step down by up to 0.4 images as the 25th flip is lost.

    References
    ----------
    Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", 1998.
    """
    if images < 1 or min(lost, gained) < 0 or lost + gained > images:
        raise ValueError(f"{lost} lost and {gained} gained do not fit into {images} images")
    z = NormalDist().inv_cdf(confidence)
    bound = _upper_bound(lost, gained, images, z)
    lower_bound = -_upper_bound(gained, lost, images, z)
    return PairedComparison(
        images=images,
        lost=lost,
        gained=gained,
        drop=(lost - gained) / images,
        standard_error=_standard_error(lost, gained, images),
        mcnemar_p=_mcnemar_p(lost, lost + gained),
        verdict="pass" if bound <= margin else "fail" if lower_bound > margin else "inconclusive",
        bound=bound,
        minimum_detectable_drop=(z + NormalDist().inv_cdf(POWER)) * math.sqrt(lost + gained) / images,
    )


def _standard_error(lost: int, gained: int, images: int) -> float:
    """Give the standard error of a paired difference of two shares."""
    return math.sqrt(lost + gained - (lost - gained) ** 2 / images) / images


def _mcnemar_p(lost: int, flips: int) -> float:
    """Sum the upper tail of a fair binomial in whole numbers."""
    ways = 1
    tail = 0
    # Ways to choose the gained flips, from none upwards: the tail from `flips` losses down to `lost`.
    for gained in range(flips - lost + 1):
        tail += ways
        ways = ways * (flips - gained) // (gained + 1)
    return tail / (1 << flips)


def _upper_bound(lost: int, gained: int, images: int, z: float) -> float:
    """Bound the true drop from above; mirrored, with lost and gained exchanged, it bounds from below."""
    drop = (lost - gained) / images
    if lost + gained >= SCORE_INTERVAL_BELOW:
        return drop + z * _standard_error(lost, gained, images)
    low, high = drop, 1.0
    for _ in range(60):  # the interval shrinks to the resolution of a float
        middle = (low + high) / 2
        if _score_rejects(middle, lost, gained, images, z):
            high = middle
        else:
            low = middle
    return high


def _score_rejects(drop: float, lost: int, gained: int, images: int, z: float) -> bool:
    """Tell whether Tango's score test rejects a hypothetical true drop.

    The variance holds the likeliest share of gained images under that drop, the larger root of
    ``2n q^2 + B q + C = 0`` with B and C as below.
    """
    b = (2 * images - lost + gained) * drop - lost - gained
    c = -gained * drop * (1 - drop)
    share_gained = (math.sqrt(max(0.0, b * b - 8 * images * c)) - b) / (4 * images)
    variance = images * (2 * share_gained + drop * (1 - drop))
    # Compared as squares: at a drop of 1 both sides may be 0.
    return (images * drop - (lost - gained)) ** 2 > z * z * variance
