from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.quantization.search import front as front_module
from qcaps.quantization.search.front import Option, pareto_front

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None)

Groups = Mapping[str, Sequence[Option]]


@st.composite
def problems(draw: st.DrawFn, most_groups: int = 5, most_widths: int = 4) -> Groups:
    """Draw groups whose scores do not increase with the width; costs may tie, and need not grow with it."""
    found = {}
    for number in range(draw(st.integers(1, most_groups))):
        bits = sorted(draw(st.sets(st.integers(1, 32), min_size=1, max_size=most_widths)))
        costs = draw(st.lists(st.integers(0, 30), min_size=len(bits), max_size=len(bits)))
        # eighths add up exactly, so that ties are ties in any order of summation
        scores = draw(st.lists(st.integers(0, 30), min_size=len(bits), max_size=len(bits)))
        falling = [score / 8 for score in sorted(scores, reverse=True)]
        found[f"group {number}"] = [Option(*each) for each in zip(bits, costs, falling, strict=True)]
    return found


def every_choice(groups: Groups) -> list[tuple[int, float]]:
    """List cost and score of every choice there is."""
    choices = itertools.product(*groups.values())
    return [(sum(o.cost for o in choice), sum(o.score for o in choice)) for choice in choices]


def nondominated(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep a pair if no other one is at least as good in both, and better in one."""
    distinct = sorted(set(points))
    return [p for p in distinct if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in distinct)]


@BRIEFLY
@given(problems())
def test_the_front_is_that_of_brute_force(groups: Groups) -> None:
    front = pareto_front(groups)
    assert list(zip(front.costs.tolist(), front.scores.tolist(), strict=True)) == nondominated(every_choice(groups))
    assert front.grain == 1


@BRIEFLY
@given(problems())
def test_every_point_is_the_sum_of_its_widths(groups: Groups) -> None:
    front = pareto_front(groups)
    for point in range(len(front)):
        choice = front.choice(point)
        assert list(choice) == list(groups)
        chosen = [next(o for o in groups[name] if o.bits == bits) for name, bits in choice.items()]
        assert sum(o.cost for o in chosen) == front.costs[point]
        assert sum(o.score for o in chosen) == front.scores[point]


@BRIEFLY
@given(problems(), st.integers(0, 150), st.integers(0, 150))
def test_a_larger_budget_never_gives_a_higher_predicted_score(groups: Groups, one: int, other: int) -> None:
    front = pareto_front(groups)

    def best(budget: int) -> float:
        within = [score for cost, score in zip(front.costs, front.scores, strict=True) if cost <= budget]
        return min(within, default=float("inf"))

    assert best(max(one, other)) <= best(min(one, other))
    # and no choice within the budget is predicted to be better
    assert best(one) == min((s for c, s in every_choice(groups) if c <= one), default=float("inf"))


@BRIEFLY
@given(problems())
def test_the_order_of_groups_does_not_change_costs_and_scores(groups: Groups) -> None:
    turned = dict(reversed(groups.items()))
    there, back = pareto_front(groups), pareto_front(turned)
    assert there.costs.tolist() == back.costs.tolist()
    assert there.scores.tolist() == back.scores.tolist()


def test_three_widths_of_two_groups() -> None:
    # by hand: (2,2) 2+3=5 / 9+4=13, (4,2) 7 / 8, (2,4) 8 / 10 is beaten by (4,2), (4,4) 10 / 5, (8,4) 14 / 4
    groups = {
        "a": [Option(2, 2, 9.0), Option(4, 4, 4.0), Option(8, 8, 3.0)],
        "b": [Option(2, 3, 4.0), Option(4, 6, 1.0)],
    }
    front = pareto_front(groups)
    assert [tuple(front.choice(p).values()) for p in range(len(front))] == [(2, 2), (4, 2), (4, 4), (8, 4)]
    assert front.costs.tolist() == [5, 7, 10, 14]
    assert front.scores.tolist() == [13.0, 8.0, 5.0, 4.0]


def test_of_equal_choices_the_narrower_one_is_kept() -> None:
    front = pareto_front({"a": [Option(8, 5, 1.0), Option(4, 5, 1.0)]})
    assert front.bits.tolist() == [[4]]


def test_no_groups_make_one_free_point() -> None:
    front = pareto_front({})
    assert (front.costs.tolist(), front.scores.tolist(), front.choice(0)) == ([0], [0.0], {})


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "MOST_POINTS", 50)


@pytest.fixture
def large() -> Groups:
    """Make a problem with more points than allowed: costs are sums of distinct powers of two, scores their mirror."""
    return {f"g{n}": [Option(2, 0, float(2**n)), Option(4, 100 * 2**n, 0.0)] for n in range(10)}


@pytest.mark.usefixtures("coarse")
def test_too_many_points_are_thinned_by_rounding_costs_up(large: Groups) -> None:
    front = pareto_front(large)
    dearest = 100 * (2**10 - 1)
    assert front.grain == dearest // 50
    assert len(front) <= 50 + len(large) + 1
    assert all(cost % front.grain == 0 for cost in front.costs.tolist())
    prices = {(name, option.bits): option.cost for name, options in large.items() for option in options}
    for point in range(len(front)):
        true_cost = sum(prices[chosen] for chosen in front.choice(point).items())
        assert true_cost <= front.costs[point] <= true_cost + len(large) * front.grain


@pytest.mark.usefixtures("coarse")
def test_a_thinned_front_still_ends_with_the_cheapest_and_the_least_damage(large: Groups) -> None:
    front = pareto_front(large)
    assert set(front.choice(0).values()) == {2}
    assert set(front.choice(len(front) - 1).values()) == {4}


@pytest.mark.usefixtures("coarse")
def test_few_points_stay_exact() -> None:
    groups = {f"g{n}": [Option(2, 1000, 1.0), Option(4, 3000, 0.5)] for n in range(20)}
    front = pareto_front(groups)
    assert (front.grain, len(front)) == (1, 21)
