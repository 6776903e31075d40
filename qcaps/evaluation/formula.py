"""Sums of products of widths, evaluated quickly and exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

# Product of widths, by the numbers of their units in ascending order → how often it is counted.
Terms = Mapping[tuple[int, ...], int]
Vector = NDArray[np.int64]


def constant(value: int) -> Terms:
    """Give the terms of a number that follows no width."""
    return {(): value}


def product(factors: Iterable[Terms]) -> Terms:
    """Multiply sums of products."""
    result = constant(1)
    for factor in factors:
        multiplied: dict[tuple[int, ...], int] = {}
        for one, first in result.items():
            for other, second in factor.items():
                units = tuple(sorted(one + other))
                multiplied[units] = multiplied.get(units, 0) + first * second
        result = multiplied
    return result


def total(summands: Iterable[Terms]) -> Terms:
    """Add sums of products."""
    added: dict[tuple[int, ...], int] = {}
    for summand in summands:
        for units, count in summand.items():
            added[units] = added.get(units, 0) + count
    return added


def quotient(terms: Terms, divisor: int) -> Terms:
    """Divide every term by a number.

    Raises
    ------
    ValueError
        If one of them is no multiple of it.
    """
    if any(count % divisor for count in terms.values()):
        raise ValueError(f"not every term is a multiple of {divisor}")
    return {units: count // divisor for units, count in terms.items()}


def content(terms: Terms) -> int:
    """Give the largest number that divides every term."""
    return math.gcd(*terms.values())


class Formula:
    """Rows of sums of products of widths, and their sum.

    Parameters
    ----------
    rows
        Terms by name.
    """

    def __init__(self, rows: Mapping[str, Terms]) -> None:
        self.names = tuple(rows)
        self.units = frozenset(unit for terms in rows.values() for units in terms for unit in units)
        self._total = _Table([total(rows.values())])
        self._rows = _Table(list(rows.values()))

    def __call__(self, widths: Vector) -> int:
        """Sum all rows for some widths, in the order in which units are numbered."""
        return int(self._total.terms(widths).sum())

    def values(self, widths: Vector) -> Vector:
        """Give every row for some widths, in the order of the names."""
        sums = np.zeros(len(self.names), np.int64)
        np.add.at(sums, self._rows.owners, self._rows.terms(widths))
        return sums

    def rows(self, widths: Vector) -> dict[str, int]:
        """Give every row for some widths by its name."""
        return dict(zip(self.names, self.values(widths).tolist(), strict=True))


class _Table:
    """Terms as arrays: `owners` the row of each."""

    def __init__(self, rows: Sequence[Terms]) -> None:
        listed = [(row, units, count) for row, terms in enumerate(rows) for units, count in terms.items()]
        degree = max((len(units) for _, units, _ in listed), default=0)
        # A product of fewer widths is filled up with the 1 behind the last width, which index -1 finds.
        padded = [(*units, *(-1,) * (degree - len(units))) for _, units, _ in listed]
        self.owners = np.array([row for row, _, _ in listed], np.int64)
        self._units = np.array(padded, np.int64).reshape(len(listed), degree)
        self._counts = np.array([count for _, _, count in listed], np.int64)

    def terms(self, widths: Vector) -> Vector:
        """Give the value of every term."""
        found: Vector = np.append(widths, 1)[self._units].prod(1) * self._counts
        return found
