from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from toy_pruning import KEPT, plain, searched, toy_budget, toy_costs, toy_rules, toy_source

from qcaps.data.images import ImageSet
from qcaps.errors import InfeasibleError, UsageError
from qcaps.evaluation.ends import INTERRUPT, Ends
from qcaps.pruning import trials as trials_module
from qcaps.pruning.drawing import draw
from qcaps.pruning.scoring import Score

MODEL = toy_costs()
COUNTS = MODEL.vector({})
SOURCE = toy_source()
# A strategy that uses the target up: in the tests that score no network, the loss of another is how far it is from it.
OPTIMUM = MODEL.vector(draw(99, seed=0, budgets=[toy_budget()], rules=toy_rules()).widths) / COUNTS


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Score strategies instead of networks, and list them."""
    found: list[tuple[int, ...]] = []

    def score(source, widths, criterion, unpruned):
        found.append(tuple(widths.values()))
        squares = np.square(MODEL.vector(widths) / COUNTS - OPTIMUM)
        return Score(torch.tensor(squares, dtype=torch.float32).repeat(3), 1)

    monkeypatch.setattr(trials_module, "scored", score)
    return found


def best_of(found):
    return found.candidates[found.ranked[0]].score.mean


def stopping_after(count: int) -> Ends:
    """Make the wish to stop that comes when so many candidates are scored."""
    asked = itertools.count()
    return Ends(stop=lambda: next(asked) >= count)


def test_the_same_seed_finds_the_same_candidates_and_scores():
    first, again, other = (plain(searched(SOURCE, candidates=3, improve=3, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first["candidates"] != other["candidates"]


@pytest.mark.usefixtures("scored")
def test_random_candidates_are_those_that_are_drawn():
    found = searched(SOURCE, improve=0)
    drawn = [draw(number, seed=3, budgets=[toy_budget()], rules=toy_rules()).widths for number in range(6)]
    assert [one.widths for one in found.candidates] == drawn
    assert [(one.number, one.origin) for one in found.candidates] == [(number, "drawn") for number in range(6)]


@pytest.mark.usefixtures("scored")
def test_every_candidate_meets_its_target_as_far_as_single_units_allow():
    one = toy_budget()
    for candidate in searched(SOURCE, candidates=20, improve=20).candidates:
        widths = MODEL.vector(candidate.widths)
        assert candidate.shares["flops"] == one.share(widths) <= KEPT
        wider = [w for w in widths + np.eye(len(widths), dtype=np.int64) if (w <= COUNTS).all()]
        assert candidate.shares["flops"] > KEPT - 0.001 or not any(one.holds(w) for w in wider)


@pytest.mark.usefixtures("scored")
def test_candidates_come_by_number_and_are_ranked_by_score():
    found = searched(SOURCE)
    numbers = [one.number for one in found.candidates]
    assert numbers == sorted(numbers)
    means = [found.candidates[place].score.mean for place in found.ranked]
    assert means == sorted(means)
    assert sorted(found.ranked) == list(range(len(found.candidates)))


def test_the_finalists_are_the_best_and_what_is_tied_with_the_last_of_them(monkeypatch):
    losses = iter([0.1, 0.4, 0.2, 0.3, 0.21, 0.5])
    spread = torch.tensor([-0.1, 0.1] * 8)  # a standard error of some 0.03

    def made(*_):
        loss = next(losses)
        return Score(loss + (spread if loss == 0.21 else 0 * spread), 1)

    monkeypatch.setattr(trials_module, "scored", made)
    assert searched(SOURCE, improve=0, top_k=2).finalists == (0, 2, 4)


@pytest.mark.usefixtures("scored")
def test_improved_candidates_name_the_one_they_come_from():
    found = searched(SOURCE)
    means = {one.number: one.score.mean for one in found.candidates}
    improved = [one for one in found.candidates if one.origin != "drawn"]
    second_best = sorted(one.score.mean for one in found.candidates if one.origin == "drawn")[1]
    assert [one.number for one in improved] == list(range(6, 16))
    for one in improved:
        parent = int(one.origin.removeprefix("improved from "))
        assert parent < one.number
        assert means[parent] <= second_best


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("seed", range(3))
def test_improvement_never_ends_worse_than_random_draws_alone(seed):
    alone, improved = searched(SOURCE, improve=0, seed=seed), searched(SOURCE, seed=seed)
    assert best_of(improved) <= best_of(alone)
    drawn = [dict(one.widths) for one in alone.candidates]
    assert [dict(one.widths) for one in improved.candidates][: len(drawn)] == drawn


@pytest.mark.usefixtures("scored")
def test_improvement_comes_nearer_to_a_known_optimum_than_as_many_random_draws():
    nearer = 0
    for seed in range(6):
        more = searched(SOURCE, candidates=30, improve=0, seed=seed)
        improved = searched(SOURCE, candidates=15, improve=15, seed=seed)
        assert len(improved.candidates) <= 30
        assert best_of(improved) < 0.01  # half a unit of eight on average
        nearer += best_of(improved) < best_of(more)
    assert nearer >= 5


@pytest.mark.usefixtures("scored")
def test_fewer_improvements_are_the_first_of_more():
    fewer, more = (searched(SOURCE, improve=improve).candidates for improve in (11, 16))
    assert [one.widths for one in fewer] == [one.widths for one in more[: len(fewer)]]


@pytest.mark.usefixtures("scored")
def test_when_no_strategy_is_left_the_search_is_over():
    told = []
    found = searched(SOURCE, candidates=1, improve=9, on_progress=told.append, budgets=())
    assert [one.widths for one in found.candidates] == [MODEL.units]
    assert [(step.phase, step.done, step.total) for step in told] == [
        ("candidates", 0, 1),
        ("candidates", 1, 1),
        ("improve", 9, 9),
    ]


@pytest.mark.usefixtures("scored")
def test_given_strategies_are_scored_beside_the_drawn_ones():
    widths = {"conv1.channels": 2, "conv2.channels": 8, "conv3.channels": 9, "primary.types": 4, "primary.dims": 5}
    found = searched(SOURCE, given=[widths], improve=2)
    assert found.candidates[6].widths == widths
    assert [one.origin.split()[0] for one in found.candidates[5:]] == ["drawn", "given", "improved", "improved"]


def test_a_given_strategy_above_the_target_is_refused_before_anything_is_scored(scored):
    with pytest.raises(UsageError, match=r"keeps 1 of the MACs, more than the target \(--flops\)"):
        searched(SOURCE, given=[dict(MODEL.units)])
    assert scored == []


@pytest.mark.usefixtures("scored")
def test_without_targets_a_given_strategy_is_scored_as_it_is():
    found = searched(SOURCE, budgets=(), candidates=0, improve=0, given=[dict(MODEL.units)])
    assert [dict(one.shares) for one in found.candidates] == [{"flops": 1.0, "params": 1.0}]
    assert found.finalists == (0,)


def test_a_target_out_of_reach_is_refused_before_anything_is_scored(scored):
    with pytest.raises(InfeasibleError, match="the narrowest keeps"):
        searched(SOURCE, budgets=[toy_budget(0.001)])
    assert scored == []


def test_every_criterion_gives_scores_of_its_own():
    found = [searched(SOURCE, candidates=2, improve=0, criterion=name) for name in ("loss", "margin", "kl")]
    assert len({one.candidates[0].score.mean for one in found}) == 3
    assert len({one.candidates[0].score.correct for one in found}) == 1


def test_image_forwards_are_pairs_of_a_candidate_and_a_scoring_image(tmp_path, scored):
    found, again = searched(SOURCE, tmp_path), searched(SOURCE, tmp_path)
    assert found.image_forwards == again.image_forwards == 30 * 16
    assert (found.scored_now, again.scored_now) == (16, 0)
    assert len(scored) == 16


@pytest.mark.parametrize("count", [0, 1, 5, 6, 9, 13, 14, 15])
def test_a_stopped_search_ends_as_an_uninterrupted_one_and_repeats_nothing(tmp_path, scored, count):
    whole = searched(SOURCE)
    expected = sorted(scored)
    scored.clear()
    stopped = searched(SOURCE, tmp_path, ends=stopping_after(count))
    assert (stopped.stopped, len(stopped.candidates)) == (INTERRUPT, count)
    continued = searched(SOURCE, tmp_path)
    assert sorted(scored) == expected
    for one, other in zip(continued.candidates, whole.candidates, strict=True):
        assert (one.number, one.origin, one.widths) == (other.number, other.origin, other.widths)
        assert one.score.per_image.equal(other.score.per_image)
    assert (continued.ranked, continued.finalists, continued.stopped) == (whole.ranked, whole.finalists, "")


@pytest.mark.parametrize("count", [0, 4, 7, 12])
def test_a_killed_search_loses_no_more_than_the_candidate_under_way(tmp_path, scored, monkeypatch, count):
    score = trials_module.scored

    def killed(*given):
        if len(scored) == count:
            raise KeyboardInterrupt
        return score(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "scored", killed)
        with pytest.raises(KeyboardInterrupt):
            searched(SOURCE, tmp_path)
    continued = searched(SOURCE, tmp_path)
    assert continued.scored_now == 16 - count
    assert len(scored) == len(set(scored)) == 16
    assert [one.widths for one in continued.candidates] == [one.widths for one in searched(SOURCE).candidates]


def test_a_real_search_continues_where_it_was_stopped(tmp_path):
    numbers = {"candidates": 4, "improve": 3}
    assert searched(toy_source(), tmp_path, ends=stopping_after(5), **numbers).scored_now == 5
    continued = searched(toy_source(), tmp_path, **numbers)
    assert continued.scored_now == 2
    assert plain(continued) == plain(searched(toy_source(), **numbers))


@pytest.mark.usefixtures("scored")
def test_when_the_time_is_over_the_best_so_far_is_there():
    clock = itertools.count().__next__  # a second passes whenever it is asked
    found = searched(SOURCE, ends=Ends(seconds=8, start=0.0, clock=clock))
    assert (found.stopped, len(found.candidates)) == ("time budget", 9)
    assert best_of(found) == min(one.score.mean for one in found.candidates)
    assert found.finalists[:2] == found.ranked[:2]


@pytest.mark.usefixtures("scored")
def test_a_limit_of_image_forwards_ends_the_search():
    found = searched(SOURCE, ends=Ends(image_forwards=100))
    assert (found.stopped, len(found.candidates)) == ("limit of image-forwards", 4)


@pytest.mark.usefixtures("scored")
def test_a_search_that_is_stopped_at_once_has_no_candidates():
    found = searched(SOURCE, ends=stopping_after(0))
    assert (found.candidates, found.ranked, found.finalists, found.stopped) == ((), (), (), INTERRUPT)


@pytest.mark.parametrize("method", ["batch-norm", "least-squares", "tuning"])
def test_the_source_and_the_random_states_stay_as_they_are(method):
    source = toy_source(method)
    modules = list(source.network.modules())
    modules[3].train()
    flags = [(m.training, [p.requires_grad for p in m.parameters(recurse=False)]) for m in modules]
    tensors = {name: tensor.clone() for name, tensor in source.network.state_dict().items()}
    given = {name: tensor.clone() for name, tensor in source.tensors.items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    searched(source, candidates=2, improve=1, criterion="kl")
    assert [(m.training, [p.requires_grad for p in m.parameters(recurse=False)]) for m in modules] == flags
    assert all(tensor.equal(tensors[name]) for name, tensor in source.network.state_dict().items())
    assert all(tensor.equal(given[name]) for name, tensor in source.tensors.items())
    assert torch.get_rng_state().equal(states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_scores_are_made_of_scoring_images_alone(monkeypatch):
    """Whatever else is looked at, judged are the images that the source holds for it."""
    judged: list[ImageSet] = []
    score = Score(torch.zeros(3), 1)
    monkeypatch.setattr("qcaps.pruning.candidates.score", lambda network, images, **_: judged.append(images) or score)
    searched(SOURCE, candidates=2, improve=1)
    assert all(images is SOURCE.scoring for images in judged)
    assert len(judged) == 3
