from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prunable import MOBILE, MOBILE_CAPS, RESNET, RESNET_CAPS
from torch import nn

from qcaps.capsules.backbone_layers import BatchNormSpec, ConvNorm
from qcaps.errors import UsageError
from qcaps.models.backbone import Backbone, channel_unit, map_size
from qcaps.models.network import Fold, encoder_tensors
from qcaps.models.spec import ModelSpec, build, initialised
from qcaps.models.units import Cut, Unit

PLAIN = [RESNET, MOBILE]
HEADS = [
    *(replace(spec, head=kind) for spec in (RESNET_CAPS, MOBILE_CAPS) for kind in ("full", "pointwise")),
    replace(RESNET_CAPS, head="depthwise", primary_types=16),
    replace(MOBILE_CAPS, head="depthwise", primary_types=16),
]


def name_of(spec: ModelSpec) -> str:
    return f"{spec.architecture}-{getattr(spec, 'head', 'plain')}-{spec.norm}-{getattr(spec, 'routing', '')}"


@pytest.mark.parametrize("spec", [*PLAIN, *HEADS], ids=name_of)
def test_a_spec_with_all_units_kept_is_the_same(spec: ModelSpec) -> None:
    network = build(spec)
    assert spec.with_widths({}) == spec
    assert spec.with_widths({unit.name: unit.count for unit in network.units}) == spec


@pytest.mark.parametrize("spec", [*PLAIN, *HEADS], ids=name_of)
def test_every_backbone_tensor_belongs_to_a_unit_and_only_the_image_side_of_the_first_is_whole(spec: ModelSpec) -> None:
    network = build(spec)
    followed = {(cut.tensor, cut.axis) for unit in network.units for cut in unit.cuts}
    tensors = {name.removeprefix("stages."): tensor for name, tensor in encoder_tensors(network).items()}
    backbone = {name: t for name, t in tensors.items() if name.split(".")[0] in network.backbone}
    expected = {(name, 0) for name in backbone}
    expected |= {(name, 1) for name, t in backbone.items() if t.ndim == 4 and t.shape[1] > 1}
    assert {f for f in followed if f[0] in backbone} == expected - {("stem.conv.weight", 1)}


@pytest.mark.parametrize("spec", [RESNET, MOBILE], ids=name_of)
def test_another_number_of_widths_is_refused(spec: ModelSpec) -> None:
    count = len(spec.widths)
    with pytest.raises(UsageError, match=f"{spec.architecture} has {count} widths, not {count - 1}"):
        build(replace(spec, widths=spec.widths[:-1]))


@pytest.mark.parametrize("spec", [*PLAIN, RESNET_CAPS, MOBILE_CAPS], ids=name_of)
def test_a_fresh_backbone_has_torchvisions_initial_values(spec: ModelSpec) -> None:
    wide = replace(spec, widths=tuple(4 * n for n in spec.widths))
    network = initialised(wide, seed=0)
    convs = {path: m for path, m in network.stages.named_modules() if isinstance(m, nn.Conv2d) and m.bias is None}
    assert len(convs) in (27, 53)
    for conv in convs.values():
        weight = conv.weight
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        torch.testing.assert_close(weight.var().item(), 2 / fan_out, rtol=0.5, atol=0)
    for name, tensor in encoder_tensors(network).items():
        if ".norm." in name:
            assert (tensor == (1.0 if name.endswith((".weight", "running_var")) else 0.0)).all()


@pytest.mark.parametrize("spec", [*PLAIN, RESNET_CAPS], ids=name_of)
def test_the_seed_alone_decides_the_initial_values(spec: ModelSpec) -> None:
    first, again, other = (encoder_tensors(initialised(spec, seed)) for seed in (1, 1, 2))
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    assert not first["stages.stem.conv.weight"].equal(other["stages.stem.conv.weight"])


def test_a_fresh_folded_network_has_no_biases_in_its_backbone() -> None:
    network = initialised(MOBILE.folded(), seed=0)
    biases = [t for name, t in encoder_tensors(network).items() if name.endswith("conv.bias")]
    assert len(biases) == 27
    assert not torch.cat(biases).any()


@pytest.mark.parametrize(("image", "size"), [((64, 64), (2, 2)), ((224, 224), (7, 7)), ((28, 33), (1, 2))])
@pytest.mark.parametrize("spec", PLAIN, ids=name_of)
def test_the_map_is_a_32nd_of_the_image_rounded_up(
    spec: ModelSpec, image: tuple[int, int], size: tuple[int, int]
) -> None:
    network = build(spec).eval()
    value = torch.empty(1, 3, *image, device="meta")
    for name in network.backbone:
        value = network.stages[name](value)
    assert value.shape == (1, spec.widths[-1], *size)
    assert map_size(*image) == size


def test_channels_are_cut_where_they_are_made_and_read() -> None:
    unit = channel_unit("a", 4, made_by=["b", "c"], read_by=["d"], with_norm=False)
    assert unit == Unit(
        "a.channels",
        4,
        (*(Cut(f"{p}.conv.{role}", 0) for p in "bc" for role in ("weight", "bias")), Cut("d.conv.weight", 1)),
    )


def test_the_norms_of_a_backbone_fold_into_the_convolution_before_them() -> None:
    normed = ConvNorm(3, 4, kernel_size=1, norm=BatchNormSpec(1e-5, 0.1))
    plain = ConvNorm(4, 4, kernel_size=1, norm=None)
    unit = channel_unit("last", 4, made_by=["last.0"], with_norm=True)
    backbone = Backbone({"stem": plain, "last": nn.Sequential(normed)}, (unit,))
    assert backbone.folds == (Fold("last.0.norm", "last.0.conv"),)
    assert backbone.channels == 4
