from __future__ import annotations

import dataclasses

import pytest
import torch
from benchmarks.routing_straightforward import straightforward_class_capsules
from torch.nn.functional import conv2d

from qcaps.capsules.sites import hooked
from qcaps.errors import UsageError
from qcaps.models.network import array_sites, parameter_count
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, initialised

SMALL = ShallowCapsNetSpec(
    height=19, width=20, conv_channels=(6,), conv_kernels=(5,), primary_kernel=5, primary_types=3, classes=4
)
# height and width, channels, classes, primary capsules, encoder with the class bias
PUBLISHED = [
    (28, 1, 10, 1152, 6_804_384),
    (32, 1, 5, 2048, 6_640_464),
    (32, 2, 5, 2048, 6_661_200),
    (32, 3, 10, 2048, 7_992_736),
    (36, 1, 10, 3200, 9_425_824),
    (40, 1, 10, 4608, 11_228_064),
    (48, 2, 5, 8192, 10_593_360),
    (64, 3, 10, 18432, 28_964_256),
]


def spec_of(size, channels, classes, **numbers):
    return ShallowCapsNetSpec(height=size, width=size, channels=channels, classes=classes, **numbers)


@pytest.mark.parametrize(("size", "channels", "classes", "capsules", "total"), PUBLISHED)
def test_the_encoder_has_the_published_number_of_parameters(size, channels, classes, capsules, total):
    network = build(spec_of(size, channels, classes))
    assert network.stages["class_caps"].weight.shape == (capsules, classes, 8, 16)
    assert parameter_count(network) == total


@pytest.mark.parametrize(("size", "channels", "classes", "capsules", "total"), PUBLISHED)
def test_without_class_bias_the_encoder_lacks_16_parameters_per_class(size, channels, classes, capsules, total):
    assert parameter_count(build(spec_of(size, channels, classes, routing_bias="none"))) == total - 16 * classes


def test_the_stages_have_the_published_number_of_parameters():
    network = build(ShallowCapsNetSpec())
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()}
    assert counts == {"conv1": 20_992, "primary": 5_308_672, "class_caps": 1_474_560 + 160}


def test_the_place_of_the_primary_bias_does_not_change_the_number_of_parameters():
    assert parameter_count(build(ShallowCapsNetSpec(primary_bias="conv"))) == 6_804_384


@pytest.mark.parametrize(("layout", "total"), [("select", 1_337_616), ("zeros", 1_411_344)])
def test_the_decoder_takes_what_the_mask_leaves(layout, total):
    network = build(ShallowCapsNetSpec(decoder="fc", mask_layout=layout))
    assert sum(p.numel() for p in network.decoder.parameters()) == total


def test_height_and_width_may_differ():
    network = build(ShallowCapsNetSpec(height=28, width=36))
    assert network.stages["class_caps"].weight.shape[0] == 32 * 6 * 10


def test_each_further_convolution_is_a_stage_of_its_own():
    spec = dataclasses.replace(SMALL, conv_channels=(6, 5), conv_kernels=(3, 3), conv_strides=(1, 1))
    network = build(spec)
    assert list(network.stages) == ["conv1", "conv2", "primary", "class_caps"]
    assert network.stages["primary"].conv.weight.shape == (24, 5, 5, 5)


def test_batch_norms_come_before_the_relu_and_behind_the_primary_convolution():
    network = build(dataclasses.replace(SMALL, norm="batch", primary_bias="conv"))
    assert network.stages["conv1"].norm_first
    assert network.stages["primary"].norm.num_features == 24


def test_routed_primary_capsules_have_no_norm():
    with pytest.raises(UsageError, match="no norm behind routed primary capsules"):
        build(dataclasses.replace(SMALL, norm="batch"))


@pytest.mark.parametrize("routing", ["dynamic", "attention", "uniform"])
@pytest.mark.parametrize("bias", ["none", "in_loop", "after_softmax"])
def test_any_routing_of_vectors_fits(routing, bias):
    network = initialised(dataclasses.replace(SMALL, routing=routing, routing_bias=bias), seed=0).eval()
    scores = network(torch.rand(2, 1, 19, 20, generator=torch.Generator().manual_seed(0))).scores
    assert scores.shape == (2, 4)
    assert scores.isfinite().all()


def straightforward(network, images, primary_bias):
    """Compute the class capsules of a small network from its tensors, step by step from the formulas."""
    first, primary, last = network.stages.values()
    maps = torch.relu(conv2d(images, first.conv.weight, first.conv.bias))
    maps = conv2d(maps, primary.conv.weight, stride=2)
    if primary_bias == "routed":
        maps = maps / 32 + primary.bias.reshape(1, 24, 1, 1)
    else:
        maps = maps + primary.conv.bias.reshape(1, 24, 1, 1)
    s = torch.stack([maps[:, d::8] for d in range(8)], dim=-1).flatten(1, 3)  # (batch, types * h * w, 8)
    norm = s.norm(dim=2, keepdim=True)
    return straightforward_class_capsules(s * norm / (1 + norm**2), last.weight, last.routing.bias, 3)


@pytest.mark.parametrize("primary_bias", ["routed", "conv"])
def test_the_whole_network_follows_its_formulas(primary_bias):
    network = initialised(dataclasses.replace(SMALL, primary_bias=primary_bias), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():  # large enough that every step leaves its mark
            parameter.normal_(std=0.2, generator=generator)
        images = torch.rand(3, 1, 19, 20, generator=generator)
        expected = straightforward(network, images, primary_bias)
        torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-6)
    assert expected.norm(dim=2).min() > 0.01


@pytest.mark.parametrize(("passes", "iterations"), [(1, 1), (2, 2), (5, 5)])
def test_the_spec_sets_the_number_of_routing_iterations(passes, iterations):
    network = build(dataclasses.replace(SMALL, routing_passes=passes))
    sites = array_sites(network, (1, 19, 20))
    assert [name for name in sites if "coupling@" in name] == [
        f"class_caps.coupling@{t}" for t in range(1, iterations + 1)
    ]


def test_uniform_routing_couples_every_pair_exactly_evenly():
    network = initialised(SMALL.with_uniform_routing(), seed=0).eval()
    couplings = {}
    with hooked(network, lambda name, array: couplings.setdefault(name, array) if "coupling" in name else array):
        network(torch.rand(2, 1, 19, 20, generator=torch.Generator().manual_seed(0)))
    assert list(couplings) == ["primary.coupling", "class_caps.coupling"]
    assert (couplings["class_caps.coupling"] == 1 / 4).all()


def test_uniform_routing_keeps_every_tensor():
    dynamic, uniform = build(SMALL).state_dict(), build(SMALL.with_uniform_routing()).state_dict()
    assert {k: v.shape for k, v in dynamic.items()} == {k: v.shape for k, v in uniform.items()}


def test_a_spec_without_its_decoder_is_otherwise_the_same():
    with_decoder = dataclasses.replace(SMALL, decoder="fc", decoder_norm=True)
    assert with_decoder.without_decoder() == SMALL
    assert build(with_decoder.without_decoder()).decoder is None


def test_there_is_nothing_to_fold():
    assert SMALL.folded() == SMALL


def test_a_network_of_some_positions_has_their_capsules_alone():
    network = initialised(SMALL, seed=0)
    fewer = initialised(dataclasses.replace(SMALL, primary_positions=2), seed=0)
    fewer.stages["primary"].positions.copy_(torch.tensor([3, 8]))
    images = torch.rand(2, 1, 19, 20)
    capsules = fewer.stages["primary"](fewer.stages["conv1"](images))
    every = network.stages["primary"](network.stages["conv1"](images)).view(2, 3, 36, 8)
    assert capsules.equal(every[:, :, [3, 8]].reshape(2, 6, 8))
    assert fewer.stages["class_caps"].weight.shape == (6, 4, 8, 16)


def test_a_fresh_network_of_some_positions_has_the_first_ones():
    network = initialised(dataclasses.replace(SMALL, primary_positions=2), seed=0)
    assert network.stages["primary"].positions.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"primary_positions": 37}, "primary_positions of shallow-capsnet is 37; at most 36"),
        (
            {"primary_positions": 2, "reshape_order": "stacked_raw"},
            "shallow-capsnet has no primary_positions where capsules are runs of cells",
        ),
    ],
)
def test_positions_that_there_are_not_are_refused(numbers, message):
    with pytest.raises(UsageError) as error:
        build(dataclasses.replace(SMALL, **numbers))
    assert str(error.value) == message


def test_all_positions_of_a_network_need_no_list():
    assert SMALL.with_widths({"primary.positions": 36}) == SMALL
    fewer = SMALL.with_widths({"primary.positions": 35})
    assert fewer.with_widths({"primary.positions": 35}) == fewer
    assert "stages.primary.positions" not in build(SMALL).state_dict()
