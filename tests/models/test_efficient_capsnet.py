from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from qcaps.capsules.sites import hooked
from qcaps.models.efficient_capsnet import MULTIMNIST, SMALLNORB, EfficientCapsNetSpec
from qcaps.models.network import encoder_tensors, parameter_count
from qcaps.models.spec import build, initialised

SMALL = EfficientCapsNetSpec(height=14, width=15, conv_channels=(4, 6, 8, 16), classes=4)


def test_the_stages_have_the_published_number_of_parameters():
    network = build(EfficientCapsNetSpec())
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()}
    assert counts == {
        "conv1": 832 + 64,
        "conv2": 18_496 + 128,
        "conv3": 36_928 + 128,
        "conv4": 73_856 + 256,
        "primary": 10_496,
        "class_caps": 20_480 + 160,
    }


def test_the_encoder_has_161824_parameters():
    assert parameter_count(build(EfficientCapsNetSpec())) == 161_824


def test_with_running_statistics_the_encoder_has_162400_values():
    assert sum(t.numel() for t in encoder_tensors(build(EfficientCapsNetSpec())).values()) == 162_400


def test_the_encoder_for_affnist_has_180256_parameters():
    assert parameter_count(build(EfficientCapsNetSpec(height=40, width=40))) == 180_256


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_every_class_costs_2064_parameters(classes):
    stage = build(EfficientCapsNetSpec(classes=classes)).stages["class_caps"]
    assert sum(p.numel() for p in stage.parameters()) == 2064 * classes


def test_the_decoder_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in build(EfficientCapsNetSpec(decoder="fc")).decoder.parameters()) == 1_411_344


def test_the_maps_have_the_published_sizes():
    network = initialised(EfficientCapsNetSpec(), seed=0).eval()
    shapes = {}
    with torch.no_grad(), hooked(network, lambda name, array: shapes.setdefault(name, tuple(array.shape)) and array):
        network(torch.zeros(1, 1, 28, 28))
    assert [shapes[f"conv{n}.out"] for n in (1, 2, 3, 4)] == [
        (1, 32, 24, 24),
        (1, 64, 22, 22),
        (1, 64, 20, 20),
        (1, 128, 9, 9),
    ]
    assert shapes["primary.out"] == (1, 16, 8)
    assert shapes["class_caps.out"] == (1, 10, 16)


def efficient_squash(s):
    n = s.norm(dim=-1, keepdim=True)
    return (1 - torch.exp(-n)) * s / n


def straightforward(network, images, scale):
    """Compute the class capsules of a small network from its tensors, step by step from the formulas."""
    *convolutions, primary, last = network.stages.values()
    maps = images
    for layer, stride in zip(convolutions, (1, 1, 1, 2), strict=True):
        maps = torch.relu(conv2d(maps, layer.conv.weight, layer.conv.bias, stride))
        norm = layer.norm
        maps = batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    u = conv2d(maps, primary.conv.weight, primary.conv.bias, groups=16)
    votes = torch.einsum("bid,ijdk->bijk", efficient_squash(u.reshape(-1, 2, 8)), last.weight)
    pairs = torch.einsum("bijk,bmjk->bijm", votes, votes).sum(3) / scale
    coupling = torch.softmax(pairs, dim=2) + last.routing.bias[:, :, 0]
    return efficient_squash(torch.einsum("bij,bijk->bjk", coupling, votes))


@pytest.mark.parametrize("scale", [4.0, 8**0.5])
def test_the_whole_network_follows_its_formulas(scale):
    network = initialised(dataclasses.replace(SMALL, attention_scale=scale), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in encoder_tensors(network).items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            else:
                tensor.normal_(std=0.3, generator=generator)
        images = torch.rand(3, 1, 14, 15, generator=generator)
        expected = straightforward(network, images, scale)
        torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-5)
    assert expected.norm(dim=2).min() > 0.01


def test_uniform_routing_couples_evenly_and_keeps_the_bias():
    network = initialised(SMALL.with_uniform_routing(), seed=0).eval()
    bias = network.stages["class_caps"].routing.bias
    torch.nn.init.normal_(bias, generator=torch.Generator().manual_seed(0))
    seen = {}
    with torch.no_grad(), hooked(network, lambda name, array: seen.setdefault(name, array)):
        network(torch.rand(2, 1, 14, 15, generator=torch.Generator().manual_seed(0)))
    assert seen["class_caps.coupling"].equal((1 / 4 + bias[:, :, 0]).expand(2, -1, -1))


def test_a_folded_spec_builds_the_same_network_without_its_norms():
    folded = build(SMALL.folded())
    kept = {k: v.shape for k, v in build(SMALL).state_dict().items() if ".norm." not in k}
    assert {k: v.shape for k, v in folded.state_dict().items()} == kept


def test_a_spec_without_its_decoder_is_otherwise_the_same():
    with_decoder = dataclasses.replace(SMALL, decoder="fc", decoder_norm=True)
    assert with_decoder.without_decoder() == SMALL
    assert build(with_decoder.without_decoder()).decoder is None


def map_sizes(spec):
    network = initialised(spec, seed=0).eval()
    shapes = {}
    image = torch.zeros(1, spec.channels, spec.height, spec.width)
    with torch.no_grad(), hooked(network, lambda name, array: shapes.setdefault(name, tuple(array.shape)) and array):
        network(image)
    return [shapes[f"conv{n}.out"][1:] for n in (1, 2, 3, 4)], shapes["primary.out"][1:]


def test_the_maps_for_smallnorb_have_the_published_sizes():
    maps, primary = map_sizes(SMALLNORB.spec)
    assert maps == [(32, 21, 21), (64, 19, 19), (64, 17, 17), (128, 8, 8)]
    assert primary == (16, 8)


def test_the_stages_for_smallnorb_have_the_published_number_of_parameters():
    network = build(SMALLNORB.spec)
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()}
    assert counts == {
        "conv1": 3_168 + 64,
        "conv2": 18_496 + 128,
        "conv3": 36_928 + 128,
        "conv4": 73_856 + 256,
        "primary": 8_320,
        "class_caps": 10_240 + 80,
    }


def test_the_convolutions_for_smallnorb_leak_and_are_normalised_by_image():
    layer = build(SMALLNORB.spec).stages["conv1"]
    assert (layer.slope, layer.norm.eps, layer.norm.affine) == (0.3, 1e-3, True)
    assert isinstance(layer.norm, torch.nn.InstanceNorm2d)


def test_gamma_and_beta_for_smallnorb_start_small_and_of_either_sign():
    layers = list(initialised(SMALLNORB.spec, seed=0).stages.values())[:4]
    numbers = torch.cat([torch.cat([layer.norm.weight, layer.norm.bias]) for layer in layers])
    assert numbers.abs().max() <= 0.05
    assert numbers.abs().max().item() == pytest.approx(0.05, rel=0.05)
    assert (numbers < 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_instance_norms_do_not_fold():
    assert SMALLNORB.spec.folded() == SMALLNORB.spec
    assert build(SMALLNORB.spec).folds == ()


def test_smallnorb_has_the_upsampling_decoder_and_the_others_the_dense_one():
    assert SMALLNORB.spec.usual_decoder == "upsample48"
    assert MULTIMNIST.spec.usual_decoder == "fc"


def test_the_maps_for_multimnist_have_the_published_sizes():
    maps, primary = map_sizes(MULTIMNIST.spec)
    assert maps == [(32, 32, 32), (64, 30, 30), (64, 14, 14), (128, 6, 6)]
    assert primary == (16, 8)


def test_the_primary_kernel_for_multimnist_leaves_the_last_row_and_column_unread():
    network = initialised(MULTIMNIST.spec, seed=0).eval()
    primary = network.stages["primary"]
    assert primary.conv.weight.shape == (128, 1, 5, 5)
    maps = torch.rand(1, 128, 6, 6, generator=torch.Generator().manual_seed(0))
    other = maps.clone()
    other[:, :, 5, :] = other[:, :, :, 5] = 9.0
    assert primary(other).equal(primary(maps))


@pytest.mark.parametrize("routing", ["dynamic", "attention", "uniform"])
@pytest.mark.parametrize("bias", ["none", "in_loop", "after_softmax"])
def test_any_routing_of_vectors_fits(routing, bias):
    spec = dataclasses.replace(SMALL, routing=routing, routing_bias=bias, attention_temperature=0.5)
    scores = initialised(spec, seed=0).eval()(torch.rand(2, 1, 14, 15)).scores
    assert scores.shape == (2, 4)
    assert scores.isfinite().all()
