from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import MadeUpBench, haphazard, made_up_scores, made_up_subject, made_up_task

from qcaps.evaluation.tolerance import Tolerance
from qcaps.quantization.limits import Limits
from qcaps.quantization.search import exchanges
from qcaps.quantization.search.exchanges import PATIENCE, exchange
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.task import Task

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None, max_examples=40)


def prices_of(task: Task) -> Prices:
    widths = {group.name: task.widths[group.sites[0]] for group in task.groups}
    return Prices(task.subject, task.groups, widths, made_up_scores(task.groups, widths))


def damage(task: Task, widths: Widths) -> float:
    scores = prices_of(task).scores
    return sum(scores[group.name][widths[group.sites[0]]] for group in task.groups)


def exchanged(
    passes: Callable[[Widths], bool], start: Widths | None = None, **options: object
) -> tuple[Task, list[Widths]]:
    """Exchange from a plan on, 8 bits by default; give the task, and the plans that passed in order."""
    task = made_up_task(MadeUpBench(passes), **options)
    eight = {site: 8 if 8 in widths else widths[0] for site, widths in task.widths.items()}
    exchange(task, prices_of(task), start or eight)
    return task, [start or eight, *(tried.widths for tried in task.tried if tried.judgement.passed)]


@st.composite
def rules(draw: st.DrawFn) -> Callable[[Widths], bool]:
    """Draw what passes: by damage, or without any order."""
    salt, share = draw(st.integers(0, 10**6)), draw(st.integers(0, 100))
    if draw(st.booleans()):
        return haphazard(salt, share)
    bound = draw(st.floats(1e-9, 1.0))
    return lambda widths: sum(0.25**bits for bits in widths.values()) <= bound


@BRIEFLY
@given(rules(), st.sampled_from([0.0, 0.3, 1.0, 5.0]))
def test_every_exchange_makes_the_objective_smaller(passes: Callable[[Widths], bool], weight: float) -> None:
    task, accepted = exchanged(passes, activation_weight=weight)
    sizes = [task.objective(widths) for widths in accepted]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@BRIEFLY
@given(rules(), st.booleans())
def test_what_is_best_in_the_end_passes(passes: Callable[[Widths], bool], per_iteration: bool) -> None:
    task, accepted = exchanged(passes, per_iteration=per_iteration)
    assert all(passes(widths) for widths in accepted[1:])
    if task.best is not None:
        assert passes(task.best)
        assert task.objective(task.best) == min(task.objective(widths) for widths in accepted[1:])


@BRIEFLY
@given(rules(), st.booleans())
def test_widths_stay_among_those_allowed_and_pins_where_they_are(
    passes: Callable[[Widths], bool], per_iteration: bool
) -> None:
    pins = {"a.weight": 7, "c.logits@2": 5}
    task, _ = exchanged(passes, widths=(2, 4, 8), pins=pins, per_iteration=per_iteration)
    for tried in task.tried:
        assert all(bits in task.widths[site] for site, bits in tried.widths.items())
        assert tried.widths["a.weight"] == 7
        assert tried.widths["c.logits@2"] == 5


@BRIEFLY
@given(rules(), st.integers(1000, 6000), st.integers(500, 5000))
def test_within_budgets_nothing_else_is_tried(passes: Callable[[Widths], bool], memory: int, activations: int) -> None:
    task = made_up_task(MadeUpBench(passes), limits=Limits(Tolerance(Decimal(5)), memory, "payload", activations))
    start = dict.fromkeys(task.subject.sites, 2)
    exchange(task, prices_of(task), start, within_budgets=True)
    assert all(task.fits(tried.widths) for tried in task.tried)


def test_no_plan_is_refused_twice() -> None:
    task, _ = exchanged(lambda widths: widths["b.weight"] > 4)
    refused = [tuple(sorted(t.widths.items())) for t in task.tried if not t.judgement.passed]
    assert len(refused) == len(set(refused)) > 0


def test_patience_ends_the_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    task, accepted = exchanged(lambda widths: False)
    assert 4 < len(task.tried) <= PATIENCE
    monkeypatch.setattr(exchanges, "PATIENCE", 4)
    task, accepted = exchanged(lambda widths: False)
    assert (len(task.tried), len(accepted)) == (4, 1)


def test_where_everything_passes_all_that_is_heavy_ends_as_narrow_as_it_may_be() -> None:
    task, _ = exchanged(lambda widths: True)
    heavy = ("b.weight", "a.out", "c.votes")
    assert {task.promising[-1][site] if task.promising else task.best[site] for site in heavy} == {2}


def test_an_exchange_finds_what_no_single_step_reaches() -> None:
    # the votes may lose a step only while the logits, which cost less and do more damage, gain one
    def passes(widths: Widths) -> bool:
        fewest = {"c.votes": 6 if widths["c.logits@1"] >= 6 else 8, "c.logits@1": 4, "c.logits@2": 4}
        return all(bits >= fewest.get(site, 8) for site, bits in widths.items())

    start = {site: 4 if "logits" in site else 8 for site in made_up_subject().sites}
    task, accepted = exchanged(passes, start)
    assert len(accepted) == 2
    assert (task.best["c.votes"], task.best["c.logits@1"], task.best["a.out"]) == (6, 6, 8)


@pytest.mark.parametrize("per_iteration", [False, True])
def test_activations_that_count_nothing_are_not_exchanged(per_iteration: bool) -> None:
    task, _ = exchanged(lambda widths: widths["b.weight"] >= 6, activation_weight=0.0, per_iteration=per_iteration)
    assert all(
        bits >= 8
        for tried in task.tried
        for site, bits in tried.widths.items()
        if site in task.subject.calibration.arrays
    )
    assert task.best["b.weight"] == 6
