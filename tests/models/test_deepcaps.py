from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from benchmarks.conv3d_capsules_straightforward import straightforward_conv3d_routing
from benchmarks.routing_straightforward import straightforward_class_capsules
from torch.nn.functional import batch_norm, conv2d, conv3d

from qcaps.errors import UsageError
from qcaps.evaluation.cost import stage_costs
from qcaps.models.deepcaps import DEEPCAPS, DEEPCAPS_64, DeepCapsSpec
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised
from qcaps.models.units import cut_tensors

# No two neighbouring widths agree, and no map is square.
SMALL = DeepCapsSpec(
    channels=2,
    height=17,
    width=35,
    classes=3,
    conv_channels=6,
    types=(2, 3, 4, 3, 2, 3, 4, 2, 3, 3, 4, 2),
    dims=(3, 2, 4, 2, 3, 2, 3, 4, 5, 4, 3, 5),
    competing_types=2,
    class_dim=4,
)
# Image side, channels, capsules below the class capsules, encoder
PUBLISHED = [
    (28, 1, 640, 8_445_504),
    (28, 3, 640, 8_447_808),
    (32, 3, 640, 8_447_808),
    (64, 1, 2560, 13_360_704),
    (64, 3, 2560, 13_363_008),
]


def small_network(spec=SMALL, std=0.3, dtype=torch.float64):
    """Build a network of random numbers large enough that every step leaves its mark."""
    network = initialised(spec, seed=0).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.stages.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=std, generator=generator)
    return network.eval().requires_grad_(requires_grad=False)


def images(spec=SMALL, count=2, dtype=torch.float64):
    shape = (count, spec.channels, spec.height, spec.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


@pytest.mark.parametrize(("size", "channels", "capsules", "total"), PUBLISHED)
def test_the_encoder_has_the_published_number_of_parameters(size, channels, capsules, total):
    network = build(DeepCapsSpec(channels=channels, height=size, width=size))
    assert network.stages["class_caps"].weight.shape == (capsules, 10, 8, 32)
    assert parameter_count(network) == total


def test_the_stages_have_the_published_number_of_parameters():
    network = build(DEEPCAPS.spec)
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()}
    assert counts == {
        "conv1": 1_152 + 384,
        "block1": 590_336,
        "block2": 2_065_408,
        "block3": 2_360_320,
        "block4": 1_789_184,
        "class_caps": 256 * 640 * 10 + 320,
    }


def test_the_3d_routing_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in build(DEEPCAPS.spec).stages["block4"].skip.parameters()) == 18_944


@pytest.mark.parametrize(("preset", "macs"), [(DEEPCAPS, 267_675_648), (DEEPCAPS_64, 1_346_666_496)])
def test_every_product_of_the_published_network_is_counted(preset, macs):
    spec = preset.spec
    costs = stage_costs(build(spec).eval(), (spec.channels, spec.height, spec.width))
    assert sum(cost.macs for cost in costs) == macs


def squashed_groups(x, layer, types, stride=1):
    maps = conv2d(x, layer.conv.weight, layer.conv.bias, stride=stride, padding=1)
    s = maps.reshape(len(x), types, -1, *maps.shape[2:])
    norm = s.norm(dim=2, keepdim=True)
    return (s * norm / (1 + norm**2)).flatten(1, 2)


def routed_3d(y, layer, types, dims):
    """Cast the votes by the published 3-D convolution and route them."""
    kernel = layer.conv.weight.unsqueeze(1)
    votes = conv3d(y.unsqueeze(1), kernel, layer.conv.bias, stride=(dims[0], 1, 1), padding=(0, 1, 1))
    votes = votes.reshape(len(y), types[2], dims[2], types[0], *y.shape[2:]).permute(0, 3, 1, 2, 4, 5)
    return straightforward_conv3d_routing(votes, layer.routing.bias[:, :, None, None], 3).flatten(1, 2)


def straightforward(network, spec, x):
    """Compute the class capsules from the tensors of a network, step by step from the formulas."""
    conv1, class_caps = network.stages["conv1"], network.stages["class_caps"]
    norm = conv1.norm
    x = conv2d(x, conv1.conv.weight, conv1.conv.bias, padding=1).clamp_min(0)
    x = batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    branches = []
    for index in range(4):
        block = network.stages[f"block{index + 1}"]
        types, dims = spec.types[3 * index : 3 * index + 3], spec.dims[3 * index : 3 * index + 3]
        y = squashed_groups(x, block.l1, types[0], stride=2)
        deep = squashed_groups(squashed_groups(y, block.l2, types[1]), block.l3, types[2])
        skip = squashed_groups(y, block.skip, types[2]) if index < 3 else routed_3d(y, block.skip, types, dims)
        x = deep + skip
        by_type = x.reshape(len(x), types[2], dims[2], *x.shape[2:])
        branches.append(by_type.permute(0, 1, 3, 4, 2).flatten(1, 3))
    return straightforward_class_capsules(torch.cat(branches[2:], 1), class_caps.weight, class_caps.routing.bias, 3)


def test_the_whole_network_follows_its_formulas():
    network = small_network()
    expected = straightforward(network, SMALL, images())
    torch.testing.assert_close(network(images()).capsules, expected, rtol=1e-6, atol=1e-9)
    assert expected.norm(dim=2).min() > 0.01


def test_maps_halve_rounding_up():
    sites = array_sites(build(SMALL).eval(), (2, 17, 35))
    per_type = {
        f"block{b}": sites[f"block{b}.sum_out"] // (SMALL.types[3 * b - 1] * SMALL.dims[3 * b - 1]) for b in range(1, 5)
    }
    assert per_type == {"block1": 9 * 18, "block2": 5 * 9, "block3": 3 * 5, "block4": 2 * 3}


def test_every_convolution_and_bias_is_a_weight_site():
    network = build(SMALL)
    parameters = {f"stages.{name}" for name, _ in network.stages.named_parameters()}
    assert set(weight_sites(network).values()) == parameters - {"stages.conv1.norm.weight", "stages.conv1.norm.bias"}


@pytest.mark.parametrize("passes", [1, 4])
def test_the_spec_sets_the_number_of_passes_of_both_routings(passes):
    sites = array_sites(build(dataclasses.replace(SMALL, routing_passes=passes)).eval(), (2, 17, 35))
    for layer in ("block4.skip", "class_caps"):
        assert [s for s in sites if s.startswith(f"{layer}.out")] == [f"{layer}.out@{t + 1}" for t in range(passes)]


@pytest.mark.parametrize("routing", ["attention", "uniform"])
def test_another_routing_keeps_every_tensor(routing):
    dynamic, other = build(SMALL).state_dict(), build(dataclasses.replace(SMALL, routing=routing)).state_dict()
    assert {k: v.shape for k, v in dynamic.items()} == {k: v.shape for k, v in other.items()}


def test_uniform_routing_has_one_pass_in_both_routed_layers():
    sites = array_sites(build(SMALL.with_uniform_routing()).eval(), (2, 17, 35))
    assert [name for name in sites if "coupling" in name] == ["block4.skip.coupling", "class_caps.coupling"]


def test_attention_takes_the_scale_of_the_spec_in_both_routed_layers():
    stages = build(dataclasses.replace(SMALL, routing="attention", attention_scale=2.5)).stages
    assert [layer.routing.spec.scale for layer in (stages["block4"].skip, stages["class_caps"])] == [2.5, 2.5]


# Reach of the uniform draws of every kind of tensor of the published network: a bound, and where it comes from.
BOUNDS = {
    "conv1.conv.weight": 1 / 3,  # PyTorch's default, 1/√(9 inputs)
    "conv1.conv.bias": 1 / 3,
    "block1.l1.conv.weight": math.sqrt(6 / (9 * (128 + 128))),  # Xavier
    "block2.l1.conv.weight": math.sqrt(6 / (9 * (128 + 256))),
    "block3.skip.conv.weight": math.sqrt(6 / (9 * (256 + 256))),
    "block4.skip.conv.weight": 0.289,  # Kaiming, √(6/72)
    "class_caps.weight": 0.0484,  # Kaiming, √(6/2560)
}


@pytest.fixture(scope="module")
def untrained():
    return initialised(DEEPCAPS.spec, seed=3).stages.state_dict()


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_weights_start_evenly_within_the_published_bounds(untrained, name, bound):
    tensor = untrained[name]
    reach = tensor.abs().max().item()
    assert 0.95 * bound < reach < 1.002 * bound
    assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_biases_start_at_zero_and_those_of_a_routing_at_a_tenth(untrained):
    values = {
        name: tensor.unique().tolist()
        for name, tensor in untrained.items()
        if name.endswith("bias") and not name.startswith("conv1.conv")
    }
    routed = {"block4.skip.routing.bias", "class_caps.routing.bias"}
    assert routed < values.keys()
    assert values == {name: [pytest.approx(0.1)] if name in routed else [0.0] for name in values}


def test_the_norm_starts_as_the_identity_with_the_published_epsilon_and_momentum():
    norm = initialised(SMALL, seed=0).stages["conv1"].norm
    assert (norm.eps, norm.momentum) == (1e-3, 0.99)
    state = [t.unique().tolist() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    assert state == [[1], [0], [0], [1]]


def test_an_untrained_network_depends_on_its_seed_alone():
    one, same, other = (initialised(SMALL, seed).state_dict() for seed in (5, 5, 6))
    assert all(one[name].equal(same[name]) for name in one)
    assert not one["stages.block4.skip.conv.weight"].equal(other["stages.block4.skip.conv.weight"])


@pytest.mark.parametrize(
    ("height", "width", "decoder"),
    [(28, 28, "convdecoder28"), (64, 64, "convdecoder64"), (32, 32, "none"), (28, 64, "none")],
)
def test_the_usual_decoder_draws_images_of_that_size(height, width, decoder):
    assert DeepCapsSpec(height=height, width=width).usual_decoder == decoder


def test_a_decoder_is_given_the_kept_class_capsule_alone():
    network = build(dataclasses.replace(DEEPCAPS.spec, decoder="fc"))
    assert sum(p.numel() for p in network.decoder.parameters()) == 32 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 784 + 784


def test_a_spec_without_its_decoder_is_otherwise_the_same():
    assert dataclasses.replace(SMALL, decoder="fc", decoder_norm=True).without_decoder() == SMALL


def test_there_is_nothing_to_fold():
    assert SMALL.folded() == SMALL
    assert build(SMALL).folds == ()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"types": (32,) * 11}, "12 entries"),
        ({"dims": (8,) * 13}, "12 entries"),
        ({"dims": (*SMALL.dims[:-1], 4)}, "blocks 3 and 4"),
        ({"competing_types": 1}, "2 types that compete, not 1"),
        ({"routing_passes": 101}, "routing_passes"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(numbers, message):
    with pytest.raises(UsageError, match=message):
        build(dataclasses.replace(SMALL, **numbers))


UNITS = {unit.name: unit for unit in build(SMALL).units}


def test_every_layer_and_every_sum_declares_its_types_and_dimensions():
    layers = [f"block{block}{layer}" for block in (1, 2, 3, 4) for layer in (".l1", ".l2", "")]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("types", "dims")} - {"block4.dims"}
    assert set(UNITS) == {"conv1.channels"} | expected


def cut(network, unit):
    """Cut the second unit out of every tensor."""
    kept = [u for u in range(unit.count) if u != 1]
    return cut_tensors(network.state_dict(), {unit: kept})


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_the_spec_of_fewer_units_has_exactly_the_tensors_that_are_left(unit):
    fewer = build(SMALL.with_widths({unit.name: unit.count - 1}))
    left = cut(build(SMALL), unit)
    assert {k: v.shape for k, v in left.items()} == {k: v.shape for k, v in fewer.state_dict().items()}
    assert left["stages.class_caps.routing.bias"].shape == (3, 4)


def silence(network, unit):
    """Set everything that makes the second unit to zero."""
    for made in unit.cuts:
        if made.axis == 0 and not made.tensor.startswith("class_caps") and "running" not in made.tensor:
            tensor = network.stages.state_dict()[made.tensor]
            tensor.view(-1, unit.count, made.inner, *tensor.shape[1:])[:, 1] = 0
    if unit.name == "block3.dims":
        network.stages["block4"].skip.routing.bias[:, 1] = 0


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_network_without_a_unit_computes_what_it_did_with_that_unit_silent(unit):
    network = small_network()
    network.stages["block4"].skip.conv.bias.zero_()  # with it, a silent lower type would still vote
    smaller = small_network(SMALL.with_widths({unit.name: unit.count - 1}))
    smaller.load_state_dict(cut(network, unit))
    before = network(images()).capsules
    silence(network, unit)
    after = network(images()).capsules
    assert (after - before).abs().max() > 1e-6
    torch.testing.assert_close(smaller(images()).capsules, after, rtol=1e-10, atol=1e-13)
