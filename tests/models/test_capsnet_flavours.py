from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import conv2d, one_hot

from qcaps.models.capsnet_flavours import EFFICIENTCN, ETHANLEET, Q7_CIFAR10, Q7_MNIST, Q7_SMALLNORB, TF_ORIGINAL
from qcaps.models.network import array_sites, parameter_count
from qcaps.models.spec import build, initialised


def small(preset, **numbers):
    """Shrink a network of the MNIST form to 3 types on a 2x2 grid."""
    shape = {"height": 12, "width": 12, "classes": 3, "conv_channels": (5,), "conv_kernels": (5,)}
    shape |= {"primary_kernel": 5, "primary_types": 3, "primary_dim": 4, "class_dim": 4}
    return dataclasses.replace(preset.spec, **{**shape, **numbers})


def loud(spec):
    """Give a network whose tensors are large enough that every step leaves its mark, and images."""
    network = initialised(spec, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return network, torch.rand(2, spec.channels, spec.height, spec.width, generator=generator)


def hinton(s):
    n = s.norm(dim=-1, keepdim=True)
    return n**2 / (1 + n**2) * s / n


def routed(u, weight, *, passes, bias=0.0, prior=0.0, squash=hinton):
    votes = torch.einsum("bid,ijdk->bijk", u, weight)
    logits = torch.zeros(votes.shape[:3]) + prior
    for _ in range(passes):
        capsules = squash(torch.einsum("bij,bijk->bjk", logits.softmax(2), votes) + bias)
        logits = logits + torch.einsum("bijk,bjk->bij", votes, capsules)
    return capsules


def test_the_released_original_numbers_its_capsules_by_position_and_divides_by_its_types():
    network, images = loud(small(TF_ORIGINAL))
    first, primary, last = network.stages.values()
    maps = conv2d(conv2d(images, first.conv.weight, first.conv.bias).relu(), primary.conv.weight, stride=2)
    s = maps.permute(0, 2, 3, 1).reshape(2, -1, 3, 4) / 32 + primary.bias.view(3, 4)
    expected = routed(hinton(s).flatten(1, 2), last.weight, passes=3, bias=last.routing.bias)
    torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-6)


def test_efficientcn_starts_from_learned_logits_and_makes_four_passes():
    network, images = loud(small(EFFICIENTCN))
    first, primary, last = network.stages.values()
    maps = conv2d(images, first.conv.weight, first.conv.bias).relu()
    maps = conv2d(maps, primary.conv.weight, primary.conv.bias, stride=2)
    s = maps.view(2, 3, 4, -1).transpose(2, 3).flatten(1, 2)
    expected = routed(hinton(s), last.weight, passes=4, prior=last.routing.prior)
    torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-6)


def test_ethanleet_cuts_the_memory_of_its_separate_convolutions():
    network, images = loud(small(ETHANLEET))
    first, primary, last = network.stages.values()
    maps = conv2d(images, first.conv.weight, first.conv.bias).relu()
    separate = [
        conv2d(maps, primary.conv.weight[d::4], primary.conv.bias[d::4], stride=2) for d in range(4)
    ]  # each (batch, types, rows, columns)
    u = hinton(torch.stack(separate, dim=1).reshape(2, -1, 4))
    expected = routed(u, last.weight, passes=3, bias=last.routing.bias)
    torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-6)


def test_q7_has_no_bias_in_its_class_capsules_and_squashes_by_the_ratio():
    network, images = loud(small(Q7_MNIST))
    first, primary, last = network.stages.values()
    maps = conv2d(images, first.conv.weight, first.conv.bias).relu()
    maps = conv2d(maps, primary.conv.weight, primary.conv.bias, stride=2)

    def ratio(s):
        n = s.norm(dim=-1, keepdim=True)
        return s * n / (1 + n**2)

    u = ratio(maps.permute(0, 2, 3, 1).reshape(2, -1, 4))
    expected = routed(u, last.weight, passes=3, squash=ratio)
    torch.testing.assert_close(network(images).capsules, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "maps", "capsules", "dims"),
    [
        (Q7_MNIST, [22], 1024, (10, 4, 6)),
        (Q7_SMALLNORB, [26], 1600, (5, 4, 6)),
        (Q7_CIFAR10, [30, 28, 13, 6], 64, (10, 4, 5)),
    ],
    ids=["mnist", "smallnorb", "cifar10"],
)
def test_the_q7_networks_have_the_published_maps(preset, maps, capsules, dims):
    spec = preset.spec
    network = build(spec)
    values = array_sites(network, (spec.channels, spec.height, spec.width))
    found = [math.isqrt(values[f"conv{i}.out"] // n) for i, n in enumerate(spec.conv_channels, start=1)]
    assert found == maps
    assert network.stages["class_caps"].weight.shape == (capsules, *dims)


def test_efficientcn_has_a_further_convolution_for_smallnorb():
    spec = dataclasses.replace(
        EFFICIENTCN.spec,
        channels=2,
        height=48,
        width=48,
        classes=5,
        conv_channels=(256, 256),
        conv_kernels=(9, 9),
        conv_strides=(1, 1),
    )
    network = build(spec)
    assert network.stages["class_caps"].weight.shape[0] == 4608
    conv1, conv2 = 2 * 81 * 256 + 256, 256 * 81 * 256 + 256
    assert parameter_count(network) == conv1 + 2 * conv2 + 4608 * 5 * 8 * 16 + 4608 * 5


def test_a_mask_of_zeros_is_what_the_decoders_of_these_networks_are_given():
    network = initialised(small(ETHANLEET, decoder="fc"), seed=0).eval()
    capsules = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    masked = (capsules * one_hot(torch.tensor([2, 0]), 3).unsqueeze(2)).flatten(1)
    drawn = network.reconstruct(capsules, torch.tensor([2, 0]))
    torch.testing.assert_close(drawn, network.decoder(masked))
