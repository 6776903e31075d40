from __future__ import annotations

import pytest

from qcaps.evaluation.lengths import MOST_PROBES, Recogniser, side_terms
from qcaps.models.units import Cut, Unit


def sides(shape, *units):
    return side_terms(units, {"weight": shape})["weight"]


def test_a_side_that_no_unit_cuts_stays():
    assert sides((6, 9), Unit("a.channels", 3, (Cut("weight", 0),))) == [{(0,): 2}, {(): 9}]


def test_two_kinds_of_units_on_one_side_multiply():
    types, dims = Unit("a.types", 4, (Cut("weight", 0, inner=3),)), Unit("a.dims", 3, (Cut("weight", 0),))
    assert sides((24,), types, dims) == [{(0, 1): 2}]


def test_stretches_of_one_side_add_up_beside_what_nobody_cuts():
    first = Unit("a.types", 5, (Cut("weight", 0, inner=2, start=0, length=10),))
    second = Unit("b.types", 3, (Cut("weight", 0, start=10, length=9),))
    assert sides((21,), first, second) == [{(0,): 2, (1,): 3, (): 2}]


def test_a_stretch_that_is_not_made_of_whole_units_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        sides((6,), Unit("a.channels", 4, (Cut("weight", 0),)))


def lengths(recognise, length):
    return [length(*map(int, probe)) for probe in recognise.probes]


def test_a_length_is_recognised_by_how_it_changes():
    recognise = Recogniser([{(0, 1): 6}], [8, 5])
    assert recognise(lengths(recognise, lambda a, b: 4 * a)) == {(0,): 4}
    assert recognise(lengths(recognise, lambda a, b: 7 * b)) == {(1,): 7}
    assert recognise(lengths(recognise, lambda a, b: 3 * a * b)) == {(0, 1): 3}
    assert recognise(lengths(recognise, lambda a, b: 40)) == {(): 40}


def test_a_sum_is_recognised_where_it_is_declared():
    recognise = Recogniser([{(0,): 16, (1,): 4}], [32, 32])
    assert recognise(lengths(recognise, lambda a, b: 80 * a + 20 * b)) == {(0,): 80, (1,): 20}


def test_a_length_that_follows_nothing_declared_is_refused():
    recognise = Recogniser([], [8, 5])
    with pytest.raises(ValueError, match="a length of 26 follows no width"):
        recognise(lengths(recognise, lambda a, b: 2 * a + 2 * b))


def test_a_length_that_is_no_multiple_is_refused():
    recognise = Recogniser([], [8, 6])
    with pytest.raises(ValueError, match="follows no width"):
        recognise(lengths(recognise, lambda a, b: a / 2))


def test_units_of_two_are_told_apart_by_enough_probes():
    recognise = Recogniser([], [2] * 20)
    assert 5 < len(recognise.probes) <= MOST_PROBES + 1
    for unit in range(20):
        assert recognise(lengths(recognise, lambda *widths, unit=unit: widths[unit])) == {(unit,): 1}


def test_every_probe_is_a_network_that_exists_and_the_first_is_the_full_one():
    first, *others = Recogniser([], [64, 3, 1]).probes
    assert first.tolist() == [64, 3, 1]
    assert all(32 <= a <= 64 and 2 <= b <= 3 and c == 1 for a, b, c in others)
