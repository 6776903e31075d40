from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import MadeUpBench, haphazard, made_up_scores, made_up_task, never_run, toy_bench, toy_task

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits
from qcaps.quantization.search.descent import SAME_COST, STEP
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.pareto import TRUSTED, WEIGHTY_LOSSES, most_damage, search_pareto
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.sensitivity import predicted_losses
from qcaps.quantization.search.task import Found, Task

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None, max_examples=25)
Rule = Callable[[Widths], bool]


def limits(memory: int | None = None, activations: int | None = None) -> Limits:
    return Limits(Tolerance(Decimal(5)), memory, "payload", activations)


def searched(passes: Rule, doubtful: Rule = lambda widths: False, **options: object) -> tuple[Task, Found]:
    task = made_up_task(MadeUpBench(passes, doubtful), **options)
    with never_run():
        return task, search_pareto(task)


def prices_of(task: Task) -> Prices:
    widths = {group.name: task.widths[group.sites[0]] for group in task.groups}
    return Prices(task.subject, task.groups, widths, made_up_scores(task.groups, widths))


def by_damage(bound: float) -> Rule:
    """Let pass what does not do more damage than so much, added up as the search predicts it."""
    groups = made_up_task(MadeUpBench(lambda widths: True)).groups
    places = {group.sites[0]: place for place, group in enumerate(groups)}
    return lambda widths: sum((1 + p) * 0.25 ** widths[s] for s, p in places.items() if widths[s] < 32) <= bound


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Draw what passes: by the predicted damage, or without any order."""
    if draw(st.booleans()):
        return by_damage(4.0 ** draw(st.integers(-8, 1)))
    salt, share = draw(st.integers(0, 10**6)), draw(st.integers(0, 100))
    return haphazard(salt, share)


BUDGETS = st.one_of(st.none(), st.integers(1020, 8000)), st.one_of(st.none(), st.integers(1050, 8000))


@BRIEFLY
@given(rules(), rules(), *BUDGETS, st.booleans(), st.booleans())
def test_what_satisfies_passes_for_certain_and_keeps_the_budgets(
    passes: Rule, doubtful: Rule, memory: int | None, activations: int | None, per_iteration: bool, overhead: bool
) -> None:
    task, found = searched(
        passes,
        doubtful,
        limits=limits(memory, activations),
        per_iteration=per_iteration,
        overhead_bytes=300 * overhead,
    )
    if found.satisfied is not None:
        widths = found.satisfied.widths
        assert passes(widths)
        assert memory is None or task.subject.payload_bytes(widths) <= memory
        assert activations is None or task.subject.activation_bytes(widths) <= activations
        assert (found.memory, found.accuracy) == (None, None)


@BRIEFLY
@given(rules(), *BUDGETS, st.booleans())
def test_without_a_satisfying_plan_both_nearest_ones_are_given(
    passes: Rule, memory: int | None, activations: int | None, per_iteration: bool
) -> None:
    task, found = searched(passes, limits=limits(memory, activations), per_iteration=per_iteration)
    if found.satisfied is None:
        # both budgets are above what two bits need
        assert task.fits(found.memory.widths)
        tried = [t.widths for t in task.tried if t.judgement.passed]
        if tried:
            assert passes(found.accuracy.widths)
        else:
            assert set(found.accuracy.widths.values()) == {32}


@BRIEFLY
@given(rules(), rules())
def test_no_plan_that_passed_for_certain_and_fits_is_smaller_than_the_one_found(passes: Rule, doubtful: Rule) -> None:
    task, found = searched(passes, doubtful, limits=limits(4000))
    certain = [t.widths for t in task.tried if t.judgement.passed and t.judgement.certain and task.fits(t.widths)]
    if certain:
        assert task.objective(found.satisfied.widths) == min(map(task.objective, certain))
    else:
        assert found.satisfied is None


@pytest.mark.parametrize("activation_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("power", range(-8, 2))
def test_where_damage_adds_up_the_plan_is_that_of_the_front_or_smaller(power: int, activation_weight: float) -> None:
    bound = 4.0**power
    task, found = searched(by_damage(bound), activation_weight=activation_weight)
    front = prices_of(task).front(task.groups, activation_weight)
    # a small step below what passes is as near as the descent goes
    best = next(cost for cost, score in zip(front.costs, front.scores, strict=True) if score <= bound / STEP) / 8
    assert task.objective(found.satisfied.widths) <= best / (1 - SAME_COST) + 1


def least_damage(task: Task, *, weights: bool, budget: int | None) -> float:
    """Try every choice of the weights, or of the arrays, within a budget."""
    prices = prices_of(task)
    groups = [group for group in task.groups if group.is_weight is weights]
    damages = [
        sum(prices.scores[group.name][bits] for group, bits in zip(groups, chosen, strict=True))
        for chosen in itertools.product(*(prices.widths[group.name] for group in groups))
        if budget is None or sum(map(prices.price, groups, chosen)) <= budget
    ]
    return min(damages)


@BRIEFLY
@given(st.integers(-8, 1), *BUDGETS)
def test_where_damage_adds_up_a_plan_within_the_budgets_is_found_if_there_is_one(
    power: int, memory: int | None, activations: int | None
) -> None:
    bound = 4.0**power
    task, found = searched(by_damage(bound), limits=limits(memory, activations))
    least = least_damage(task, weights=True, budget=memory) + least_damage(task, weights=False, budget=activations)
    assert (found.satisfied is not None) is (least <= bound)


@BRIEFLY
@given(rules(), rules(), st.booleans())
def test_every_plan_has_allowed_widths_and_its_pins(passes: Rule, doubtful: Rule, per_iteration: bool) -> None:
    pins = {"a.weight": 7, "c.logits@2": 5}
    task, found = searched(
        passes, doubtful, widths=(2, 4, 8), pins=pins, limits=limits(3000), per_iteration=per_iteration
    )
    plans = [*(tried.widths for tried in task.tried), *(trial.widths for trial in found.by_file().values())]
    assert all(bits in task.widths[site] for widths in plans for site, bits in widths.items())
    assert all(widths["a.weight"] == 7 and widths["c.logits@2"] == 5 for widths in plans)


def test_one_width_for_all_is_tried_once() -> None:
    for passes in (True, False):
        task, found = searched(lambda widths, answer=passes: answer, widths=(4,))
        assert {tuple(t.widths.values()) for t in task.tried} == {(4,) * 7}
        assert (found.satisfied is not None) is passes


def test_a_budget_above_the_result_changes_nothing() -> None:
    rule = by_damage(4.0**-4)
    free, found = searched(rule)
    size = free.subject.payload_bytes(found.satisfied.widths)
    sum_of_arrays = free.subject.activation_bytes(found.satisfied.widths)
    _, roomy = searched(rule, limits=limits(size, round(sum_of_arrays) + 1))
    assert roomy.satisfied.widths == found.satisfied.widths


@pytest.mark.parametrize("share", [0.95, 0.9])
def test_a_smaller_memory_budget_is_kept_at_the_expense_of_activations(share: float) -> None:
    rule, dear = by_damage(4.0**-4), {"activation_weight": 8.0, "widths": range(2, 17)}
    free, found = searched(rule, **dear)
    budget = int(share * free.subject.payload_bytes(found.satisfied.widths))
    task, tight = searched(rule, limits=limits(budget), **dear)
    assert task.subject.payload_bytes(tight.satisfied.widths) <= budget
    before, after = (free.subject.activation_bytes(f.satisfied.widths) for f in (found, tight))
    assert after > before


def test_a_smaller_activation_budget_is_kept_at_the_expense_of_weights() -> None:
    rule, cheap = by_damage(4.0**-4), {"activation_weight": 0.1, "widths": range(2, 17)}
    free, found = searched(rule, **cheap)
    budget = int(0.95 * free.subject.activation_bytes(found.satisfied.widths))
    task, tight = searched(rule, limits=limits(None, budget), **cheap)
    assert task.subject.activation_bytes(tight.satisfied.widths) <= budget
    before, after = (free.subject.payload_bytes(f.satisfied.widths) for f in (found, tight))
    assert after > before


def test_a_guess_that_turns_out_wrong_is_replaced_by_what_is_certain() -> None:
    # all that steers seems to pass, and hardly anything does
    task, found = searched(by_damage(4.0**-6), lambda widths: True)
    assert by_damage(4.0**-6)(found.satisfied.widths)
    assert any(not t.judgement.certain for t in task.tried)


def test_the_same_search_again_finds_the_same() -> None:
    (first, one), (second, other) = (searched(by_damage(4.0**-4), limits=limits(2500)) for _ in range(2))
    assert [t.widths for t in first.tried] == [t.widths for t in second.tried]
    assert one.by_file().keys() == other.by_file().keys()


def test_without_any_loss_allowed_float_is_left() -> None:
    _, found = searched(lambda widths: set(widths.values()) == {32})
    assert set(found.satisfied.widths.values()) == {32}


def test_no_plan_is_tried_that_is_predicted_to_lose_more_than_is_trusted() -> None:
    with toy_bench() as bench:
        task = toy_task(bench, allowed=8)
        most = most_damage(task)
        found = search_pareto(task)
    assert predicted_losses(task.baseline, most) <= TRUSTED * 8
    assert predicted_losses(task.baseline, 1.01 * most) > TRUSTED * 8
    scores = [tried.score for tried in found.tried if tried.phase == "exchange"]
    assert scores
    assert max(scores) <= most


def test_of_more_losses_than_ten_a_larger_share_may_be_predicted() -> None:
    with toy_bench() as bench:
        task = toy_task(bench, allowed=20)
    found = predicted_losses(task.baseline, most_damage(task))
    assert found == pytest.approx(TRUSTED * 20 * 20 / WEIGHTY_LOSSES, rel=1e-3)
