from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qcaps.models.capsule_head import HeadKind
from qcaps.models.mobilenetv1 import MOBILENETV1_WIDTHS
from qcaps.models.mobilenetv1_capsnet import MOBILENETV1_CAPSNET, MobileNetV1CapsNetSpec
from qcaps.models.network import CapsuleNetwork, array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised

FULL_SIZE = MobileNetV1CapsNetSpec(height=224, width=224, classes=200)
TINY = MobileNetV1CapsNetSpec(classes=5, widths=tuple(n // 8 for n in MOBILENETV1_WIDTHS), primary_types=6)


def parameters(network: CapsuleNetwork, *stages: str) -> int:
    return sum(p.numel() for name in stages for p in network.stages[name].parameters())


@pytest.mark.parametrize(
    ("channels", "at_64_pixels", "at_224_pixels"), [(1024, 4_359_328, 54_661_248), (619, 1_624_552, 20_658_912)]
)
def test_the_head_has_the_published_number_of_parameters(channels: int, at_64_pixels: int, at_224_pixels: int) -> None:
    pruned = {"widths": (*MOBILENETV1_WIDTHS[:-1], channels), "primary_types": channels // 8}
    for spec, count in ((MOBILENETV1_CAPSNET.spec, at_64_pixels), (FULL_SIZE, at_224_pixels)):
        assert parameters(build(replace(spec, **pruned)), "primary", "class_caps") == count


@pytest.mark.parametrize(("spec", "count"), [(MOBILENETV1_CAPSNET.spec, 7_566_304), (FULL_SIZE, 57_868_224)])
def test_the_whole_has_the_published_number_of_parameters(spec: MobileNetV1CapsNetSpec, count: int) -> None:
    network = build(spec)
    assert parameters(network, *network.backbone) == 3_206_976
    assert parameter_count(network) == count


@pytest.mark.parametrize(("head", "count"), [("pointwise", 1_049_600), ("depthwise", 51_200)])
def test_another_head_removes_over_95_percent_of_the_primary_weights(head: HeadKind, count: int) -> None:
    full, small = (parameters(build(replace(FULL_SIZE, head=kind)), "primary") for kind in ("full", head))
    assert full == 51_381_248
    assert small == count
    assert small < 0.05 * full


def test_the_stages_run_from_the_stem_to_the_class_capsules() -> None:
    network = build(TINY)
    assert network.backbone == ("stem", *(f"block{i}" for i in range(1, 14)))
    assert list(network.stages) == [*network.backbone, "primary", "class_caps"]
    assert network.loss == "margin"
    assert network.decoder is None


@pytest.mark.parametrize(
    ("head", "types"), [("full", 6), ("pointwise", 6), ("depthwise", 16)], ids=["full", "pointwise", "depthwise"]
)
def test_gradients_reach_every_parameter(head: HeadKind, types: int) -> None:
    network = initialised(replace(TINY, head=head, primary_types=types), 0)
    output = network(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert output.capsules.shape == (4, 5, 16)
    output.scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_relu_of_the_stem_is_lost_only_on_request() -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    least = [
        initialised(replace(TINY, stem_relu=relu), 0).eval().stages["stem"](image).min().item()
        for relu in (True, False)
    ]
    assert least[0] == 0
    assert least[1] < 0


def test_widths_types_and_dimensions_are_kept_by_the_name_of_their_unit() -> None:
    smaller = TINY.with_widths({"block13.channels": 99, "primary.types": 5, "primary.dims": 7})
    assert smaller == replace(TINY, widths=(*TINY.widths[:-1], 99), primary_types=5, primary_dim=7)


def test_the_capsules_of_a_depthwise_head_decide_the_last_width() -> None:
    spec = replace(TINY, head="depthwise", primary_types=16)
    smaller = spec.with_widths({"primary.types": 9, "primary.dims": 7})
    assert smaller == replace(spec, widths=(*TINY.widths[:-1], 63), primary_types=9, primary_dim=7)


def test_the_units_are_14_groups_of_channels_then_types_and_dimensions() -> None:
    names = [unit.name for unit in build(TINY).units]
    blocks = [f"block{i}.channels" for i in range(1, 14)]
    assert names == ["stem.channels", *blocks, "primary.types", "primary.dims"]


def test_the_sites_of_the_head_follow_those_of_the_backbone() -> None:
    network = build(TINY).eval()
    sites = list(array_sites(network, (3, 64, 64)))
    assert sites[26:30] == ["block13.pointwise.out", "primary.presquash", "primary.out", "class_caps.votes"]
    assert len(weight_sites(network)) == 27 + 4


def test_uniform_routing_couples_evenly() -> None:
    network = build(TINY.with_uniform_routing()).eval()
    assert TINY.with_uniform_routing() == replace(TINY, routing="uniform")
    assert "class_caps.coupling" in array_sites(network, (3, 64, 64))


def test_a_decoder_may_be_asked_for() -> None:
    small = replace(TINY, height=10, width=9)
    with_decoder = replace(small, decoder="fc", decoder_norm=True)
    network = initialised(with_decoder, 0).eval()
    capsules = network(torch.rand(2, 3, 10, 9)).capsules
    assert network.reconstruct(capsules, torch.tensor([0, 3])).shape == (2, 3, 10, 9)
    assert with_decoder.without_decoder() == small


def test_a_folded_network_has_no_norms() -> None:
    network = build(TINY.folded())
    assert len(build(TINY).folds) == 27
    assert not network.folds
    assert not [name for name in network.state_dict() if "norm" in name]
