"""Whether two measures put things into the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEAST = 3


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlate the ranks of two measures of the same things: 1 for the same order, -1 for the opposite one.

    Parameters
    ----------
    first, second
        As many of each; equal values share their mean rank.

    Returns
    -------
    float or None
        None where there is no order to compare: fewer than three things, or a measure that tells none apart.

    References
    ----------
    Spearman, "The Proof and Measurement of Association between Two Things", 1904.
    """
    if len(first) < LEAST:
        return None
    one, other = (_ranks(np.array(measure, np.float64)) for measure in (first, second))
    spread = float(one.std() * other.std())
    return float((one * other).mean()) / spread if spread else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank values around 0, equal ones at the mean of their ranks."""
    found: NDArray[np.float64] = np.sign(values[:, None] - values).sum(1) / 2
    return found
