from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from qcaps.capsules.layers import (
    ClassCapsules,
    PrimaryCapsules,
    RoutedPrimaryCapsules,
    as_capsules,
    at_positions,
)
from qcaps.capsules.routing import RoutingSpec
from qcaps.capsules.sites import hooked
from qcaps.capsules.squash import squash

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
            coupling=0.25,
            squash_variant="hinton_ratio",
            squash_eps=0.0,
        )
    )


def test_capsules_are_numbered_by_type_then_row_then_column():
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    capsules = as_capsules(maps, TYPES, DIM, "type_hw")
    assert capsules.shape == (2, TYPES * ROWS * COLUMNS, DIM)
    axes = map(torch.arange, (2, TYPES, ROWS, COLUMNS, DIM))
    for b, t, r, c, d in torch.cartesian_prod(*axes).tolist():
        assert capsules[b, (t * ROWS + r) * COLUMNS + c, d] == maps[b, t * DIM + d, r, c]


def test_capsules_can_be_numbered_by_row_then_column_then_type():
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    capsules = as_capsules(maps, TYPES, DIM, "hw_type")
    axes = map(torch.arange, (2, TYPES, ROWS, COLUMNS, DIM))
    for b, t, r, c, d in torch.cartesian_prod(*axes).tolist():
        assert capsules[b, (r * COLUMNS + c) * TYPES + t, d] == maps[b, t * DIM + d, r, c]


def test_stacked_capsules_are_runs_of_neighbouring_cells():
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    capsules = as_capsules(maps, TYPES, DIM, "stacked_raw")
    one_per_dimension = [maps[:, d::DIM] for d in range(DIM)]  # each what one of the separate convolutions gives
    for b in range(2):
        memory = [x for maps_of_d in one_per_dimension for x in maps_of_d[b].flatten().tolist()]
        assert capsules[b].tolist() == [memory[i : i + DIM] for i in range(0, len(memory), DIM)]


@pytest.mark.parametrize("order", ["type_hw", "hw_type", "stacked_raw"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_numbering_of_capsules_does_not_depend_on_the_memory_format(memory_format, order):
    maps = random(2, TYPES * DIM, ROWS, COLUMNS)
    expected = as_capsules(maps, TYPES, DIM, order)
    assert as_capsules(maps.contiguous(memory_format=memory_format), TYPES, DIM, order).equal(expected)


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


def test_primary_capsules_are_normalised_behind_the_convolution():
    layer = fill(
        PrimaryCapsules(
            2, types=2, dim=2, kernel_size=(1, 1), stride=1, with_norm=True, squash_variant="hinton", squash_eps=1e-7
        )
    )
    images = random(3, 2, 2, 2)
    norm = layer.norm
    maps = conv2d(images, layer.conv.weight, layer.conv.bias)
    maps = batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(layer(images), squash(as_capsules(maps, 2, 2, "type_hw"), "hinton", 1e-7))


def test_routed_primary_capsules_couple_by_a_constant_and_add_a_bias_per_type_and_dimension():
    layer = routed_primary()
    images = random(2, 6, ROWS + 1, COLUMNS + 1)
    channels = conv2d(images, layer.conv.weight)
    capsules = layer(images)
    for b, t, r, c in torch.cartesian_prod(*map(torch.arange, (2, TYPES, ROWS, COLUMNS))).tolist():
        s = [channels[b, t * DIM + d, r, c].item() / 4 + layer.bias[t, d, 0, 0].item() for d in range(DIM)]
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
    routing = RoutingSpec("dynamic", "hinton_ratio", 0.0, iterations=2, bias="in_loop" if with_bias else "none")
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


def test_some_cells_of_a_map_are_kept_in_their_order():
    maps = torch.arange(2 * 3 * ROWS * COLUMNS).view(2, 3, ROWS, COLUMNS)
    found = at_positions(maps, torch.tensor([0, 7, 19]))  # rows 0, 1 and 3 of five columns
    assert found.shape == (2, 3, 3, 1)
    assert found[1, 2, :, 0].tolist() == [maps[1, 2, 0, 0].item(), maps[1, 2, 1, 2].item(), maps[1, 2, 3, 4].item()]


def test_class_capsules_take_another_routing():
    routing = RoutingSpec("attention", "efficient", 1e-20, bias="after_softmax", scale=4.0)
    layer = fill(ClassCapsules(5, 4, 3, 2, routing))
    assert layer(random(2, 5, 4)).shape == (2, 3, 2)
    assert layer.sites.arrays == ("votes", "logits", "coupling", "sum", "out")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (primary(), (2, 6, 5, 7)),
        (routed_primary(), (2, 6, 5, 5)),
        (dynamic_class_capsules(), (2, 5, 4)),
    ],
    ids=["PrimaryCapsules", "RoutedPrimaryCapsules", "ClassCapsules"],
)
def test_every_layer_is_finite_under_autocast(layer, shape):
    fill(layer)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.zeros(shape))
        out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
