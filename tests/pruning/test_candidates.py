from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch
from toy_pruning import PRUNED, images_of, toy_budget, toy_costs, toy_source

from qcaps.evaluation.cost import network_cost
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import CapsuleNetwork, array_sites
from qcaps.models.spec import image_of, initialised
from qcaps.pruning.candidates import kept_shares, recalibrated, scored

WIDTHS = {"conv1.channels": 3, "conv2.channels": 7, "conv3.channels": 8, "primary.types": 3, "primary.dims": 5}


@pytest.mark.parametrize("purpose", ["scoring", "calibration"])
def test_test_images_neither_score_nor_calibrate(purpose):
    with pytest.raises(ValueError, match="no test images"):
        dataclasses.replace(toy_source(), **{purpose: images_of("test", 5, 5000)})


def test_an_image_that_calibrates_cannot_judge():
    source = toy_source(calibration=24)  # images 0 to 23 of the training file
    with pytest.raises(ValueError, match="cannot judge"):
        dataclasses.replace(source, scoring=images_of("validation", 10, 23))
    assert len(dataclasses.replace(source, scoring=images_of("validation", 10, 24)).scoring) == 10


def test_images_of_another_data_set_may_have_the_same_numbers():
    source = toy_source()
    other = dataclasses.replace(images_of("train", 10, 0), dataset="mnist")
    assert dataclasses.replace(source, scoring=other).scoring is other


def test_a_candidate_has_its_widths_and_the_form_of_the_source():
    source = toy_source()
    network = recalibrated(source, WIDTHS)
    assert {unit.name: unit.count for unit in network.units} == WIDTHS
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    shapes = array_sites(initialised(PRUNED.with_widths(WIDTHS), 0), image_of(PRUNED))
    assert array_sites(network, image_of(PRUNED)) == shapes


def test_a_candidate_keeps_the_most_important_units_and_statistics_of_its_own():
    source = toy_source(calibration=24)
    network = recalibrated(source, WIDTHS)
    strongest = source.network.stages["conv1"].conv.weight.abs().sum((1, 2, 3)).topk(3).indices.sort().values
    conv = network.stages["conv1"].conv
    assert conv.weight.equal(source.network.stages["conv1"].conv.weight[strongest])
    pixels = source.calibration.prepared()
    with torch.no_grad():
        means = conv(pixels).relu().view(2, 12, 3, -1).transpose(2, 3).mean((1, 2))  # of two batches
    assert torch.allclose(network.stages["conv1"].norm.running_mean, means.mean(0), atol=1e-6)


def test_a_candidate_comes_with_its_decoder():
    spec = dataclasses.replace(PRUNED, decoder=EfficientCapsNetSpec().usual_decoder)
    network = initialised(spec, 0).eval()
    tensors = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = recalibrated(dataclasses.replace(toy_source(), spec=spec, tensors=tensors), WIDTHS)
    assert found.reconstruct(torch.ones(2, 3, 4), torch.tensor([0, 2])).shape == (2, 1, 14, 14)


def test_the_whole_network_scores_as_well_as_the_source():
    source = toy_source("least-squares")
    widths = {unit.name: unit.count for unit in source.network.units}
    assert scored(source, widths, "loss").per_image.isfinite().all()
    with torch.no_grad():
        right = source.network(source.scoring.prepared()).scores.argmax(1) == source.scoring.labels
    unchanged = dataclasses.replace(source.recalibration, apply=lambda network, kept: None)
    assert scored(dataclasses.replace(source, recalibration=unchanged), widths, "loss").correct == int(right.sum())


def test_a_scored_network_is_gone():
    seen = []
    source = toy_source()
    noting = dataclasses.replace(source.recalibration, apply=lambda network, kept: seen.append(weakref.ref(network)))
    scored(dataclasses.replace(source, recalibration=noting), WIDTHS, "loss")
    gc.collect()
    assert isinstance(seen[0], weakref.ref)
    assert seen[0]() is None


def test_shares_are_those_of_the_network_that_was_cut():
    def counted(network):
        layers = network_cost(network, image_of(PRUNED)).layers
        return sum(layer.macs for layer in layers), sum(layer.parameters for layer in layers)

    before, after = counted(toy_source().network), counted(recalibrated(toy_source(), WIDTHS))
    shares = kept_shares(WIDTHS, [toy_budget()], toy_costs())
    assert shares == {"flops": after[0] / before[0], "params": after[1] / before[1]}


def test_shares_name_every_target_beside_the_usual_two():
    half = dataclasses.replace(toy_budget(), cost=lambda widths: 3.0, full=4.0)
    latency = dataclasses.replace(half, target=dataclasses.replace(half.target, kind="latency"))
    shares = kept_shares(WIDTHS, [latency], toy_costs())
    assert list(shares) == ["flops", "params", "latency"]
    assert shares["latency"] == 0.75


def test_candidates_share_no_memory_with_their_source():
    source = toy_source()
    held = {tensor.data_ptr() for tensor in (*source.tensors.values(), *source.network.state_dict().values())}
    network: CapsuleNetwork = recalibrated(source, toy_costs().units)
    assert held.isdisjoint(tensor.data_ptr() for tensor in network.state_dict().values())
