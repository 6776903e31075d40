from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import MadeUpBench, made_up_subject, made_up_task, never_run

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits
from qcaps.quantization.search.common_width import at_most, search_common_width
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.task import Found, Task

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None, max_examples=60)
FREE = "b.weight"


def searched(
    passes: Callable[[Widths], bool], widths: Sequence[int], budget: int | None = None, **options: object
) -> tuple[Task, Found]:
    limits = Limits(Tolerance(Decimal(5)), budget, "payload")
    task = made_up_task(MadeUpBench(passes), widths, limits=limits, **options)
    with never_run():
        return task, search_common_width(task)


def bits_of(found: Found) -> dict[str, int]:
    return {name: trial.widths[FREE] for name, trial in found.by_file().items()}


def payload(bits: int) -> int:
    subject = made_up_subject()
    return subject.payload_bytes(dict.fromkeys(subject.sites, bits))


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Draw widths, the smallest that passes and the largest that fits; the limits may lie outside of the widths."""
    widths = sorted(draw(st.sets(st.sampled_from([*range(1, 17), 32]), min_size=1)))
    return widths, draw(st.integers(0, 33)), draw(st.integers(0, 16))


def one_by_one(widths: list[int], passes_from: int, fits_up_to: int) -> dict[str, int]:
    """Judge every width, as slowly as possible."""
    passing = [bits for bits in widths if bits >= passes_from]
    fitting = [bits for bits in widths if bits <= fits_up_to]
    both = [bits for bits in passing if bits in fitting]
    if both:
        return {"satisfied.pt": min(both)}
    accuracy = {"accuracy.pt": min(passing) if passing else widths[-1]}
    return accuracy | ({"memory.pt": max(fitting)} if fitting else {})


@BRIEFLY
@given(searches())
def test_the_search_finds_what_judging_every_width_finds(search: tuple[list[int], int, int]) -> None:
    widths, passes_from, fits_up_to = search
    budget = payload(fits_up_to) if fits_up_to else 10
    _, found = searched(lambda plan: plan[FREE] >= passes_from, widths, budget)
    assert bits_of(found) == one_by_one(widths, passes_from, fits_up_to)


@BRIEFLY
@given(searches())
def test_a_search_halves_the_widths(search: tuple[list[int], int, int]) -> None:
    widths, passes_from, _ = search
    task, _ = searched(lambda plan: plan[FREE] >= passes_from, widths)
    distinct = {tried.widths[FREE] for tried in task.tried}
    assert len(distinct) <= math.ceil(math.log2(len(widths))) + 1


def test_a_budget_below_the_tolerance_gives_the_two_nearest_models() -> None:
    _, found = searched(lambda plan: plan[FREE] >= 6, range(2, 17), payload(4))
    assert bits_of(found) == {"memory.pt": 4, "accuracy.pt": 6}


def test_a_tolerance_that_nothing_else_holds_gives_the_float_network() -> None:
    _, found = searched(lambda plan: plan[FREE] == 32, (2, 8, 16, 32))
    assert bits_of(found) == {"satisfied.pt": 32}


def test_a_float_network_that_fails_itself_is_never_called_satisfied() -> None:
    _, found = searched(lambda plan: False, (2, 8, 32))
    assert found.satisfied is None
    assert bits_of(found)["accuracy.pt"] == 32


def test_a_smaller_width_that_passes_where_a_larger_one_failed_is_satisfied() -> None:
    # accuracy is not quite monotone: 3 bits pass, 4 and 5 do not, and only up to 3 bits fit
    _, found = searched(lambda plan: plan[FREE] not in {4, 5}, (3, 4, 5, 6), payload(3))
    assert bits_of(found) == {"satisfied.pt": 3}


def test_pinned_sites_keep_their_width() -> None:
    task, found = searched(lambda plan: plan[FREE] >= 6, (2, 4, 6, 8), pins={"a.weight": 3, "c.votes": 32})
    assert found.satisfied.widths[FREE] == 6
    assert {(t.widths["a.weight"], t.widths["c.votes"]) for t in task.tried} == {(3, 32)}


def test_where_every_site_is_pinned_that_plan_is_judged() -> None:
    pins = {site: 3 + number for number, site in enumerate(made_up_subject().sites)}
    task, found = searched(lambda plan: True, (2, 4), pins=pins)
    assert found.satisfied.widths == pins
    assert [t.widths for t in task.tried] == [pins] * len(task.tried)


@pytest.mark.parametrize(("bits", "expected"), [(1, 2), (2, 2), (3, 2), (4, 4), (7, 4), (32, 32), (40, 32)])
def test_a_width_that_is_not_allowed_gives_the_nearest_below_or_the_smallest(bits: int, expected: int) -> None:
    assert at_most((2, 4, 32), bits) == expected
