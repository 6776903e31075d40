from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qcaps.evaluation.cost import stage_costs
from qcaps.models.capsule_head import HeadKind
from qcaps.models.network import CapsuleNetwork, array_sites, parameter_count, weight_sites
from qcaps.models.resnet50 import RESNET50_WIDTHS
from qcaps.models.resnet50_capsnet import RESNET50_CAPSNET, ResNet50CapsNetSpec
from qcaps.models.spec import build, initialised

FULL_SIZE = ResNet50CapsNetSpec(height=224, width=224, classes=200)
TINY = ResNet50CapsNetSpec(classes=5, widths=tuple(n // 16 for n in RESNET50_WIDTHS), primary_types=6)


def parameters(network: CapsuleNetwork, *stages: str) -> int:
    return sum(p.numel() for name in stages for p in network.stages[name].parameters())


@pytest.mark.parametrize(
    ("channels", "at_64_pixels", "at_224_pixels"),
    [
        (2048, 17_107_104, 212_079_744),
        (1970, 15_824_848, 196_273_808),
        (1947, 15_453_016, 191_689_376),
        (944, 3_716_688, 46_690_608),
    ],
)
def test_the_head_has_the_published_number_of_parameters(channels: int, at_64_pixels: int, at_224_pixels: int) -> None:
    pruned = {"widths": (*RESNET50_WIDTHS[:-1], channels), "primary_types": channels // 8}
    for spec, count in ((RESNET50_CAPSNET.spec, at_64_pixels), (FULL_SIZE, at_224_pixels)):
        assert parameters(build(replace(spec, **pruned)), "primary", "class_caps") == count


@pytest.mark.parametrize(("spec", "count"), [(RESNET50_CAPSNET.spec, 40_615_136), (FULL_SIZE, 235_587_776)])
def test_the_whole_has_the_published_number_of_parameters(spec: ResNet50CapsNetSpec, count: int) -> None:
    network = build(spec)
    assert parameters(network, *network.backbone) == 23_508_032
    assert parameter_count(network) == count


@pytest.mark.parametrize(("head", "count"), [("pointwise", 4_196_352), ("depthwise", 102_400)])
def test_another_head_removes_over_95_percent_of_the_primary_weights(head: HeadKind, count: int) -> None:
    full, small = (parameters(build(replace(FULL_SIZE, head=kind)), "primary") for kind in ("full", head))
    assert full == 205_522_944
    assert small == count
    assert small < 0.05 * full


def test_votes_and_routing_of_200_classes_cost_10_65_million_macs() -> None:
    # 256 · 200 · 8 · 16 for the votes, five products of 256 · 200 · 16 for three passes
    costs = {cost.name: cost for cost in stage_costs(build(FULL_SIZE).eval(), (3, 224, 224))}
    assert costs["class_caps"].macs == 6_553_600 + 5 * 819_200
    assert costs["primary"].macs == 2048 * 2048 * 49


def test_the_stages_run_from_the_stem_to_the_class_capsules() -> None:
    network = build(TINY)
    assert list(network.stages) == ["stem", "layer1", "layer2", "layer3", "layer4", "primary", "class_caps"]
    assert network.backbone == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert network.loss == "margin"
    assert network.decoder is None


def test_a_frozen_backbone_keeps_its_numbers_and_its_statistics() -> None:
    network = initialised(TINY, 0)
    network.freeze(network.backbone)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 1.0)
    network.train()(torch.rand(2, 3, 64, 64)).scores.sum().backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, t in network.state_dict().items() if not t.equal(before[name])}
    assert changed == {"primary", "class_caps"}


@pytest.mark.parametrize(
    ("head", "types"), [("full", 6), ("pointwise", 6), ("depthwise", 16)], ids=["full", "pointwise", "depthwise"]
)
def test_gradients_reach_every_parameter(head: HeadKind, types: int) -> None:
    network = initialised(replace(TINY, head=head, primary_types=types), 0)
    output = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert output.capsules.shape == (2, 5, 16)
    output.scores.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_types_are_a_number_of_their_own_and_not_an_eighth_of_the_width() -> None:
    smaller = TINY.with_widths({"layer4.out.channels": 72})
    assert smaller == replace(TINY, widths=(*TINY.widths[:-1], 72))
    assert build(smaller).stages["primary"].conv.weight.shape == (6 * 8, 72, 2, 2)


def test_types_and_dimensions_are_kept_by_the_name_of_their_unit() -> None:
    smaller = TINY.with_widths({"primary.types": 5, "primary.dims": 7})
    assert smaller == replace(TINY, primary_types=5, primary_dim=7)


def test_the_capsules_of_a_depthwise_head_decide_the_last_width() -> None:
    spec = replace(TINY, head="depthwise", primary_types=16)
    smaller = spec.with_widths({"primary.types": 9, "primary.dims": 7})
    assert smaller == replace(spec, widths=(*TINY.widths[:-1], 63), primary_types=9, primary_dim=7)


def test_the_units_are_37_groups_of_channels_then_types_and_dimensions() -> None:
    units = build(TINY).units
    assert len(units) == 39
    assert [unit.name for unit in units[-3:]] == ["layer4.out.channels", "primary.types", "primary.dims"]
    assert units[0].name == "stem.channels"


def test_the_sites_of_the_head_follow_those_of_the_backbone() -> None:
    network = build(TINY).eval()
    assert list(weight_sites(network))[-4:] == [
        *("primary.weight", "primary.bias", "class_caps.weight", "class_caps.bias"),
    ]
    sites = list(array_sites(network, (3, 64, 64)))
    behind = sites.index("layer4.2.sum_out") + 1
    assert behind == 53 + 16
    assert sites[behind : behind + 3] == ["primary.presquash", "primary.out", "class_caps.votes"]
    assert sites[-1] == "class_caps.out@3"


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


def test_the_published_head_squashes_and_routes_as_its_authors_do() -> None:
    routing = build(TINY).stages["class_caps"].routing.spec
    assert (routing.kind, routing.iterations, routing.bias, routing.detach) == ("dynamic", 3, "in_loop", True)
    assert (routing.squash_variant, routing.squash_eps) == ("hinton_sqrt", 1e-6)


def test_a_folded_network_has_no_norms() -> None:
    network = build(TINY.folded())
    assert len(build(TINY).folds) == 53
    assert not network.folds
    assert not [name for name in network.state_dict() if "norm" in name]
