"""The default search: sensitivity, the exact Pareto front, and the cheapest point of it that keeps the accuracy."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable

import numpy as np

from qcaps.quantization.search.descent import cheapest_passing
from qcaps.quantization.search.exchanges import exchange
from qcaps.quantization.search.front import Front
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.sensitivity import measure_sensitivity, predicted_losses
from qcaps.quantization.search.task import Found, Task, conclude

# The first point tested is predicted to lose so many times what is allowed, and one image more.
FIRST_GUESS = 4.0
# Of what is allowed a plan may be predicted to lose so much. Of many plans that lose about what is allowed some pass by
# luck, and then fail on other images; the prediction has no part in that luck. From so many losses on luck weighs less
# and the prediction is too dark, so that the share grows in proportion.
TRUSTED, WEIGHTY_LOSSES = 0.75, 10
# Below so many losses a single image weighs much: cheaper points are tried beside the cheapest that passed.
FEW_LOSSES, BESIDE = 6, 4
LARGEST_DAMAGE = 1e12


def search_pareto(task: Task) -> Found:
    """Find the plan with the smallest objective within the tolerance and the budgets.

    Raises
    ------
    Halt
        If the search has to end; the best plan so far stands in the task.

    Notes
    -----
    All weights and arrays compete on one front: a byte of activations counts as `activation_weight` bytes of weights,
    and damages add up. Budgets do not change the result that they let through. Where the smallest plan found exceeds
    one, that budget is filled with the least damage, and only the other resource is made small.
    """
    groups = task.groups
    widths = {group.name: tuple(task.widths[group.sites[0]]) for group in groups}
    scores = measure_sensitivity(task.bench, task.baseline, task.subject, groups, widths)
    prices = Prices(task.subject, groups, widths, scores)
    joint = prices.front(groups, task.activation_weight)
    most = most_damage(task)
    way = functools.partial(_descend, task, joint, None, prices.spread, "front", most)
    _approach(task, prices, way, most)
    if task.promising and task.fits(min(task.promising, key=task.objective)):
        _settle(task, way)
    fullest = _fill(task, prices)
    if task.best is None:  # what was only promising is the smallest that keeps the accuracy
        _settle(task, way)
    dearest = prices.spread(joint.choice(len(joint) - 1))
    return conclude(task, memory=fullest, accuracy=task.smallest or dearest, scores=scores)


def most_damage(task: Task) -> float:
    """Give the damage of a plan that is predicted to lose as much as is trusted to hold on other images."""
    allowed = float(task.allowance) / len(task.subject.seeds)
    allowed *= TRUSTED * max(1, allowed / WEIGHTY_LOSSES)
    low, high = 0.0, 1.0
    while predicted_losses(task.baseline, high) < allowed and high < LARGEST_DAMAGE:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted_losses(task.baseline, middle) <= allowed else (low, middle)
    return low


def _approach(
    task: Task, prices: Prices, way: Callable[[bool], Widths | None], most: float, *, within_budgets: bool = False
) -> None:
    """Descend and exchange by likely verdicts."""
    start = way(True)
    if start is not None:
        exchange(task, prices, start, most_damage=most, within_budgets=within_budgets)


def _settle(task: Task, way: Callable[[bool], Widths | None], *, within_budgets: bool = False) -> None:
    """Make certain what is promising; where all of it was wrong, descend by certain verdicts."""
    any_promise = bool(task.promising)
    task.make_certain(within_budgets=within_budgets)
    if any_promise and (task.best if within_budgets else task.smallest) is None:
        way(False)


def _fill(task: Task, prices: Prices) -> Widths:
    """Take the plan of least damage within the budgets; if nothing satisfies yet, make it as small as it passes."""
    weights = prices.front([group for group in prices.groups if group.is_weight], 1.0)
    arrays = prices.front([group for group in prices.groups if not group.is_weight], 1.0)
    least_weights, least_arrays = weights.choice(0), arrays.choice(0)
    small = _fitting(weights, lambda own: task.fits(prices.spread(own | least_arrays)))
    light = _fitting(arrays, lambda own: task.fits(prices.spread(own | least_weights)))
    fixed_weights, fixed_arrays = weights.choice(small[-1] if small else 0), arrays.choice(light[-1] if light else 0)

    def of_arrays(most: float, steering: bool) -> Widths | None:
        return _descend(task, arrays, light, lambda own: prices.spread(fixed_weights | own), "arrays", most, steering)

    def of_weights(most: float, steering: bool) -> Widths | None:
        return _descend(task, weights, small, lambda own: prices.spread(fixed_arrays | own), "weights", most, steering)

    of_limited = of_arrays if task.limits.budget_bytes is not None else of_weights
    limited = task.limits.budget_bytes is not None or task.limits.activation_budget is not None
    for most in (most_damage(task), math.inf):  # where a budget binds, a plan that passes by luck is better than none
        if limited and task.best is None:
            way = functools.partial(of_limited, most)
            _approach(task, prices, way, most, within_budgets=True)
            _settle(task, way, within_budgets=True)
    return prices.spread(fixed_weights | fixed_arrays)


def _fitting(front: Front, fits: Callable[[dict[str, int]], bool]) -> list[int]:
    """List the points that are within the budgets; the costlier a point the larger it is."""
    last = bisect.bisect_left(range(len(front)), True, key=lambda point: not fits(front.choice(point)))
    return list(range(last))


def _descend(
    task: Task,
    front: Front,
    points: list[int] | None,
    spread: Callable[[dict[str, int]], Widths],
    phase: str,
    most: float,
    steering: bool,
) -> Widths | None:
    """Find the cheapest of some points of a front, or of all, that keeps the accuracy; give its widths."""
    points = list(range(len(front))) if points is None else points
    if not points:
        return None
    points = [point for point in points if front.scores[point] <= most] or points[-1:]
    scores = front.scores[points]
    bound = FIRST_GUESS * (task.allowed / len(task.subject.seeds)) + 1
    low, high = 0, len(points) - 1  # the first point that is predicted to lose at most the bound
    while low < high:
        middle = (low + high) // 2
        if predicted_losses(task.baseline, float(scores[middle])) <= bound:
            high = middle
        else:
            low = middle + 1

    def test(place: int) -> bool:
        widths = spread(front.choice(points[place]))
        return task.judge(widths, phase, score=float(scores[place]), steering=steering)

    beside = BESIDE if task.allowance / len(task.subject.seeds) < FEW_LOSSES else 0
    costs = (np.asarray(front.costs[points]) + 1).tolist()
    found = cheapest_passing(test, costs, scores.tolist(), start=low, beside=beside)
    return None if found is None else spread(front.choice(points[found]))
