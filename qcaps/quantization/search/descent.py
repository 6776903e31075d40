"""The way down a front: the cheapest point that passes, with as few passes as possible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

# Factor between the damages of successive tests. A rejection takes a few images, so the steps are small; they grow when
# many of them lead nowhere.
STEP, LARGEST_STEP, SMALL_STEPS = 1.2, 8.0, 20
# Two points are as good as one where their costs differ by less than this share.
SAME_COST = 0.01


def cheapest_passing(
    test: Callable[[int], bool], costs: Sequence[float], scores: Sequence[float], *, start: int, beside: int
) -> int | None:
    """Find the cheapest point that passes, taking points of less damage to pass wherever one of more does.

    Parameters
    ----------
    test
        Tells whether a point passes. A rejection is cheap, a pass is not: so the way leads up from the cheap end, and
        ends a small step behind the first pass.
    costs, scores
        Of all points: costs ascend, damages descend.
    start
        Where to begin; better too cheap than too dear.
    beside
        How many cheaper points to try in the end, since accuracy is not monotone in single images.

    Returns
    -------
    int | None
        The point, or None if even the dearest fails.
    """
    if not costs:
        return None
    failing, passing, step = -1, len(costs), STEP
    point = start
    tested: set[int] = set()
    for number in itertools.count(1):
        tested.add(point)
        if test(point):
            passing = point
        else:
            failing = point
        if failing == len(costs) - 1:
            return None
        if passing < len(costs) and (passing - failing == 1 or _near(costs, scores, failing, passing)):
            break
        point = _next(scores, failing, passing, step)
        step = STEP if number < SMALL_STEPS else min(step**2, LARGEST_STEP)
    found = _beside(test, costs, [p for p in range(failing) if p not in tested], costs[failing], beside)
    return passing if found is None else found


def _next(scores: Sequence[float], failing: int, passing: int, step: float) -> int:
    """Choose the next test by damage: further on, further back, or between."""
    if passing == len(scores):
        damage = scores[failing] / step
    elif failing < 0:
        damage = scores[passing] * LARGEST_STEP
    else:
        damage = math.sqrt(scores[failing] * scores[passing])
    last = min(passing, len(scores)) - 1
    return next((p for p in range(failing + 1, last) if scores[p] <= damage), last)


def _near(costs: Sequence[float], scores: Sequence[float], failing: int, passing: int) -> bool:
    """Tell whether nothing worth a pass lies between two points."""
    if failing < 0:
        return False
    return scores[failing] <= STEP * scores[passing] or costs[passing] - costs[failing] <= SAME_COST * costs[passing]


def _beside(
    test: Callable[[int], bool], costs: Sequence[float], untested: Sequence[int], bound: float, beside: int
) -> int | None:
    """Try so many points below a cost, each a step cheaper than the one before; the cheapest that passes wins."""
    best = None
    for point in reversed(untested):
        if beside and costs[point] <= (1 - SAME_COST) * bound:
            bound, beside = costs[point], beside - 1
            best = point if test(point) else best
    return best
