from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.quantization.search.descent import LARGEST_STEP, SAME_COST, SMALL_STEPS, STEP, cheapest_passing

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None)


class Oracle:
    """Tells whether points pass, and remembers which ones it was asked about."""

    def __init__(self, passes: Callable[[int], bool]) -> None:
        self.passes = passes
        self.asked: list[int] = []

    def __call__(self, point: int) -> bool:
        self.asked.append(point)
        return self.passes(point)


@st.composite
def fronts(draw: st.DrawFn) -> tuple[list[float], list[float], int]:
    """Draw ascending costs, descending damages, and where to begin; the last damage may be 0, as that of float is."""
    count = draw(st.integers(1, 40))
    costs = sorted(draw(st.sets(st.integers(1, 5000), min_size=count, max_size=count)))
    damages = sorted(draw(st.sets(st.integers(0, 10**6), min_size=count, max_size=count)), reverse=True)
    return [float(c) for c in costs], [d / 1000 for d in damages], draw(st.integers(0, count - 1))


@BRIEFLY
@given(fronts(), st.integers(0, 40), st.integers(0, 8))
def test_of_points_that_pass_from_one_on_it_finds_one_within_a_small_step(
    front: tuple[list[float], list[float], int], first: int, beside: int
) -> None:
    costs, damages, start = front
    found = cheapest_passing(lambda point: point >= first, costs, damages, start=start, beside=beside)
    if first >= len(costs):
        assert found is None
        return
    assert found is not None
    assert found >= first
    one_step = damages[first] <= STEP * damages[found] or costs[found] - costs[first] <= SAME_COST * costs[found]
    assert found == first or one_step


@BRIEFLY
@given(fronts(), st.lists(st.booleans(), min_size=40, max_size=40), st.integers(0, 8))
def test_whatever_passes_the_answer_passed_or_the_dearest_failed(
    front: tuple[list[float], list[float], int], table: list[bool], beside: int
) -> None:
    costs, damages, start = front
    oracle = Oracle(table.__getitem__)
    found = cheapest_passing(oracle, costs, damages, start=start, beside=beside)
    if found is None:
        assert not any(table[point] for point in oracle.asked)
        assert oracle.asked[-1] == len(costs) - 1
    else:
        assert found == min(point for point in oracle.asked if table[point])


@BRIEFLY
@given(fronts(), st.lists(st.booleans(), min_size=40, max_size=40), st.integers(0, 8))
def test_no_point_is_tested_twice(front: tuple[list[float], list[float], int], table: list[bool], beside: int) -> None:
    costs, damages, start = front
    oracle = Oracle(table.__getitem__)
    cheapest_passing(oracle, costs, damages, start=start, beside=beside)
    assert len(oracle.asked) == len(set(oracle.asked))


def halving(points: int) -> tuple[list[float], list[float]]:
    """Make a front on which every point costs a tenth more than the one before, and halves the damage."""
    return [1.1**p for p in range(points)], [0.5**p for p in range(points)]


@pytest.mark.parametrize("start", [0, 7, 19, 39])
@pytest.mark.parametrize("first", range(40))
def test_a_coarse_front_gives_the_cheapest_point_exactly(first: int, start: int) -> None:
    costs, damages = halving(40)
    assert cheapest_passing(lambda p: p >= first, costs, damages, start=start, beside=0) == first


@pytest.mark.parametrize("start", [0, 999])
@pytest.mark.parametrize("first", [0, 3, 500, 998, 999])
def test_few_points_of_a_long_front_are_tested(first: int, start: int) -> None:
    oracle = Oracle(lambda point: point >= first)
    costs, damages = [1000.0 + p for p in range(1000)], [10.0 ** (6 - p / 100) for p in range(1000)]
    assert cheapest_passing(oracle, costs, damages, start=start, beside=0) is not None
    large_steps, growing, halvings = math.ceil(math.log(1e10, LARGEST_STEP)), 4, 5
    assert len(oracle.asked) <= SMALL_STEPS + growing + large_steps + halvings


def test_the_way_leads_up_from_the_start() -> None:
    costs, damages = halving(20)
    oracle = Oracle(lambda point: point >= 8)
    cheapest_passing(oracle, costs, damages, start=5, beside=0)
    assert oracle.asked == [5, 6, 7, 8]


def test_a_start_that_passes_leads_back() -> None:
    costs, damages = halving(20)
    oracle = Oracle(lambda point: point >= 2)
    assert cheapest_passing(oracle, costs, damages, start=9, beside=0) == 2
    assert oracle.asked[0] == 9
    assert max(oracle.asked[1:]) < 9


def test_cheaper_points_beside_the_first_that_passed_are_tried() -> None:
    costs, damages = halving(20)
    oracle = Oracle(lambda point: point in {4, *range(7, 20)})
    assert cheapest_passing(oracle, costs, damages, start=6, beside=2) == 4
    assert oracle.asked == [6, 7, 5, 4]


def test_points_beside_are_each_a_hundredth_cheaper() -> None:
    costs = [1000.0, 1002.0, 1015.0, 1028.0, 1030.0, 1031.0, 2000.0]
    oracle = Oracle(lambda point: point == 6)
    cheapest_passing(oracle, costs, [64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0], start=5, beside=8)
    # 1 % below 1031 is 1020.69, and 1 % below 1015 is 1004.85; 1000 is not 1 % below 1002
    assert oracle.asked == [5, 6, 2, 1]


def test_a_front_without_points_has_none_that_passes() -> None:
    assert cheapest_passing(lambda point: True, [], [], start=0, beside=3) is None


@pytest.mark.parametrize(("passes", "expected"), [(True, 0), (False, None)])
def test_a_single_point_passes_or_not(passes: bool, expected: int | None) -> None:
    oracle = Oracle(lambda point: passes)
    assert cheapest_passing(oracle, [5.0], [0.0], start=0, beside=3) == expected
    assert oracle.asked == [0]
