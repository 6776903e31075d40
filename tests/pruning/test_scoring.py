from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from prunable import NETWORKS, SHALLOW, drawn_tensors, labelled_images

from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.scoring import Score, class_scores, score, tied_with_best


def network_of(spec):
    return to_inference(filled(spec, drawn_tensors(build(spec)), where="test"))


def given_scores(monkeypatch, *rows, loss="margin"):
    """Score made-up class scores."""
    monkeypatch.setattr("qcaps.pruning.scoring.class_scores", lambda *_args, **_options: torch.tensor(rows))
    network = network_of(SHALLOW)
    network.loss = loss
    images = labelled_images(SHALLOW, len(rows))
    return network, dataclasses.replace(images, labels=torch.tensor([0] * len(rows)))


def test_the_class_scores_are_those_of_the_network_image_by_image():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, 5)
    found = class_scores(network, images)
    for row, pixels in zip(found, images.pixels, strict=True):
        torch.testing.assert_close(row, network(pixels.unsqueeze(0) / 255).scores[0])


def test_the_loss_is_the_margin_loss_of_lengths_by_hand(monkeypatch):
    network, images = given_scores(monkeypatch, [0.8, 0.3, 0.05], [0.95, 0.0, 0.0])
    found = score(network, images)
    assert found.per_image.tolist() == pytest.approx([0.1**2 + 0.5 * 0.2**2, 0.0])
    assert found.mean == pytest.approx(0.015)


def test_the_loss_of_logits_is_cross_entropy_by_hand(monkeypatch):
    network, images = given_scores(monkeypatch, [1.0, 2.0, 0.0], loss="cross-entropy")
    expected = math.log(math.e + math.e**2 + 1) - 1
    assert score(network, images).mean == pytest.approx(expected)


def test_the_loss_of_activations_is_the_spread_loss_with_its_last_margin(monkeypatch):
    network, images = given_scores(monkeypatch, [0.8, 0.3, 0.0], loss="spread")
    assert score(network, images).mean == pytest.approx(0.4**2 + 0.1**2)


def test_the_margin_is_the_lead_of_the_best_wrong_class(monkeypatch):
    network, images = given_scores(monkeypatch, [0.8, 0.3, 0.05], [0.2, 0.1, 0.9])
    found = score(network, images, criterion="margin")
    assert found.per_image.tolist() == pytest.approx([-0.5, 0.7])


def test_kl_is_the_divergence_of_presences_by_hand(monkeypatch):
    network, images = given_scores(monkeypatch, [0.8, 0.1, 0.5])
    unpruned = torch.tensor([[0.9, 0.1, 0.25]])
    first = 0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.1 / 0.2)
    last = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    found = score(network, images, criterion="kl", unpruned=unpruned)
    assert found.mean == pytest.approx(first + last, rel=1e-5)


@pytest.mark.parametrize("name", ["shallow-capsnet", "em-capsnet", "cnn-small"])
def test_the_unpruned_network_does_not_diverge_from_itself(name):
    network, images = network_of(NETWORKS[name]), labelled_images(NETWORKS[name], 6)
    unpruned = class_scores(network, images)
    found = score(network, images, criterion="kl", unpruned=unpruned)
    assert found.per_image.tolist() == [0.0] * 6


@pytest.mark.parametrize("criterion", ["loss", "margin", "kl"])
def test_top_1_is_told_with_every_criterion(monkeypatch, criterion):
    network, images = given_scores(monkeypatch, [0.8, 0.3, 0.1], [0.2, 0.1, 0.9], [0.3, 0.2, 0.1])
    found = score(network, images, criterion=criterion, unpruned=torch.full((3, 3), 0.5))
    assert found.correct == 2
    assert found.top1 == pytest.approx(2 / 3)


def scores_of(*rows):
    return [Score(torch.tensor(row), 0) for row in rows]


def test_the_error_is_that_of_the_paired_difference():
    one, other = scores_of([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 5.0])
    # Differences 0, 1, 0, -1: variance 2/3, of their mean a quarter of that.
    assert one.error_against(other) == pytest.approx(math.sqrt(2 / 3 / 4))


def test_scores_that_move_together_have_no_error():
    one, other = scores_of([1.0, 5.0, 9.0], [2.0, 6.0, 10.0])
    assert one.error_against(other) == 0


def test_the_best_come_first_and_ties_go_to_the_earlier():
    assert tied_with_best(scores_of([3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [1.0, 1.0]), 3) == [1, 3, 2]


def test_a_candidate_within_one_standard_error_of_the_kth_best_is_tied_with_it():
    best, second = [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]
    # Differences to the second: -1, 1, -1, 1.4 with mean 0.1 and error 0.64; and 0.2 four times, with none.
    close, apart = [0.0, 2.0, 0.0, 2.4], [1.2, 1.2, 1.2, 1.2]
    assert tied_with_best(scores_of(apart, close, second, best), 2) == [3, 2, 1]


def test_a_candidate_equal_to_the_kth_best_is_tied_with_it():
    assert tied_with_best(scores_of([1.0, 1.0], [1.0, 1.0], [2.0, 2.0]), 1) == [0, 1]


def test_fewer_candidates_than_asked_for_are_all_best():
    assert tied_with_best(scores_of([2.0], [1.0]), 5) == [1, 0]


def test_a_score_that_is_no_number_is_the_worst():
    assert tied_with_best(scores_of([math.nan, 0.0], [9.0, 9.0]), 1) == [1]
    assert tied_with_best(scores_of([math.nan, 0.0], [9.0, 9.0]), 2) == [1, 0]
