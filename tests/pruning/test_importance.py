from __future__ import annotations

import pytest
import torch
from prunable import DEEP, EFFICIENT, MOBILE, NETWORKS, SHALLOW, drawn_tensors, labelled_images

from qcaps.errors import QcapsError
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.coupling import coupling
from qcaps.pruning.importance import importance
from qcaps.pruning.magnitude import magnitude
from qcaps.pruning.taylor import taylor


def network_of(spec):
    return to_inference(filled(spec, drawn_tensors(build(spec)), where="toy"))


def on(spec):
    return labelled_images(spec, 3)


def same(found, expected):
    return found.keys() == expected.keys() and all(scores.equal(expected[name]) for name, scores in found.items())


def test_every_criterion_is_its_own():
    network, images = network_of(SHALLOW), on(SHALLOW)
    assert same(importance("l1", network).scores, magnitude(network, 1))
    assert same(importance("l2", network).scores, magnitude(network, 2))
    expected = taylor(network, images)
    assert same(importance("taylor", network, images).scores, expected)
    assert not same(expected, magnitude(network, 1))


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor", "coupling", "random"])
@pytest.mark.parametrize("name", ["shallow-capsnet, learned table", "em-capsnet", "mobilenetv1-capsnet", "cnn-cr-sf"])
def test_every_unit_of_every_network_is_judged(name, criterion):
    spec = NETWORKS[name]
    network = network_of(spec)
    found = importance(criterion, network, on(spec))
    assert {unit: (*scores.shape, scores.dtype) for unit, scores in found.scores.items()} == {
        unit.name: (unit.count, torch.float64) for unit in network.units
    }
    assert list(found.scores) == [unit.name for unit in network.units]


def test_what_votes_for_no_class_is_judged_by_its_weights_and_said_to_be():
    network, images = network_of(DEEP), on(DEEP)
    found = importance("coupling", network, images)
    heard = {"block3.types", "block4.types", "block3.dims"}
    assert set(found.by_l1) == {unit.name for unit in network.units} - heard
    by_l1, by_coupling = magnitude(network, 1), coupling(network, images)
    expected = {name: (by_coupling if name in heard else by_l1)[name] for name in found.scores}
    assert same(found.scores, expected)


def test_nothing_is_judged_by_weights_where_the_criterion_judges_all():
    assert importance("taylor", network_of(EFFICIENT), on(EFFICIENT)).by_l1 == ()
    assert importance("random", network_of(EFFICIENT)).by_l1 == ()


def test_the_draws_follow_from_the_seed_and_the_name_of_the_unit():
    network = network_of(EFFICIENT)
    found, again, other = (importance("random", network, seed=seed).scores for seed in (3, 3, 4))
    assert same(found, again)
    assert not any(scores.equal(other[name]) for name, scores in found.items())
    alone = importance("random", network_of(MOBILE), seed=3).scores
    assert not alone["stem.channels"][:4].equal(found["conv1.channels"])


def test_the_draws_of_a_unit_are_the_same_in_another_network():
    spec = EFFICIENT.with_widths({"conv2.channels": 3})
    found, other = (importance("random", network_of(each), seed=3).scores for each in (EFFICIENT, spec))
    assert found["conv1.channels"].equal(other["conv1.channels"])


def test_images_are_asked_for():
    with pytest.raises(ValueError, match="taylor judges units on images"):
        importance("taylor", network_of(EFFICIENT))


def test_an_importance_that_is_not_a_number_is_an_error():
    network = network_of(EFFICIENT)
    network.stages["conv2"].conv.weight[1] = torch.nan
    with pytest.raises(QcapsError, match=r"the l1 importance of conv2\.channels is not a number"):
        importance("l1", network)
