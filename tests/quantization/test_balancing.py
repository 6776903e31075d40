from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from toys import FOLDED, NORMED, ROUTED, toy_images, toy_network

from qcaps.models.mobilenetv1 import MOBILENETV1
from qcaps.models.network import encoder_tensors
from qcaps.models.resnet50 import RESNET50
from qcaps.models.spec import ModelSpec, build, filled
from qcaps.quantization.balancing import MOST_DOUBLINGS, balance_channels
from qcaps.quantization.folding import fold_batch_norms

DEEP = dataclasses.replace(ROUTED, conv_channels=(4, 6), conv_kernels=(3, 3), conv_strides=(1, 1))
SMALL = {"channels": 1, "height": 32, "width": 32, "classes": 3, "norm": "none"}
RESNET = dataclasses.replace(RESNET50.spec, **SMALL, widths=(4,) * 37)
MOBILENET = dataclasses.replace(MOBILENETV1.spec, **SMALL, widths=(4,) * 14)
SPECS = [ROUTED, DEEP, FOLDED, RESNET, MOBILENET]
NAMES = ["routed", "deep", "folded", "resnet", "mobilenet"]


def uneven(spec: ModelSpec) -> dict[str, Tensor]:
    """Give the tensors of a toy network whose input channels differ by factors that are no powers of two."""
    tensors = encoder_tensors(toy_network(spec))
    for chain in build(spec).chains:
        weight = tensors[f"stages.{chain.second}.weight"]
        weight *= torch.logspace(-1, 1, weight.shape[1]).view(1, -1, 1, 1)
    return tensors


def root_mean_squares(weight: Tensor) -> Tensor:
    return weight.double().square().mean((0, 2, 3)).sqrt()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_every_score_stays_bit_for_bit_what_it_was(spec: ModelSpec, per_channel: bool) -> None:
    tensors = uneven(spec)
    balanced = balance_channels(spec, tensors, per_channel=per_channel)
    pixels = toy_images(spec).pixels / 255 if spec.height == 14 else torch.rand(4, 1, 32, 32)
    with torch.inference_mode():
        before, after = (filled(spec, t, where="")(pixels).scores for t in (tensors, balanced))
    assert torch.equal(before, after)
    assert any(not torch.equal(tensors[name], balanced[name]) for name in tensors)


@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_input_channels_end_within_a_factor_of_two(spec: ModelSpec) -> None:
    balanced = balance_channels(spec, uneven(spec), per_channel=True)
    chains = build(spec).chains
    for chain in chains:
        found = root_mean_squares(balanced[f"stages.{chain.second}.weight"])
        assert found.max() <= 2 * found.min() * (1 + 1e-5)
    assert chains


def test_with_one_scale_a_weight_both_sides_share_what_is_uneven() -> None:
    tensors = uneven(ROUTED)
    front, behind = "stages.conv1.conv.weight", "stages.primary.conv.weight"
    tensors[front] = torch.ones_like(tensors[front])
    tensors[behind] = torch.tensor([1.0, 1.0, 16.0, 1 / 16]).view(1, 4, 1, 1).expand_as(tensors[behind])
    balanced = balance_channels(ROUTED, tensors, per_channel=False)
    assert balanced[behind][0, :, 0, 0].tolist() == [1, 1, 4, 1 / 4]
    assert balanced[front][:, 0, 0, 0].tolist() == [1, 1, 4, 1 / 4]


def test_the_bias_in_front_goes_with_its_channel() -> None:
    tensors = uneven(ROUTED)
    balanced = balance_channels(ROUTED, tensors, per_channel=True)
    front, bias = "stages.conv1.conv.weight", "stages.conv1.conv.bias"
    factors = tensors[front][:, 0, 0, 0] / balanced[front][:, 0, 0, 0]
    assert torch.equal(tensors[bias] / balanced[bias], factors)
    assert factors.unique().numel() > 1


def test_channels_without_weights_stay_as_they_are() -> None:
    tensors = uneven(ROUTED)
    tensors["stages.primary.conv.weight"][:, 1] = 0
    tensors["stages.conv1.conv.weight"][2] = 0
    balanced = balance_channels(ROUTED, tensors, per_channel=True)
    for name in ("stages.conv1.conv.weight", "stages.conv1.conv.bias"):
        assert torch.equal(balanced[name][[1, 2]], tensors[name][[1, 2]])
        assert not torch.equal(balanced[name], tensors[name])


def test_a_network_of_zeros_stays_as_it_is() -> None:
    tensors = {name: torch.zeros_like(tensor) for name, tensor in uneven(ROUTED).items()}
    balanced = balance_channels(ROUTED, tensors, per_channel=True)
    assert all(torch.equal(balanced[name], tensors[name]) for name in tensors)


def test_no_channel_changes_without_bound() -> None:
    tensors = uneven(ROUTED)
    tensors["stages.primary.conv.weight"][:, 0] = 1e-30
    balanced = balance_channels(ROUTED, tensors, per_channel=True)
    ratio = balanced["stages.primary.conv.weight"][:, 0] / tensors["stages.primary.conv.weight"][:, 0]
    assert torch.equal(ratio, torch.full_like(ratio, 2.0**MOST_DOUBLINGS))


def test_a_norm_between_two_convolutions_leaves_nothing_to_balance() -> None:
    tensors = encoder_tensors(toy_network(NORMED))
    balanced = balance_channels(NORMED, tensors, per_channel=True)
    assert all(balanced[name] is tensors[name] for name in tensors)
    assert not build(NORMED).chains
    assert build(fold_batch_norms(NORMED, tensors)[0]).chains


def test_nothing_that_was_given_is_changed() -> None:
    tensors = uneven(ROUTED)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    balance_channels(ROUTED, tensors, per_channel=True)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
