"""Targets: the share of a cost that a pruned network may keep, and the widths that meet it along a direction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qcaps.errors import InfeasibleError, UsageError
from qcaps.evaluation.cost_model import CostModel
from qcaps.evaluation.formula import Vector
from qcaps.pruning.strategy import Rules

TargetKind = Literal["flops", "params", "latency", "capsules"]
COST_NAMES = {"flops": "MACs", "params": "parameters", "latency": "latency", "capsules": "capsules"}
HALVINGS = 40
# What may be left of every budget, as a share of the full cost, before the search for more ends.
CLOSE = 0.001


@dataclass(frozen=True)
class Target:
    """A cost of which only a share may be kept.

    Parameters
    ----------
    kind
        ``flops``: multiply-accumulates; ``capsules``: those that vote for the classes, which are all primary capsules
        unless a network has several layers of capsules before the classes.
    kept
        Share of what the network costs before it is cut, more than 0 and at most 1.

    Raises
    ------
    UsageError
        If it is not.
    """

    kind: TargetKind
    kept: float

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.kept <= 1:
            raise UsageError(f"{self.kept} is no fraction to keep", where=f"--{self.kind}", do="more than 0, at most 1")


class LatencyFormula(Protocol):
    """What a latency target needs of a table of measured layers."""

    @property
    def full(self) -> float:
        """Give the time before anything is cut."""

    def __call__(self, widths: Vector) -> float:
        """Predict the time of some widths, in the same unit."""


@dataclass(frozen=True)
class Budget:
    """A target with what it limits.

    Parameters
    ----------
    target
        What was asked.
    cost
        Of some widths, never more for fewer units.
    full
        Cost of the network before it is cut.
    units
        Numbers of the units that the cost depends on: those that are cut to meet it.
    """

    target: Target
    cost: Callable[[Vector], float]
    full: float
    units: frozenset[int]

    def share(self, widths: Vector) -> float:
        """Give the share of the cost that some widths keep."""
        return self.cost(widths) / self.full

    def holds(self, widths: Vector) -> bool:
        """Tell whether some widths keep no more than the target."""
        return self.share(widths) <= self.target.kept


def budget(target: Target, model: CostModel, latency: LatencyFormula | None = None) -> Budget:
    """Find the cost that a target limits.

    Parameters
    ----------
    target
        What is asked.
    model
        Of the network before it is cut.
    latency
        Measured layers; needed for a latency target alone.

    Raises
    ------
    UsageError
        If the network has no such cost, or nothing that could be cut would change it.
    """
    if target.kind == "latency":
        if latency is None:
            raise UsageError("a latency target needs measured layers", where="--latency")
        return Budget(target, latency, latency.full, frozenset(range(len(model.units))))
    formula = {"flops": model.macs, "params": model.parameters, "capsules": model.capsules}[target.kind]
    if not formula.units:
        missing = f"this network has no unit that changes its number of {COST_NAMES[target.kind]}"
        raise UsageError(missing, where=f"--{target.kind}")
    return Budget(target, formula, formula(model.vector({})), formula.units)


def cut_names(budgets: Iterable[Budget], model: CostModel) -> tuple[str, ...]:
    """List the units that some budget depends on; the others stay whole."""
    numbers = frozenset[int]().union(*(one.units for one in budgets))
    return tuple(name for number, name in enumerate(model.units) if number in numbers)


def meet(budgets: Sequence[Budget], rules: Rules, direction: NDArray[np.float64]) -> Vector:
    """Find the widest network along a direction that keeps within every budget.

    Parameters
    ----------
    budgets
        All of them hold for the result. A thousandth is left of each at most, unless no single unit more would fit.
    rules
        Of the units.
    direction
        One number above 0 for every unit. The ratios are its multiples, each up to its cap.

    Returns
    -------
    NDArray
        Widths in the order of the units.

    Raises
    ------
    InfeasibleError
        If even the narrowest network costs too much.

    Notes
    -----
    Bisection finds the largest scale that fits. There some unit takes a step, which is large for one of eight
    dimensions: that kind stays as it is, and the others grow on along the direction.
    """
    check_reachable(budgets, rules)
    fits, found = float(1 / direction.min()), rules.narrowest  # the scale at which every unit is at its cap
    limit = rules.widths(np.zeros_like(direction))
    while not _holds(limit, budgets) and any(one.target.kept - one.share(found) > CLOSE for one in budgets):
        exceeds, wider = 0.0, limit
        for _ in range(HALVINGS):
            scale = (fits + exceeds) / 2
            widths = np.minimum(rules.widths(scale * direction), limit)
            if _holds(widths, budgets):
                fits, found = scale, widths
            else:
                exceeds, wider = scale, widths
        held = _costliest(np.flatnonzero(wider > found), wider, found, budgets)
        limit[held] = found[held]
    return limit if _holds(limit, budgets) else found


def _costliest(units: NDArray[np.intp], wider: Vector, found: Vector, budgets: Iterable[Budget]) -> int:
    """Give the unit, of some, whose step from `found` to `wider` takes most of the tightest budget."""

    def taken_without(unit: int) -> float:
        without = wider.copy()
        without[unit] = found[unit]
        return max(one.share(without) / one.target.kept for one in budgets)

    return min(map(int, units), key=taken_without)


def _holds(widths: Vector, budgets: Iterable[Budget]) -> bool:
    return all(one.holds(widths) for one in budgets)


def check_reachable(budgets: Iterable[Budget], rules: Rules) -> None:
    """Refuse targets that the narrowest network does not meet.

    Raises
    ------
    InfeasibleError
        It names the smallest share that can be reached.
    """
    for one in budgets:
        smallest = one.share(rules.narrowest)
        if not one.holds(rules.narrowest):
            cost = COST_NAMES[one.target.kind]
            raise InfeasibleError(
                f"no strategy keeps {one.target.kept:.4g} of the {cost}: the narrowest keeps {smallest:.4g}",
                where=f"--{one.target.kind}",
                do=f"ask for at least {math.ceil(10_000 * smallest) / 10_000}, or let more of every unit go",
            )
