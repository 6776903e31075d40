"""Strategies: how many units of every kind stay, always as integers.

Shares would not do: ratio → floor → ratio is not stable in floating point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from qcaps.errors import UsageError, quoted
from qcaps.evaluation.formula import Vector
from qcaps.models.units import Unit
from qcaps.registry import near_matches

# Unit → how many stay, for all units of a network.
Widths: TypeAlias = dict[str, int]
# Unit → indices of those that stay, ascending.
Kept: TypeAlias = dict[str, tuple[int, ...]]
# The only kind whose number makes a convolution faster when it is a multiple: with 8 dimensions, channels of capsules
# are multiples of 8 already.
ROUNDED_KIND = "channels"

Number = TypeVar("Number", int, float)


class Rules(Protocol):
    """How the widths of all units of a network follow from ratios; what draws and targets need to know."""

    @property
    def counts(self) -> Widths:
        """Give the full widths."""

    @property
    def caps(self) -> Mapping[str, float]:
        """Give the largest share that may go of every unit."""

    @property
    def narrowest(self) -> Vector:
        """Give the widths when every unit is at its cap."""

    def widths(self, ratios: NDArray[np.float64]) -> Vector:
        """Give the widths that are left when about these shares go; none grows when a ratio does."""

    def ratios(self, widths: Vector) -> NDArray[np.float64]:
        """Give shares above 0 that leave about these widths; exactly these if the rules can leave them."""

    def named(self, widths: Vector) -> Widths:
        """Give every width by the name of its unit."""


@dataclass(frozen=True)
class WidthRules:
    """Rules that look at every unit by itself; one entry for each.

    Parameters
    ----------
    counts
        How many there are.
    caps
        Largest share that may go, 0 for a unit that stays whole.
    least
        How many stay at least.
    multiples
        Widths are rounded to the nearest multiple, and are never less than one of it, unless there are no more.
    """

    counts: Widths
    caps: Mapping[str, float]
    least: Widths
    multiples: Widths

    def widths(self, ratios: NDArray[np.float64]) -> Vector:
        """Give the widths that are left when about these shares go.

        Parameters
        ----------
        ratios
            In the order of the units; what exceeds a cap is cut off.

        Notes
        -----
        Width = n − ⌊ratio · n⌋ as in EagleEye, then rounded, ties up. A unit of which nothing goes keeps its width,
        be it a multiple or not.
        """
        counts, caps, least, multiples = self._arrays
        left = counts - np.floor(np.minimum(ratios, caps) * counts).astype(np.int64)
        rounded = (2 * left + multiples) // (2 * multiples) * multiples
        rounded = np.minimum(np.maximum(rounded, multiples), counts)
        found: Vector = np.maximum(np.where(left == counts, counts, rounded), least)
        return found

    @property
    def narrowest(self) -> Vector:
        """Give the widths when every unit is at its cap."""
        return self.widths(self._arrays[1])

    def ratios(self, widths: Vector) -> NDArray[np.float64]:
        """Give shares above 0 that leave these widths, unless rounding, a cap or a least number forbids them."""
        counts = self._arrays[0]
        # Half a unit more, for the product to round down to the unit itself.
        found: NDArray[np.float64] = (counts - widths + 0.5) / counts
        return found

    def named(self, widths: Vector) -> Widths:
        """Give every width by the name of its unit."""
        return dict(zip(self.counts, widths.tolist(), strict=True))

    @cached_property
    def _arrays(self) -> tuple[Vector, NDArray[np.float64], Vector, Vector]:
        counts = np.array(list(self.counts.values()), np.int64)
        caps = np.array([self.caps[name] for name in self.counts], np.float64)
        least = np.array([self.least[name] for name in self.counts], np.int64)
        return counts, caps, np.minimum(least, counts), np.array([self.multiples[n] for n in self.counts], np.int64)


def width_rules(
    counts: Mapping[str, int],
    *,
    caps: Mapping[str, float],
    least: Mapping[str, int] | None = None,
    round_to: int = 1,
) -> WidthRules:
    """Make the rules of all units of a network.

    Parameters
    ----------
    counts
        Unit → how many there are.
    caps, least
        Pattern of unit names → largest share that may go, and how many stay at least; the last pattern that matches
        counts. A unit without a cap is not cut; of every unit one stays.
    round_to
        Multiple for the widths of channels; capsules are not rounded.

    Raises
    ------
    UsageError
        If a pattern matches no unit, or a number is out of its range.
    """
    floors = least or {}
    for pattern in (*caps, *floors):
        if not any(fnmatchcase(name, pattern) for name in counts):
            close = near_matches(pattern, tuple(counts))
            raise UsageError(f"no unit is called {quoted(pattern)}", do=f"{close}`qcaps inspect --units` lists them")
    if not all(0 <= cap <= 1 for cap in caps.values()):
        raise UsageError("the largest share of units that may go is a number from 0 to 1")
    if round_to < 1 or not all(floor >= 1 for floor in floors.values()):
        raise UsageError("widths are whole numbers, at least 1")
    return WidthRules(
        counts=dict(counts),
        caps={name: _last_match(name, caps, 0.0) for name in counts},
        least={name: _last_match(name, floors, 1) for name in counts},
        multiples={name: round_to if kind_of(name) == ROUNDED_KIND else 1 for name in counts},
    )


def full_widths(units: Iterable[Unit]) -> Widths:
    """Give the strategy that cuts nothing."""
    return {unit.name: unit.count for unit in units}


def checked_widths(asked: Mapping[str, object], counts: Mapping[str, int]) -> Widths:
    """Complete a strategy that was written down, units it is silent about staying whole.

    Raises
    ------
    UsageError
        If a unit does not exist, or its width is not a whole number from 1 to its count.
    """
    for name, width in asked.items():
        if name not in counts:
            raise UsageError(f"there is no unit {quoted(name)}", do=near_matches(name, tuple(counts)).strip())
        if type(width) is not int or not 1 <= width <= counts[name]:
            raise UsageError(f"{quoted(width)} of {counts[name]} {name} cannot stay", do="at least one does")
    return {name: asked.get(name, count) for name, count in counts.items()}  # type: ignore[misc]


def by_layer(widths: Mapping[str, int]) -> dict[str, Widths]:
    """Sort a strategy by layers: path → kind of unit → how many stay."""
    found: dict[str, Widths] = {}
    for name, width in widths.items():
        found.setdefault(name.rsplit(".", 1)[0], {})[kind_of(name)] = width
    return found


def kind_of(name: str) -> str:
    """Give the kind of a unit: ``channels``, ``types``, ``dims`` or ``positions``."""
    return name.rsplit(".", 1)[1]


def _last_match(name: str, patterns: Mapping[str, Number], otherwise: Number) -> Number:
    matching = [number for pattern, number in patterns.items() if fnmatchcase(name, pattern)]
    return matching[-1] if matching else otherwise
