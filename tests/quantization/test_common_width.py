from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcaps.evaluation.tolerance import Verdict
from qcaps.quantization.common_width import Found, search_common_width, widths_of
from qcaps.quantization.formats import Rounding
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.trials import Trial

PLAN = BitPlan("truncation", {}, {})


class Judge:
    """Judges widths by a table, and remembers what it was asked."""

    def __init__(self, passes: Callable[[int], bool]) -> None:
        self.passes = passes
        self.asked: list[int] = []

    def __call__(self, bits: int) -> Trial:
        self.asked.append(bits)
        verdict = Verdict(lost=0, gained=0, allowed=0, images=1, passed=self.passes(bits))
        return Trial(bits, PLAN, (), verdict, 0, b"")


def bits_of(found: Found) -> dict[str, int]:
    return {name: trial.bits for name, trial in found.by_file().items()}


WIDTHS = st.sets(st.integers(1, 40), min_size=1).map(sorted)


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Draw widths, the smallest that passes and the largest that fits; the limits may lie outside of the widths."""
    return draw(WIDTHS), draw(st.integers(0, 42)), draw(st.integers(0, 42))


def by_brute_force(widths: list[int], passes_from: int, fits_up_to: int) -> dict[str, int]:
    """Judge every width, as slowly as possible."""
    passing = [bits for bits in widths if bits >= passes_from]
    fitting = [bits for bits in widths if bits <= fits_up_to]
    both = [bits for bits in passing if bits in fitting]
    if both:
        return {"satisfied.pt": min(both)}
    accuracy = {"accuracy.pt": min(passing) if passing else widths[-1]}
    return accuracy | ({"memory.pt": max(fitting)} if fitting else {})


@given(searches())
def test_the_search_finds_what_judging_every_width_finds(search: tuple[list[int], int, int]) -> None:
    widths, passes_from, fits_up_to = search
    judge = Judge(lambda bits: bits >= passes_from)
    found = search_common_width(judge, widths, lambda bits: bits <= fits_up_to)
    assert bits_of(found) == by_brute_force(widths, passes_from, fits_up_to)


@given(searches())
def test_no_width_is_judged_twice_and_all_that_are_judged_are_named(search: tuple[list[int], int, int]) -> None:
    widths, passes_from, fits_up_to = search
    judge = Judge(lambda bits: bits >= passes_from)
    found = search_common_width(judge, widths, lambda bits: bits <= fits_up_to)
    assert len(judge.asked) == len(set(judge.asked))
    assert found.tried == tuple(sorted(judge.asked))


@given(searches())
def test_a_search_halves_the_widths(search: tuple[list[int], int, int]) -> None:
    widths, passes_from, fits_up_to = search
    halvings = math.ceil(math.log2(len(widths) + 1))
    roomy, tight = Judge(lambda bits: bits >= passes_from), Judge(lambda bits: bits >= passes_from)
    search_common_width(roomy, widths, lambda bits: True)
    search_common_width(tight, widths, lambda bits: bits <= fits_up_to)
    assert len(roomy.asked) <= halvings
    assert len(tight.asked) <= halvings + 1  # the one that fits the budget


def test_seventeen_widths_take_five_judgements_at_most() -> None:
    worst = 0
    widths = widths_of("truncation", 1)
    for passes_from in widths:
        judge = Judge(lambda bits, least=passes_from: bits >= least)
        assert bits_of(search_common_width(judge, widths, lambda bits: True)) == {"satisfied.pt": passes_from}
        worst = max(worst, len(judge.asked))
    assert (len(widths), worst) == (17, 5)


def test_a_budget_below_the_tolerance_gives_the_two_nearest_models() -> None:
    found = search_common_width(Judge(lambda bits: bits >= 6), range(2, 17), lambda bits: bits <= 4)
    assert found.satisfied is None
    assert bits_of(found) == {"memory.pt": 4, "accuracy.pt": 6}


def test_a_tolerance_that_nothing_else_holds_gives_the_float_network() -> None:
    found = search_common_width(Judge(lambda bits: bits == 32), widths_of("truncation", 2), lambda bits: True)
    assert bits_of(found) == {"satisfied.pt": 32}


def test_a_float_network_that_fails_itself_is_never_called_satisfied() -> None:
    found = search_common_width(Judge(lambda bits: False), widths_of("truncation", 2), lambda bits: True)
    assert found.satisfied is None
    assert found.accuracy is not None
    assert found.accuracy.bits == 32


def test_a_smaller_width_that_passes_where_a_larger_one_failed_is_satisfied() -> None:
    # accuracy is not quite monotone: 3 bits pass, 4 and 5 do not, and only up to 3 bits fit
    found = search_common_width(Judge(lambda bits: bits not in {4, 5}), [3, 4, 5, 6], lambda bits: bits <= 3)
    assert bits_of(found) == {"satisfied.pt": 3}


@pytest.mark.parametrize(
    ("rounding", "min_bits", "widths"),
    [
        ("round_to_nearest", 2, (*range(2, 17), 32)),
        ("truncation", 1, (*range(1, 17), 32)),
        ("stochastic_rounding", 16, (16, 32)),
        ("logarithmic", 2, (2, 3, 4, 5, 6, 7, 8, 32)),
        ("logarithmic", 1, (2, 3, 4, 5, 6, 7, 8, 32)),
        ("logarithmic", 9, (32,)),
    ],
)
def test_the_widths_of_a_rounding_end_with_float(rounding: Rounding, min_bits: int, widths: tuple[int, ...]) -> None:
    assert widths_of(rounding, min_bits) == widths
