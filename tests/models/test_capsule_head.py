from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from qcaps.capsules.routing import RoutingSpec
from qcaps.capsules.sites import hooked
from qcaps.errors import UsageError
from qcaps.models.backbone import Backbone
from qcaps.models.capsule_head import CapsuleHead, HeadKind, head_stages, head_units, initialise_head
from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import Cut, Unit

ROUTING = RoutingSpec("dynamic", "hinton_sqrt", 1e-6, bias="in_loop", detach=True)
FULL = CapsuleHead("full", types=3, dim=4, classes=5, class_dim=6, routing=ROUTING)
MEAN = replace(FULL, kind="pointwise")
DEPTHWISE = replace(FULL, kind="depthwise")
CHANNELS, SIZE = 12, (2, 3)


def head_network(head: CapsuleHead) -> CapsuleNetwork:
    """Build a head alone, on a feature map in place of an image."""
    with torch.device("meta"):
        network = CapsuleNetwork(head_stages(head, CHANNELS, SIZE))
    network.to_empty(device="cpu")
    initialise_head(network, torch.Generator().manual_seed(0))
    return network


def features() -> Tensor:
    return torch.randn(2, CHANNELS, *SIZE, generator=torch.Generator().manual_seed(1))


def squashed(s: Tensor) -> Tensor:
    n = s.square().sum(-1, keepdim=True)
    return s * n / (1 + n) / (n + 1e-6).sqrt()


def routed(votes: Tensor, bias: Tensor) -> Tensor:
    """Run three passes as the authors do: their bias in each, earlier passes without gradients into the votes."""
    logits = torch.zeros(votes.shape[:3])
    for heard in (votes.detach(), votes.detach(), votes):
        coupling = logits.exp() / logits.exp().sum(2, keepdim=True)
        capsules = squashed((coupling.unsqueeze(3) * heard).sum(1) + bias)
        logits = logits + (heard * capsules.unsqueeze(1)).sum(3)
    return capsules


def straightforward(network: CapsuleNetwork, primary: Tensor) -> Tensor:
    """Compute class capsules from the primary layer's outputs before squash, ``(batch, types · dim)``."""
    last = network.stages["class_caps"]
    lower = squashed(primary.reshape(len(primary), 3, 4))
    return routed(torch.einsum("bid,ijdk->bijk", lower, last.weight), last.routing.bias)


@pytest.mark.parametrize("head", [FULL, DEPTHWISE], ids=["full", "depthwise"])
def test_a_kernel_as_large_as_the_map_makes_one_capsule_of_each_type(head: CapsuleHead) -> None:
    network = head_network(head)
    conv = network.stages["primary"].conv
    maps = conv2d(features(), conv.weight, conv.bias, groups=12 if head.kind == "depthwise" else 1)
    assert conv.weight.shape == (12, 1 if head.kind == "depthwise" else 12, 2, 3)
    torch.testing.assert_close(network(features()).capsules, straightforward(network, maps.flatten(1)))


def test_a_pointwise_head_averages_its_outputs_over_the_map() -> None:
    network = head_network(MEAN)
    conv = network.stages["primary"].conv
    maps = conv2d(features(), conv.weight, conv.bias)
    at_every_position = [maps[:, :, row, column] for row in range(2) for column in range(3)]
    torch.testing.assert_close(network(features()).capsules, straightforward(network, sum(at_every_position) / 6))


def test_gradients_pass_into_the_votes_through_the_last_pass_alone() -> None:
    network = head_network(FULL)
    conv, weight = network.stages["primary"].conv, network.stages["class_caps"].weight
    target = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((network(features()).capsules * target).sum(), [conv.weight, weight])
    maps = conv2d(features(), conv.weight, conv.bias).flatten(1)
    expected = torch.autograd.grad((straightforward(network, maps) * target).sum(), [conv.weight, weight])
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize(
    ("head", "roles"),
    [
        (FULL, ["presquash", "out"]),
        (MEAN, ["input", "presquash", "out"]),
        (DEPTHWISE, ["presquash", "out"]),
    ],
)
def test_the_primary_layer_passes_its_sites(head: CapsuleHead, roles: list[str]) -> None:
    seen: dict[str, tuple[int, ...]] = {}
    network = head_network(head)
    with hooked(network, lambda name, array: seen.setdefault(name, array.shape) and array):
        network(features())
    assert [name for name in seen if name.startswith("primary")] == [f"primary.{role}" for role in roles]
    assert seen["primary.out"] == (2, 3, 4)


def test_the_mean_of_a_map_is_rounded_before_the_convolution() -> None:
    network = head_network(MEAN)
    inputs = []
    with hooked(network, lambda name, array: inputs.append(array) or array if name == "primary.input" else array):
        network(features())
    torch.testing.assert_close(inputs[0].flatten(1), features().flatten(2).mean(2))


def test_fresh_class_weights_are_normal_and_their_bias_a_tenth() -> None:
    network = head_network(replace(FULL, classes=50))
    last = network.stages["class_caps"]
    assert last.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert last.weight.abs().max() > 0.25
    assert (last.routing.bias == 0.1).all()


@pytest.mark.parametrize("head", [FULL, MEAN, DEPTHWISE], ids=["full", "pointwise", "depthwise"])
def test_a_fresh_primary_layer_has_pytorchs_default(head: CapsuleHead) -> None:
    conv = head_network(head).stages["primary"].conv
    bound = conv.weight[0].numel() ** -0.5
    assert 0.8 * bound < conv.weight.abs().max() <= bound
    assert 0.5 * bound < conv.bias.abs().max() <= bound


def test_a_bias_after_the_softmax_starts_at_zero() -> None:
    routing = replace(ROUTING, kind="attention", bias="after_softmax", scale=4.0)
    bias = head_network(replace(FULL, routing=routing)).stages["class_caps"].routing.bias
    assert bias.shape == (3, 5, 1)
    assert not bias.any()


def test_a_head_without_a_bias_can_be_filled() -> None:
    network = head_network(replace(FULL, routing=replace(ROUTING, bias="none")))
    assert network.stages["class_caps"].routing.bias is None
    assert network(features()).scores.isfinite().all()


def test_a_depthwise_head_needs_one_channel_for_each_number() -> None:
    with pytest.raises(UsageError, match="primary_types x primary_dim = 13, the last of widths, not 3 x 4"):
        head_stages(DEPTHWISE, 13, SIZE)


SEEN = {"types": (Cut("primary.out", 1),), "dims": (Cut("primary.out", 2),)}
BACKBONE = Backbone({}, (Unit("a.channels", 7, (Cut("a", 0),)), Unit("b.channels", 12, (Cut("b", 0), Cut("c", 1)))))


@pytest.mark.parametrize("kind", ["full", "pointwise"])
def test_the_last_channels_also_cut_what_the_primary_layer_reads(kind: HeadKind) -> None:
    first, last, types, dims = head_units(replace(FULL, kind=kind), BACKBONE)
    assert first == BACKBONE.units[0]
    assert last == Unit("b.channels", 12, (Cut("b", 0), Cut("c", 1), Cut("primary.conv.weight", 1)))
    rows = [("primary.conv.weight", 0), ("primary.conv.bias", 0)]
    by_type = (*(Cut(*row, inner=4) for row in rows), Cut("class_caps.weight", 0))
    assert types == Unit("primary.types", 3, by_type, SEEN["types"])
    by_dim = (*(Cut(*row) for row in rows), Cut("class_caps.weight", 2))
    assert dims == Unit("primary.dims", 4, by_dim, SEEN["dims"])


def test_the_last_channels_of_a_depthwise_head_are_its_capsules() -> None:
    first, types, dims = head_units(DEPTHWISE, BACKBONE)
    rows = [("b", 0), ("c", 1), ("primary.conv.weight", 0), ("primary.conv.bias", 0)]
    assert first == BACKBONE.units[0]
    by_type = (*(Cut(*row, inner=4) for row in rows), Cut("class_caps.weight", 0))
    assert types == Unit("primary.types", 3, by_type, SEEN["types"])
    by_dim = (*(Cut(*row) for row in rows), Cut("class_caps.weight", 2))
    assert dims == Unit("primary.dims", 4, by_dim, SEEN["dims"])


def test_a_bias_for_each_pair_follows_the_types() -> None:
    attention = replace(ROUTING, kind="attention", bias="after_softmax")
    types = {unit.name: unit for unit in head_units(replace(FULL, routing=attention), BACKBONE)}["primary.types"]
    assert types.cuts[-1] == Cut("class_caps.routing.bias", 0)


def test_types_that_compete_for_each_class_are_no_units():
    competing = replace(FULL, routing=replace(ROUTING, softmax_axis="inputs"))
    backbone = Backbone({}, (Unit("last.channels", CHANNELS, ()),))
    assert [unit.name for unit in head_units(competing, backbone)] == ["last.channels", "primary.dims"]
