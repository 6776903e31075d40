from __future__ import annotations

import copy

import pytest
import torch
from prunable import DEEP, EFFICIENT, NETWORKS, RESNET_CAPS, drawn_tensors, labelled_images
from torch import nn

from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.adaptive_norm import adapt_norms, norms_behind_cuts


def network_of(spec):
    return to_inference(filled(spec, drawn_tensors(build(spec)), where="test"))


def batches_of(spec, sizes=(6, 6, 4)):
    images = labelled_images(spec, sum(sizes))
    return [images.subset(part) for part in torch.arange(len(images)).split(sizes)]


def everything(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_the_statistics_are_the_plain_average_of_those_of_the_batches():
    network, batches = network_of(EFFICIENT), batches_of(EFFICIENT)
    # A copy that normalises by each batch; its norms remember the last one alone.
    reference = copy.deepcopy(network).train()
    norms = {name: m for name, m in reference.named_modules() if isinstance(m, nn.BatchNorm2d)}
    expected = {name: {"running_mean": 0.0, "running_var": 0.0} for name in norms}
    for batch in batches:
        for norm in norms.values():
            norm.momentum = 1.0
        with torch.no_grad():
            reference(batch.pixels / 255)
        for name, norm in norms.items():
            for statistic, total in expected[name].items():
                expected[name][statistic] = total + norm.get_buffer(statistic) / len(batches)
    adapt_norms(network, batches)
    for name, statistics in expected.items():
        for statistic, value in statistics.items():
            torch.testing.assert_close(network.get_submodule(name).get_buffer(statistic), value)


def test_the_first_norm_has_mean_and_variance_of_its_inputs():
    network, (batch,) = network_of(EFFICIENT), batches_of(EFFICIENT, (16,))
    adapt_norms(network, [batch])
    first = network.stages["conv1"]
    maps = first.conv(batch.pixels / 255).relu().transpose(0, 1).flatten(1)
    torch.testing.assert_close(first.norm.running_mean, maps.mean(1))
    torch.testing.assert_close(first.norm.running_var, maps.var(1))


def test_what_the_statistics_were_before_makes_no_difference():
    one, other = network_of(EFFICIENT), network_of(EFFICIENT)
    for norm in other.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean += 5
            norm.num_batches_tracked += 1000
    for network in (one, other):
        adapt_norms(network, batches_of(EFFICIENT))
    assert all(tensor.equal(other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_but_running_statistics_changes(name):
    network = network_of(NETWORKS[name])
    before = everything(network)
    settings = [(m, m.training, getattr(m, "momentum", None)) for m in network.modules()]
    adapt_norms(network, batches_of(NETWORKS[name], (3, 3)))
    after = network.state_dict()
    assert after.keys() == before.keys()
    changed = {key.rpartition(".")[2] for key, tensor in after.items() if not tensor.equal(before[key])}
    has_norms = any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert changed == ({"running_mean", "running_var", "num_batches_tracked"} if has_norms else set())
    assert [(m, m.training, getattr(m, "momentum", None)) for m in network.modules()] == settings


def test_tensors_that_another_network_shares_are_left_alone():
    tensors = drawn_tensors(build(EFFICIENT))
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    adapt_norms(filled(EFFICIENT, tensors, where="test"), batches_of(EFFICIENT))
    assert all(tensor.equal(before[name]) for name, tensor in tensors.items())


def test_frozen_stages_adapt_as_well_and_stay_frozen():
    network = network_of(RESNET_CAPS)
    network.freeze(network.backbone)
    before = everything(network)
    adapt_norms(network, batches_of(RESNET_CAPS))
    frozen = [norm for stage in network.backbone for norm in network.stages[stage].modules()]
    assert not any(module.training for module in frozen)
    name = "stages.layer4.2.conv3.norm.running_mean"
    assert not network.state_dict()[name].equal(before[name])


def test_stages_behind_the_last_norm_are_not_run():
    network, seen = network_of(EFFICIENT), []
    network.stages["primary"].register_forward_pre_hook(lambda *_: seen.append("primary"))
    adapt_norms(network, batches_of(EFFICIENT))
    assert seen == []


def test_a_norm_of_the_first_stage_sees_what_it_saw_before_a_cut():
    assert norms_behind_cuts(build(DEEP)) == ()
    network = build(EFFICIENT)
    assert norms_behind_cuts(network) == tuple(network.stages[f"conv{index}"].norm for index in (2, 3, 4))
