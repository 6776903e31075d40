"""Isomorphic scope: units of layers that are built alike are ranked together.

Reference: Fang et al., "Isomorphic Pruning for Vision Models", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from qcaps.evaluation.formula import Vector
from qcaps.models.network import CapsuleNetwork
from qcaps.pruning.strategy import WidthRules, Widths


@dataclass(frozen=True, eq=False)
class Together:
    """Units that are ranked together.

    Parameters
    ----------
    units
        Their numbers, shape ``(n,)``.
    gone
        How many are gone of each when k are gone of all together, for every k that can be: shape ``(k + 1, n)``.
    size
        How many there are of all together.
    """

    units: NDArray[np.int64]
    gone: NDArray[np.int64]
    size: int


@dataclass(frozen=True)
class IsomorphicRules:
    """How widths follow from ratios when one threshold cuts all units of a class; stands in for the rules it wraps.

    Parameters
    ----------
    rules
        Caps, least widths and multiples, which hold here too.
    classes
        Every unit is in one.
    """

    rules: WidthRules
    classes: tuple[Together, ...]

    @property
    def counts(self) -> Widths:
        """Give the full widths."""
        return self.rules.counts

    @property
    def caps(self) -> Mapping[str, float]:
        """Give the largest share that may go of every unit."""
        return self.rules.caps

    @property
    def narrowest(self) -> Vector:
        """Give the widths when every unit is at its cap."""
        return self.rules.narrowest

    def widths(self, ratios: NDArray[np.float64]) -> Vector:
        """Give the widths that are left when about these shares go; none grows when a ratio does.

        Parameters
        ----------
        ratios
            In the order of the units. Of a class the mean share of its units goes, the least important first.
        """
        left = self._counts.copy()
        for one in self.classes:
            share = min(1.0, float(ratios[one.units].mean()))
            left[one.units] -= one.gone[min(int(share * one.size), len(one.gone) - 1)]
        return self.rules.widths(self.rules.ratios(left))

    def ratios(self, widths: Vector) -> NDArray[np.float64]:
        """Give shares above 0, the same for all units of a class, that leave about as many of each class."""
        found = np.empty(len(widths))
        for one in self.classes:
            gone = self._counts[one.units] - widths[one.units]
            found[one.units] = (gone.sum() + 0.5) / one.size
        return found

    def named(self, widths: Vector) -> Widths:
        """Give every width by the name of its unit."""
        return self.rules.named(widths)

    @property
    def _counts(self) -> NDArray[np.int64]:
        return np.array(list(self.counts.values()), np.int64)


def isomorphic_rules(rules: WidthRules, network: CapsuleNetwork, scores: Mapping[str, Tensor]) -> IsomorphicRules:
    """Rank the units of layers that are built alike together.

    Parameters
    ----------
    rules
        Of the units; no unit falls below its narrowest width.
    network
        Says which layers are built alike.
    scores
        Importance of every unit, see :func:`~qcaps.pruning.importance.importance`. It is divided by the mean of its
        layer before layers are compared; of equals the highest index goes first, then the last layer.
    """
    numbers = {name: number for number, name in enumerate(rules.counts)}
    may_go = np.array(list(rules.counts.values()), np.int64) - rules.narrowest
    found = []
    for names in alike(network):
        units = np.array([numbers[name] for name in names], np.int64)
        order = _order([_normalised(scores[name]) for name in names], may_go[units])
        gone = np.zeros((len(order) + 1, len(names)), np.int64)
        gone[np.arange(1, len(order) + 1), order] = 1
        found.append(Together(units, gone.cumsum(0), sum(rules.counts[name] for name in names)))
    return IsomorphicRules(rules, tuple(found))


def alike(network: CapsuleNetwork) -> tuple[tuple[str, ...], ...]:
    """Sort units into classes that cut the same tensors in the same way but for widths that other units decide.

    So kernels agree, and sizes of capsules, and whether channels belong to a residual sum of so many layers.
    """
    shapes = {name: tensor.shape for name, tensor in network.stages.state_dict().items()}
    widths = {(cut.tensor, cut.axis) for unit in network.units for cut in unit.cuts}
    classes: dict[object, list[str]] = {}
    for unit in network.units:
        tensors = [
            (
                cut.tensor.rsplit(".", 1)[1],
                cut.axis,
                cut.inner,
                tuple(side for axis, side in enumerate(shapes[cut.tensor]) if (cut.tensor, axis) not in widths),
            )
            for cut in unit.cuts
        ]
        size = unit.count if unit.kind == "dims" else 0
        classes.setdefault((unit.kind, size, *tensors), []).append(unit.name)
    return tuple(map(tuple, classes.values()))


def _normalised(scores: Tensor) -> NDArray[np.float64]:
    """Divide the scores of a layer by their mean; scores that are all 0 stay."""
    mean = float(scores.mean())
    found: NDArray[np.float64] = (scores / (mean or 1.0)).numpy()
    return found


def _order(scores: Sequence[NDArray[np.float64]], may_go: Vector) -> list[int]:
    """Say which layer loses its least important unit next, again and again until no more may go."""
    least_first = [
        (score, -index, -layer) for layer, each in enumerate(scores) for index, score in enumerate(each.tolist())
    ]
    left, order = may_go.tolist(), []
    for _, _, negative in sorted(least_first):
        if left[-negative]:
            left[-negative] -= 1
            order.append(-negative)
    return order
