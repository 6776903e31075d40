from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from qcaps.capsules.layers import (
    ClassCapsules,
    FeatureConv,
    PrimaryCapsules,
    RoutedPrimaryCapsules,
    as_capsules,
)
from qcaps.capsules.routing import DynamicRouting, SelfAttentionRouting
from qcaps.capsules.sites import hooked

TYPES, DIM, ROWS, COLUMNS = 3, 2, 4, 5


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(module):
    """Give every parameter and running statistic a value of its own; variances stay positive."""
    generator = torch.Generator().manual_seed(11)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5, generator=generator)
    return module.eval()


def hinton_ratio(vector):
    n = math.sqrt(math.fsum(x * x for x in vector))
    return [x * n / (1 + n * n) for x in vector]


def primary(*, depthwise=False, channels_in=6):
    return fill(
        PrimaryCapsules(
            channels_in,
            types=TYPES,
            dim=DIM,
            kernel_size=(2, 3),
            stride=1,
            depthwise=depthwise,
            squash_variant="hinton_ratio",
            squash_eps=0.0,
        )
    )


def routed_primary():
    return fill(
        RoutedPrimaryCapsules(
            6,
            types=TYPES,
            dim=DIM,
            kernel_size=2,
            stride=1,
            squash_variant="hinton_ratio",
            squash_eps=0.0,
        )
    )


def test_feature_convolution_without_norm_is_convolution_and_relu():
    layer = fill(FeatureConv(2, 4, kernel_size=3, stride=2))
    images = random(2, 2, 9, 8)
    expected = conv2d(images, layer.conv.weight, layer.conv.bias, stride=2).clamp_min(0)
    assert layer(images).equal(expected)


def test_feature_convolution_normalises_after_the_relu():
    layer = fill(FeatureConv(2, 4, kernel_size=3, with_norm=True))
    images = random(2, 2, 6, 6)
    rectified = conv2d(images, layer.conv.weight, layer.conv.bias).clamp_min(0)
    norm = layer.norm
    expected = batch_norm(rectified, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    torch.testing.assert_close(layer(images), expected)


def test_the_site_of_a_feature_convolution_lies_after_the_norm():
    layer = fill(FeatureConv(2, 4, kernel_size=3, with_norm=True))
    with hooked(layer, lambda name, array: torch.zeros_like(array)):
        assert (layer(random(1, 2, 6, 6)) == 0).all()


def test_the_norm_of_a_feature_convolution_takes_epsilon_and_momentum():
    layer = FeatureConv(1, 1, kernel_size=1, with_norm=True, norm_eps=0.25, norm_momentum=0.125)
    assert (layer.norm.eps, layer.norm.momentum) == (0.25, 0.125)


def test_capsules_are_numbered_by_type_then_row_then_column():
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    capsules = as_capsules(maps, TYPES, DIM)
    assert capsules.shape == (2, TYPES * ROWS * COLUMNS, DIM)
    axes = map(torch.arange, (2, TYPES, ROWS, COLUMNS, DIM))
    for b, t, r, c, d in torch.cartesian_prod(*axes).tolist():
        assert capsules[b, (t * ROWS + r) * COLUMNS + c, d] == maps[b, t * DIM + d, r, c]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_numbering_of_capsules_does_not_depend_on_the_memory_format(memory_format):
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    expected = as_capsules(maps, TYPES, DIM)
    assert as_capsules(maps.contiguous(memory_format=memory_format), TYPES, DIM).equal(expected)


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
def test_primary_capsules_are_the_squashed_groups_of_the_channels(depthwise):
    layer = primary(depthwise=depthwise)
    images = random(2, 6, ROWS + 1, COLUMNS + 2)
    channels = conv2d(images, layer.conv.weight, layer.conv.bias, groups=6 if depthwise else 1)
    capsules = layer(images)
    for b, t, r, c in torch.cartesian_prod(*map(torch.arange, (2, TYPES, ROWS, COLUMNS))).tolist():
        expected = hinton_ratio(channels[b, t * DIM : (t + 1) * DIM, r, c].tolist())
        assert capsules[b, (t * ROWS + r) * COLUMNS + c].tolist() == pytest.approx(expected, abs=1e-6)


def test_depthwise_primary_capsules_have_one_filter_per_channel():
    assert primary(depthwise=True).conv.weight.shape == (6, 1, 2, 3)


def test_routed_primary_capsules_divide_by_the_types_and_add_a_bias_per_type_and_dimension():
    layer = routed_primary()
    images = random(2, 6, ROWS + 1, COLUMNS + 1)
    channels = conv2d(images, layer.conv.weight)
    capsules = layer(images)
    for b, t, r, c in torch.cartesian_prod(*map(torch.arange, (2, TYPES, ROWS, COLUMNS))).tolist():
        s = [channels[b, t * DIM + d, r, c].item() / TYPES + layer.bias[t, d, 0, 0].item() for d in range(DIM)]
        assert capsules[b, (t * ROWS + r) * COLUMNS + c].tolist() == pytest.approx(hinton_ratio(s), abs=1e-6)


def test_the_coupling_of_routed_primary_capsules_can_be_replaced():
    layer = routed_primary()
    images = random(2, 6, ROWS + 1, COLUMNS + 1)
    with hooked(layer, lambda name, array: torch.zeros_like(array) if name.endswith("coupling") else array):
        capsules = layer(images)
    for t in range(TYPES):  # with no coupling the bias alone is left
        expected = hinton_ratio(layer.bias[t, :, 0, 0].tolist())
        assert capsules[1, t * ROWS * COLUMNS].tolist() == pytest.approx(expected, abs=1e-6)


def dynamic_class_capsules(n_in=5, with_bias=True):
    routing = DynamicRouting(3, 2, iterations=2, squash_variant="hinton_ratio", squash_eps=0.0, with_bias=with_bias)
    return fill(ClassCapsules(n_in, 4, 3, 2, routing))


def test_class_capsules_route_the_votes_of_the_lower_capsules():
    layer = dynamic_class_capsules()
    lower = random(2, 5, 4)
    votes = torch.einsum("bid,ijdk->bijk", lower, layer.weight)
    torch.testing.assert_close(layer(lower), layer.routing(votes, layer.sites))


def test_class_capsules_of_zero_capsules_have_finite_gradients():
    layer = dynamic_class_capsules(with_bias=False)
    layer(torch.zeros(1, 5, 4)).sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(("with_bias", "weights"), [(True, ["weight", "bias"]), (False, ["weight"])])
def test_class_capsules_declare_the_weights_of_their_routing(with_bias, weights):
    layer = dynamic_class_capsules(with_bias=with_bias)
    assert list(layer.sites.weights) == weights
    for name in layer.sites.weights.values():
        assert isinstance(layer.get_parameter(name), torch.nn.Parameter)


def test_class_capsules_take_another_routing():
    routing = SelfAttentionRouting(5, 3, scale=4.0, squash_variant="efficient", squash_eps=1e-20, uniform=False)
    layer = fill(ClassCapsules(5, 4, 3, 2, routing))
    assert layer(random(2, 5, 4)).shape == (2, 3, 2)
    assert layer.sites.arrays == ("votes", "logits", "coupling", "sum", "out")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (FeatureConv(2, 4, kernel_size=3, with_norm=True), (2, 2, 6, 6)),
        (primary(), (2, 6, 5, 7)),
        (routed_primary(), (2, 6, 5, 5)),
        (dynamic_class_capsules(), (2, 5, 4)),
    ],
    ids=["FeatureConv", "PrimaryCapsules", "RoutedPrimaryCapsules", "ClassCapsules"],
)
def test_every_layer_is_finite_under_autocast(layer, shape):
    fill(layer)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.zeros(shape))
        out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
