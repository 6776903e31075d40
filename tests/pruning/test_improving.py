from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_pruning import PRUNED, toy_budget, toy_costs, toy_rules

from qcaps.models.spec import build
from qcaps.pruning import improving
from qcaps.pruning.candidates import Candidate
from qcaps.pruning.drawing import draw
from qcaps.pruning.improving import moved, neighbours
from qcaps.pruning.isomorphic import alike, isomorphic_rules
from qcaps.pruning.scoring import Score
from qcaps.pruning.strategy import width_rules

MODEL = toy_costs()
BUDGETS = (toy_budget(),)
PARENT = draw(0, seed=0, budgets=BUDGETS, rules=toy_rules()).widths


def move(number, parent=None, **options):
    given = {"seed": 0, "budgets": BUDGETS, "rules": toy_rules(), "known": [], **options}
    return moved(parent or PARENT, number, **given)


def test_a_move_gives_up_units_of_one_kind_and_gets_others():
    for number in range(30):
        change = MODEL.vector(move(number, known=[PARENT])) - MODEL.vector(PARENT)
        assert change.min() < 0 < change.max()


def test_a_move_meets_every_budget_and_leaves_no_room_for_a_unit_more():
    (one,) = BUDGETS
    for number in range(30):
        widths = MODEL.vector(move(number))
        assert one.holds(widths)
        grown = [widths + step for step in np.eye(len(widths), dtype=np.int64)]
        whole = MODEL.vector({})
        wider = [each for each in grown if (each <= whole).all()]
        assert one.target.kept - one.share(widths) <= 0.001 or not any(one.holds(each) for each in wider)


def test_a_move_stays_within_the_caps():
    narrowest = toy_rules().narrowest
    for number in range(30):
        widths = MODEL.vector(move(number))
        assert (narrowest <= widths).all()
        assert (widths <= MODEL.vector({})).all()


def test_units_that_may_not_be_cut_do_not_move():
    caps = {"*": 0.75, "primary.*": 0.0}
    rules = width_rules(MODEL.units, caps=caps)
    parent = draw(0, seed=0, budgets=BUDGETS, rules=rules).widths
    for number in range(20):
        found = move(number, parent, rules=rules)
        assert (found["primary.types"], found["primary.dims"]) == (4, 6)


def test_a_move_depends_on_the_seed_and_its_number_alone():
    found = [move(number) for number in range(10)]
    assert [move(number) for number in reversed(range(10))] == found[::-1]
    assert [move(number, seed=1) for number in range(10)] != found
    assert len({tuple(widths.values()) for widths in found}) > 3


def test_what_is_known_is_not_found_again():
    known = [PARENT]
    for number in range(20):
        known.append(move(number, known=known))
    assert len({tuple(widths.values()) for widths in known}) == 21


def test_when_every_strategy_is_known_there_is_no_move():
    class Everything:
        def __contains__(self, widths):
            return True

    assert move(0, known=Everything()) is None


def test_a_single_kind_of_unit_has_nothing_to_exchange_with():
    rules = width_rules(MODEL.units, caps={"conv2.channels": 0.75})
    parent = draw(0, seed=0, budgets=[toy_budget(0.8)], rules=rules).widths
    assert move(0, parent, rules=rules, budgets=[toy_budget(0.8)]) is None


def test_layers_that_are_built_alike_keep_to_one_threshold():
    network = build(PRUNED)
    assert ("conv2.channels", "conv3.channels") in alike(network)
    scores = {unit.name: torch.rand(unit.count, dtype=torch.float64) for unit in network.units}
    rules = isomorphic_rules(toy_rules(), network, scores)
    parent = draw(0, seed=0, budgets=BUDGETS, rules=rules).widths
    for number in range(10):
        gone = MODEL.vector({}) - MODEL.vector(move(number, parent, rules=rules, known=[parent]))
        for one in rules.classes:
            # What fills the budget up may let a layer stop a unit or two before the others.
            assert abs(one.gone - gone[one.units]).sum(1).min() <= 2


def test_among_many_kinds_several_are_exchanged_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(improving, "meet", lambda _budgets, rules, direction: seen.append(direction) or rules.narrowest)
    rules = width_rules(dict.fromkeys((f"conv{place}.channels" for place in range(40)), 100), caps={"*": 1.0})
    half = dict.fromkeys(rules.counts, 50)
    for number in range(60):
        moved(half, number, seed=0, budgets=[], rules=rules, known=[])
    changes = np.array(seen) - rules.ratios(np.full(40, 50))
    assert {int((row > 0).sum()) for row in changes} == set(range(1, 11))
    assert all((row > 0).sum() == (row < 0).sum() for row in changes)
    assert all(row.sum() == pytest.approx(0) for row in changes if abs(row).max() < 0.49)


def candidates_of(*widths):
    score = Score(torch.zeros(2), 0)
    return [Candidate(number, "drawn", each, {}, score) for number, each in enumerate(widths)]


def near(best, numbers=range(10, 14), **options):
    return neighbours(best, numbers, **{"seed": 0, "budgets": BUDGETS, "rules": toy_rules(), **options})


def test_neighbours_come_from_the_two_best_in_turn():
    best = candidates_of(*(draw(number, seed=0, budgets=BUDGETS, rules=toy_rules()).widths for number in range(3)))
    found = near(best)
    assert [(one.number, one.origin) for one in found] == [
        (10, "improved from 0"),
        (11, "improved from 1"),
        (12, "improved from 0"),
        (13, "improved from 1"),
    ]
    assert found[1].widths == move(11, best[1].widths)


def test_neighbours_are_new_and_differ():
    best = candidates_of(*(draw(number, seed=0, budgets=BUDGETS, rules=toy_rules()).widths for number in range(3)))
    found = [one.widths for one in near(best, range(20))]
    assert len({tuple(widths.values()) for widths in [*found, *(one.widths for one in best)]}) == 23


def test_a_strategy_without_new_neighbours_gives_way_to_the_next(monkeypatch):
    around = {1: iter([{"a": 1}]), 4: iter([{"a": 2}, {"a": 3}])}
    monkeypatch.setattr(improving, "moved", lambda widths, *_, **__: next(around.get(widths["a"], iter(())), None))
    found = near(candidates_of({"a": 0}, {"a": 1}, {"a": 4}))
    assert [(one.number, one.widths["a"]) for one in found] == [(10, 1), (11, 2), (12, 3)]


def test_of_nothing_there_are_no_neighbours():
    assert near([]) == []
