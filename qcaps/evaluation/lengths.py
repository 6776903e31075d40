"""Recognise which widths the lengths of a network follow.

How parameters follow the widths is declared; see :mod:`qcaps.models.units`. The lengths of arrays and of the products
that are computed are not. Each is a multiple of something declared, the side of a parameter or the number of some
units, and which one it is shows in how it changes when the network is built with other widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qcaps.evaluation.formula import Formula, Terms, Vector, constant, content, product, quotient, total
from qcaps.models.units import Cut, Unit

# Networks of other widths to choose from; three tell the lengths of a ResNet-50 apart, a dozen those of a toy.
MOST_PROBES = 64


def side_terms(units: Sequence[Unit], shapes: Mapping[str, Sequence[int]]) -> dict[str, list[Terms]]:
    """Tell how every side of every parameter follows the widths.

    Parameters
    ----------
    units
        Of the network.
    shapes
        Parameter → shape.
    """
    cuts: dict[tuple[str, int], list[tuple[int, Cut]]] = {}
    for number, unit in enumerate(units):
        for cut in unit.cuts:
            cuts.setdefault((cut.tensor, cut.axis), []).append((number, cut))
    counts = [unit.count for unit in units]
    return {
        name: [_side(size, cuts.get((name, axis), []), counts) for axis, size in enumerate(shape)]
        for name, shape in shapes.items()
    }


def _side(size: int, cuts: Sequence[tuple[int, Cut]], counts: Sequence[int]) -> Terms:
    """Split a side where a cut begins or ends, and scale every piece by the units that cut it."""
    reaches = [(number, cut.start, cut.start + (cut.length or size - cut.start)) for number, cut in cuts]
    borders = sorted({0, size, *(border for _, *ends in reaches for border in ends)})
    pieces = []
    for begin, end in itertools.pairwise(borders):
        over = [number for number, first, last in reaches if first <= begin and end <= last]
        units = constant(1) if not over else {tuple(sorted(over)): 1}
        whole = int(np.prod([counts[number] for number in over]))
        pieces.append(quotient(product([constant(end - begin), units]), whole))
    return total(pieces)


class Recogniser:
    """Recognise lengths by how they change from the full network to a few narrower ones.

    Parameters
    ----------
    declared
        What lengths may be multiples of.
    counts
        Full widths.

    Attributes
    ----------
    probes
        Widths of the networks that tell all declared lengths apart, the full one first.
    """

    def __init__(self, declared: Iterable[Terms], counts: Sequence[int]) -> None:
        single: list[Terms] = [{(number,): 1} for number in range(len(counts))]
        known = _primitive([constant(1), *single, *declared])
        pool = _pool(np.array(counts, np.int64))
        values = [[formula(widths) for widths in pool] for formula in (Formula({"": terms}) for terms in known)]
        changes = [_changes(lengths) for lengths in values]
        different = len(set(changes))
        needed = next(n for n in range(1, len(pool) + 1) if len({change[:n] for change in changes}) == different)
        self.probes = pool[:needed]
        self._known = {c[:needed]: (t, v[0]) for c, t, v in zip(changes, known, values, strict=True)}

    def __call__(self, lengths: Sequence[int]) -> Terms:
        """Tell what a length follows, given its value in every probe.

        Raises
        ------
        ValueError
            If it is no multiple of anything that is declared.
        """
        terms, value = self._known.get(_changes(lengths), (constant(0), 0))
        if not value or lengths[0] % value:
            raise ValueError(f"a length of {lengths[0]} follows no width that the units declare")
        return product([constant(lengths[0] // value), terms])


def _primitive(declared: Iterable[Terms]) -> list[Terms]:
    """Leave one of all that are multiples of each other, the least."""
    least = (quotient(terms, content(terms)) for terms in declared)
    return list({frozenset(terms.items()): terms for terms in least}.values())


def _pool(full: Vector) -> list[Vector]:
    """Draw widths from half to full; at 1 a product of matrices may turn into another operation."""
    draws = np.random.Generator(np.random.PCG64(0))
    return [full, *draws.integers((full + 1) // 2, full, (MOST_PROBES, len(full)), endpoint=True)]


def _changes(lengths: Sequence[int]) -> tuple[float, ...]:
    """Divide by the first; equal shares are equal as floats too, for division is rounded correctly."""
    return tuple(length / lengths[0] for length in lengths)
