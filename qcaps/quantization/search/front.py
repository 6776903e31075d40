"""The exact Pareto front of a bit-width problem: every group takes one width, costs and scores add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Above this many points costs are rounded up to grains, of which so many make the dearest choice.
MOST_POINTS = 50_000


@dataclass(frozen=True)
class Option:
    """One width of one group: what it costs, and the damage it is predicted to do."""

    bits: int
    cost: int
    score: float


@dataclass(frozen=True, eq=False)
class Front:
    """All nondominated choices, cheapest first.

    Parameters
    ----------
    names
        Of the groups, in order.
    costs, scores
        Shape ``(points,)``; costs ascend, scores descend strictly.
    bits
        Width of every group at every point, shape ``(points, groups)``.
    grain
        Costs were rounded up to multiples of it; 1 is exact.
    """

    names: tuple[str, ...]
    costs: NDArray[np.int64]
    scores: NDArray[np.float64]
    bits: NDArray[np.int16]
    grain: int

    def __len__(self) -> int:
        """Count the points."""
        return len(self.costs)

    def choice(self, point: int) -> dict[str, int]:
        """Give the width of every group at a point."""
        return dict(zip(self.names, self.bits[point].tolist(), strict=True))


def pareto_front(groups: Mapping[str, Sequence[Option]]) -> Front:
    """Find every choice that no other one beats in cost and score.

    Parameters
    ----------
    groups
        Name → at least one option, scores not increasing with the width. Scores are at least 0.

    Notes
    -----
    Group by group, a partial choice that is beaten stays beaten under every continuation, so that it is dropped at
    once.

    References
    ----------
    Multiple-choice knapsack; Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11.
    """
    costs, scores = np.zeros(1, np.int64), np.zeros(1)
    bits = np.zeros((1, 0), np.int16)
    grain = 1
    for options in groups.values():
        ordered = sorted(options, key=lambda option: option.bits)
        widths, own_costs = np.array([o.bits for o in ordered]), np.array([o.cost for o in ordered], np.int64)
        own_scores = np.array([o.score for o in ordered])
        if grain > 1:
            own_costs = -(-own_costs // grain) * grain
        all_costs = np.add.outer(costs, own_costs).ravel()
        all_scores = np.add.outer(scores, own_scores).ravel()
        kept = _nondominated(all_costs, all_scores)
        if len(kept) > MOST_POINTS and grain == 1:
            dearest = sum(max(o.cost for o in of_group) for of_group in groups.values())
            grain = max(1, dearest // MOST_POINTS)
            all_costs = -(-all_costs // grain) * grain
            kept = _nondominated(all_costs, all_scores)
        before, own = np.divmod(kept, len(ordered))
        costs, scores = all_costs[kept], all_scores[kept]
        bits = np.column_stack([bits[before], widths[own].astype(np.int16)])
    return Front(tuple(groups), costs, scores, bits, grain)


def _nondominated(costs: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give the positions of the nondominated pairs, by ascending cost; the first of equal ones."""
    order = np.lexsort((np.arange(len(costs)), scores, costs))
    best = np.minimum.accumulate(scores[order])
    improves = np.concatenate([[True], scores[order][1:] < best[:-1]])
    kept: NDArray[np.int64] = order[improves]
    return kept
