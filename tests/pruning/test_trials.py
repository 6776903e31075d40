from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import re
import weakref

import pytest
import torch
from toy_pruning import images_of, opened, toy_budget, toy_costs, toy_source

from qcaps.data.images import ImageSet
from qcaps.data.preparation import Preparation
from qcaps.evaluation.ends import Ends, Halt
from qcaps.models.network import CapsuleNetwork
from qcaps.progress import Step, silent
from qcaps.pruning import trials as trials_module
from qcaps.pruning.candidates import Proposal, recalibrated
from qcaps.pruning.recalibration import recalibration
from qcaps.pruning.scoring import Score, score
from qcaps.pruning.trials import Trials

WIDTHS = {"conv1.channels": 3, "conv2.channels": 7, "conv3.channels": 8, "primary.types": 3, "primary.dims": 5}
BEGIN = Step("candidates", 0, 3)
PROPOSALS = [Proposal(place, "drawn", {**WIDTHS, "conv1.channels": 3 + place}) for place in range(3)]


def trials_of(source=None, journal=None, **options):
    surroundings = {"criterion": "loss", "on_progress": silent, "ends": Ends(), **options}
    return Trials(source or toy_source(), [toy_budget()], toy_costs(), journal=journal, **surroundings)


def scored_with(folder, proposals=PROPOSALS[:1], **options):
    """Score in a folder; give the trials."""
    with opened(folder) as journal:
        trials = trials_of(journal=journal, **options)
        trials.run(proposals, BEGIN)
    return trials


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the images that pass through any network; what has no numbers computes nothing."""
    images: list[int] = []
    forward = CapsuleNetwork.forward

    def counting(network, pixels):
        images.append(0 if pixels.is_meta else len(pixels))
        return forward(network, pixels)

    monkeypatch.setattr(CapsuleNetwork, "forward", counting)
    return images


@pytest.mark.parametrize("values", [[0.1, math.pi, -2.5], [1e-45, -0.0, math.inf, 3.4e38], [math.nan, 1.0]])
@pytest.mark.parametrize("correct", [0, 3, 65_535, 65_536, 10_000_000])
def test_a_score_comes_back_from_the_journal_bit_for_bit(tmp_path, monkeypatch, values, correct):
    made = Score(torch.tensor(values), correct)
    monkeypatch.setattr(trials_module, "scored", lambda *_: made)
    first = scored_with(tmp_path).candidates[0].score
    monkeypatch.delattr(trials_module, "scored")
    again = scored_with(tmp_path).candidates[0].score
    for found in (first, again):
        assert found.per_image.dtype == torch.float32
        assert found.per_image.numpy().tobytes() == made.per_image.numpy().tobytes()
        assert found.correct == correct


def test_what_the_journal_knows_is_not_scored_again(tmp_path, counted):
    first = scored_with(tmp_path, PROPOSALS)
    assert (first.scored_now, first.image_forwards) == (3, 90)
    assert sum(counted) == 90  # recalibration passes through stages
    again = scored_with(tmp_path, PROPOSALS)
    assert (again.scored_now, again.image_forwards) == (0, 90)
    assert sum(counted) == 90
    for one, other in zip(first.candidates, again.candidates, strict=True):
        assert one.score.per_image.equal(other.score.per_image)


def test_number_and_origin_are_no_content(tmp_path):
    scored_with(tmp_path)
    again = scored_with(tmp_path, [Proposal(70, "given", PROPOSALS[0].widths)])
    assert again.scored_now == 0
    assert (again.candidates[0].number, again.candidates[0].origin) == (70, "given")


def one_weight_changed(source):
    tensors = {name: tensor.clone() for name, tensor in source.tensors.items()}
    weight = tensors["stages.class_caps.weight"]
    last = (-1,) * weight.dim()
    weight[last] = torch.nextafter(weight[last], torch.tensor(9.0))
    return dataclasses.replace(source, tensors=tensors)


def other_units_kept(source):
    return dataclasses.replace(source, scores={name: -scores for name, scores in source.scores.items()})


def calibrated_on(images: ImageSet, method="batch-norm"):
    def change(source):
        found = recalibration(source.network, images, method=method, batch_size=12)
        return dataclasses.replace(source, calibration=images, recalibration=found)

    return change


CHANGES = {
    "weight": one_weight_changed,
    "units": other_units_kept,
    "calibration images": calibrated_on(images_of("train", 24, 100)),
    "recalibration": calibrated_on(images_of("train", 24, 0), "mean-fold"),
    "scoring images": lambda source: dataclasses.replace(source, scoring=images_of("validation", 30, 2000)),
    "preparation": lambda source: dataclasses.replace(
        source, scoring=dataclasses.replace(source.scoring, preparation=Preparation(256))
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_score_is_not_taken_over_when_anything_changed_that_it_depends_on(tmp_path, change):
    scored_with(tmp_path)
    assert scored_with(tmp_path, source=CHANGES[change](toy_source())).scored_now == 1
    assert scored_with(tmp_path).scored_now == 0


@pytest.mark.parametrize("version", ["NUMERICS_VERSION", "torch"])
def test_a_score_is_not_taken_over_from_another_version(tmp_path, monkeypatch, version):
    scored_with(tmp_path)
    if version == "torch":
        monkeypatch.setattr(torch, "__version__", "0.4.1")
    else:
        monkeypatch.setattr(trials_module, version, 99)
    assert scored_with(tmp_path).scored_now == 1


@pytest.mark.parametrize("criterion", ["margin", "kl"])
def test_a_score_is_not_taken_over_by_another_criterion(tmp_path, criterion):
    scored_with(tmp_path)
    assert scored_with(tmp_path, criterion=criterion).scored_now == 1


def test_by_divergence_candidates_are_compared_with_the_source():
    unchanged = dataclasses.replace(toy_source().recalibration, apply=lambda network, kept: None)
    source = dataclasses.replace(toy_source(), recalibration=unchanged)
    whole = {unit.name: unit.count for unit in source.network.units}
    trials = scored_with(None, [PROPOSALS[0], Proposal(1, "given", whole)], source=source, criterion="kl")
    of_part, of_whole = (one.score.per_image for one in trials.candidates)
    assert of_whole.abs().max() < 1e-6
    assert of_part.mean() > 1e-3


def test_a_strategy_is_scored_once():
    twice = [*PROPOSALS[:2], Proposal(5, "improved from 0", dict(reversed(PROPOSALS[1].widths.items())))]
    trials = trials_of()
    trials.run(twice, BEGIN)
    trials.run([Proposal(6, "given", PROPOSALS[0].widths)], BEGIN)
    assert [one.number for one in trials.candidates] == [0, 1]
    assert trials.scored_now == 2


def test_the_best_come_first_and_of_equals_the_earlier(monkeypatch):
    losses = {3: 0.4, 4: 0.2, 5: 0.2}
    by_width = lambda _source, widths, *_: Score(torch.full((2,), losses[widths["conv1.channels"]]), 1)  # noqa: E731
    monkeypatch.setattr(trials_module, "scored", by_width)
    trials = trials_of()
    trials.run(PROPOSALS[::-1], BEGIN)
    assert [one.number for one in trials.best()] == [1, 2, 0]


def test_progress_counts_candidates_and_notes_the_best(tmp_path):
    scored_with(tmp_path, PROPOSALS[:1])
    told: list[Step] = []
    trials = scored_with(tmp_path, [*PROPOSALS, PROPOSALS[2]], on_progress=told.append)
    # One was known, one is there twice.
    assert [(step.phase, step.done, step.total) for step in told] == [("candidates", done, 3) for done in (2, 3, 4)]
    best = min(one.score.mean for one in trials.candidates)
    assert told[-1].note == f"best {best:.4f}"
    assert all(re.fullmatch(r"best \d\.\d{4}", step.note) for step in told)


def test_an_end_comes_before_the_next_candidate_and_loses_none():
    asked = iter(["", "", "time budget"])

    class Ending(Ends):
        def reason(self, image_forwards):
            return next(asked)

    trials = trials_of(ends=Ending())
    with pytest.raises(Halt, match="time budget"):
        trials.run(PROPOSALS, BEGIN)
    assert [one.number for one in trials.candidates] == [0, 1]


def test_what_the_journal_knows_needs_no_time(tmp_path):
    scored_with(tmp_path, PROPOSALS)
    trials = scored_with(tmp_path, PROPOSALS, ends=Ends(stop=lambda: True))
    assert len(trials.candidates) == 3


def test_a_score_is_that_of_the_cut_and_recalibrated_network():
    source = toy_source()
    trials = trials_of(source)
    trials.run(PROPOSALS[:1], BEGIN)
    found, by_hand = trials.candidates[0].score, score(recalibrated(source, WIDTHS), source.scoring)
    assert found.per_image.equal(by_hand.per_image)
    assert found.correct == by_hand.correct


def test_a_hundred_candidates_leave_no_network_alive():
    source = toy_source()
    alive: weakref.WeakSet[CapsuleNetwork] = weakref.WeakSet()
    counts = []

    def apply(network, kept):
        alive.add(network)
        counts.append(len(alive))

    several = itertools.product(range(1, 9), range(1, 13), [4, 5], [2], [4])
    widths = [dict(zip(WIDTHS, each, strict=True)) for each in itertools.islice(several, 100)]
    noting = dataclasses.replace(source.recalibration, apply=apply)
    few = dataclasses.replace(source, recalibration=noting, scoring=source.scoring.subset(torch.arange(2)))
    gc.collect()
    before = sum(type(one) is CapsuleNetwork for one in gc.get_objects())
    trials = scored_with(None, [Proposal(number, "given", each) for number, each in enumerate(widths)], source=few)
    gc.collect()
    assert len(trials.candidates) == len(counts) == 100
    assert max(counts) <= 2  # the one before may still be on its way out
    assert len(alive) == 0
    assert sum(type(one) is CapsuleNetwork for one in gc.get_objects()) == before
