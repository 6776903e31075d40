from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from toys import NORMED, ROUTED, toy_images, toy_network

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.capsules.sites import hooked
from qcaps.data.spec import data_spec
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import array_sites, encoder_tensors, weight_sites
from qcaps.models.spec import filled
from qcaps.quantization.artifact import Artifact, artifact_bytes
from qcaps.quantization.formats import FixedPoint, Float32
from qcaps.quantization.loading import load
from qcaps.quantization.plan import BitPlan
from qcaps.reports.quantization import RoutingChange, SiteChange, UniformRouting
from qcaps.verbs.routing_proof import WATCHED, dead_router_notes, routing_change, uniform_routing

IMAGES = toy_images(ROUTED, 60)
# A step so large that every logit becomes 0.
DEAD = FixedPoint(2, -20)
LOGITS = ("class_caps.logits@1", "class_caps.logits@2")


def lively_network():
    """Build a toy network whose votes are large enough for its routing to change predictions."""
    network = toy_network(ROUTED)
    network.state_dict()["stages.class_caps.weight"].mul_(5)
    return network


def measured(predict, images, _phase=""):
    return measure(predict, images, batch_size=16)


def checkpoint(spec=ROUTED, network=None) -> Checkpoint:
    return Checkpoint(spec, encoder_tensors(network or lively_network()), data_spec("digits"), {})


def artifact(folder, spec=ROUTED, network=None, **formats):
    """Write an artifact in float but for some arrays, and load it."""
    network = network or lively_network()
    arrays = dict.fromkeys(array_sites(network, (spec.channels, spec.height, spec.width)), Float32())
    plan = BitPlan("round_to_nearest", dict.fromkeys(weight_sites(network), Float32()), {**arrays, **formats})
    (folder / "a.pt").write_bytes(artifact_bytes(Artifact(spec, data_spec("digits"), plan, 0, network, {})))
    return load(folder / "a.pt")


def ablated(folder, images=IMAGES, **formats) -> UniformRouting:
    source, file = checkpoint(), artifact(folder, **formats)
    quantized, in_float = measured(file.predictor(), images), measured(predictor(source.network()), images)
    return uniform_routing(measured, source, file, images, quantized, in_float)


def uniform_predictions(images):
    """Predict with coupling coefficients that a hook makes equal."""
    network = lively_network()

    def even(site, array):
        return torch.full_like(array, 1 / 3) if site.startswith("class_caps.coupling") else array

    with torch.inference_mode(), hooked(network, even):
        return network(images.pixels.float() / 255).scores.argmax(1)


def test_uniform_routing_is_measured_in_both_networks(tmp_path):
    found = ablated(tmp_path)
    accuracy = float((uniform_predictions(IMAGES) == IMAGES.labels).double().mean())
    assert (found.quantized_accuracy, found.float_accuracy, found.note) == (accuracy, accuracy, "")


def test_a_router_whose_logits_are_zero_is_found_by_its_predictions(tmp_path):
    found = ablated(tmp_path, **dict.fromkeys(LOGITS, DEAD))
    assert found.note == "uniform routing gives the very same predictions: routing is off in the quantized network"


def test_a_routing_that_earns_nothing_in_float_either_is_told_apart(tmp_path):
    in_float = measured(predictor(lively_network()), IMAGES).predictions
    same = IMAGES.subset((in_float == uniform_predictions(IMAGES)).nonzero().flatten())
    assert 0 < len(same) < len(IMAGES)
    assert "routing earns nothing on these images, in float either" in ablated(tmp_path, same).note


def test_a_network_that_routes_evenly_anyway_is_not_measured_again(tmp_path, monkeypatch):
    spec = dataclasses.replace(ROUTED, routing="uniform")
    network = filled(spec, encoder_tensors(lively_network()), where="")
    file, quantized = artifact(tmp_path, spec, network), measured(predictor(network), IMAGES)
    found = uniform_routing(pytest.fail, checkpoint(spec, network), file, IMAGES, quantized, quantized)
    assert found == UniformRouting(quantized.accuracy, quantized.accuracy, "")


def entropies_by_hand(images):
    """Add up the entropy of every lower capsule of every image, one by one."""
    found = {}

    def note(site, array):
        if site.startswith("class_caps.coupling"):
            rows = array.double().flatten(0, 1).tolist()
            entropies = [-sum(c * math.log(c) for c in row) / math.log(len(row)) for row in rows]
            found[site] = sum(entropies) / len(entropies)
        return array

    network = lively_network()
    with torch.inference_mode(), hooked(network, note):
        network(images.pixels.float() / 255)
    return found


def test_the_entropy_of_every_iteration_is_the_mean_over_images_and_capsules(tmp_path):
    found = routing_change(measured, checkpoint(), artifact(tmp_path), IMAGES)
    expected = entropies_by_hand(IMAGES)
    assert {change.site: change.in_float for change in found.entropy} == pytest.approx(expected, abs=1e-6)
    assert all(change.quantized == pytest.approx(change.in_float) for change in found.entropy)
    assert 0 < expected["class_caps.coupling@3"] < expected["class_caps.coupling@1"]
    assert found.images == len(IMAGES)


def test_logits_rounded_to_zero_are_counted_and_leave_the_coupling_even(tmp_path):
    found = routing_change(measured, checkpoint(), artifact(tmp_path, **{LOGITS[1]: DEAD}), IMAGES)
    assert {change.site: change.quantized for change in found.zero_logits} == {LOGITS[0]: 0, LOGITS[1]: 1}
    assert {change.site: change.in_float for change in found.zero_logits} == dict.fromkeys(LOGITS, 0)
    last = found.entropy[-1]
    assert last.site == "class_caps.coupling@3"
    assert last.quantized == pytest.approx(1, abs=1e-6)
    assert last.in_float < 0.999


def test_an_iteration_that_was_dropped_has_no_figure(tmp_path):
    shorter = dataclasses.replace(ROUTED, routing_passes=2)
    network = filled(shorter, encoder_tensors(lively_network()), where="")
    found = routing_change(measured, checkpoint(), artifact(tmp_path, shorter, network), IMAGES)
    assert [change.quantized is None for change in found.entropy] == [False, False, True]
    assert [change.quantized is None for change in found.zero_logits] == [False, True]


def test_only_the_first_images_are_looked_at(tmp_path):
    many = toy_images(ROUTED, WATCHED + 1)
    found = routing_change(measured, checkpoint(), artifact(tmp_path), many)
    assert found.images == WATCHED
    some = entropies_by_hand(many.subset(torch.arange(WATCHED)))
    assert abs(some["class_caps.coupling@3"] - entropies_by_hand(many)["class_caps.coupling@3"]) > 1e-5
    assert found.entropy[2].in_float == pytest.approx(some["class_caps.coupling@3"], abs=1e-6)


def test_a_network_without_logits_and_shares_tells_nothing(tmp_path):
    spec = dataclasses.replace(NORMED.folded(), routing="uniform")
    network = toy_network(spec)
    found = routing_change(measured, checkpoint(spec, network), artifact(tmp_path, spec, network), toy_images(spec, 8))
    assert found.zero_logits == ()


def test_every_dead_site_has_its_note_beside_that_of_the_predictions():
    changes = (
        SiteChange("a.logits@1", 0.0, 1.0),
        SiteChange("a.logits@2", 0.2, 0.99),
        SiteChange("b.logits", 1.0, 1.0),
    )
    routing = RoutingChange(10, (), changes)
    notes = dead_router_notes(UniformRouting(0.9, 0.9, "the very same"), routing)
    assert notes == ("the very same", "every logit is 0 at a.logits@1: it routes nothing in the quantized network")
    assert dead_router_notes(UniformRouting(0.9, 0.9, ""), RoutingChange(10, (), changes[1:])) == ()
