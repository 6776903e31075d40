from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from toys import NORMED, ROUTED, toy_images, toy_network

from qcaps.models.mobilenetv1 import MOBILENETV1_WIDTHS
from qcaps.models.mobilenetv1_capsnet import MobileNetV1CapsNetSpec
from qcaps.models.network import CapsuleNetwork, Fold, encoder_tensors, to_inference
from qcaps.models.resnet50 import RESNET50_WIDTHS, ResNet50Spec
from qcaps.models.spec import ModelSpec, build, filled, initialised
from qcaps.quantization.folding import fold_batch_norms

IMAGE = {"height": 15, "width": 15, "classes": 4}
RESNET = ResNet50Spec(**IMAGE, widths=tuple(n // 16 for n in RESNET50_WIDTHS), norm_momentum=1.0)
MOBILE = MobileNetV1CapsNetSpec(
    **IMAGE, widths=tuple(n // 8 for n in MOBILENETV1_WIDTHS), primary_types=3, norm_momentum=1.0
)
WIDE = dataclasses.replace(NORMED, conv_channels=(3, 5, 8, 24), conv_kernels=(3, 3, 1, 3), conv_strides=(1, 2, 1, 1))


def folded_network(spec: ModelSpec, tensors: dict[str, Tensor]) -> CapsuleNetwork:
    folded, numbers = fold_batch_norms(spec, tensors)
    return to_inference(filled(folded, numbers, where="folded"))


def settled(network: CapsuleNetwork, pixels: Tensor) -> CapsuleNetwork:
    """Set the running statistics to those of the images, so that the signal reaches the end of a deep network."""
    network.train()(pixels.float() / 255)
    return to_inference(network)


@dataclass(frozen=True)
class SandwichSpec:
    """A convolution without bias between two norms that both fold into it, in whatever order they are declared."""

    folds: tuple[Fold, Fold]
    norm: str = "batch"

    def build(self) -> CapsuleNetwork:
        folded = self.norm == "none"
        layers = {
            "before": nn.Identity() if folded else nn.BatchNorm2d(2, eps=0.25),
            "conv": nn.Conv2d(2, 3, 2, bias=folded),
            "behind": nn.Identity() if folded else nn.BatchNorm2d(3, eps=0.5),
        }
        return CapsuleNetwork(layers, folds=() if folded else self.folds)

    def folded(self) -> SandwichSpec:
        return dataclasses.replace(self, norm="none")

    def without_decoder(self) -> SandwichSpec:
        return self


SANDWICH = (Fold("before", "conv"), Fold("behind", "conv"))


@pytest.mark.parametrize("spec", [NORMED, WIDE])
@pytest.mark.parametrize("seed", range(4))
def test_a_folded_network_gives_the_same_scores(spec: ModelSpec, seed: int) -> None:
    network = toy_network(spec, seed)
    gammas = torch.cat([t for n, t in network.state_dict().items() if n.endswith("norm.weight")])
    pixels = toy_images(spec).pixels.double() / 255
    folded = folded_network(spec, encoder_tensors(network))
    with torch.inference_mode():
        before, after = network.double()(pixels), folded.double()(pixels)
    assert gammas.min() < 0 < gammas.max()
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-5, atol=0)
    torch.testing.assert_close(after.capsules, before.capsules, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", [RESNET, MOBILE], ids=["resnet", "mobilenet"])
def test_a_folded_backbone_gives_the_same_scores(spec: ModelSpec) -> None:
    pixels = toy_images(spec).pixels
    network = settled(toy_network(spec), pixels).double()
    folded, numbers = fold_batch_norms(spec, encoder_tensors(network))
    normless = build(folded).to_empty(device="cpu").double().eval()
    normless.load_state_dict(numbers, strict=True)
    with torch.inference_mode():
        before, after = (n(pixels.double() / 255).scores for n in (network, normless))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
    assert before.std(0).min() > 0.1 * before.abs().mean()


@pytest.mark.parametrize("folds", [SANDWICH, SANDWICH[::-1]], ids=["before-first", "behind-first"])
def test_norms_on_both_sides_fold_into_one_convolution(folds: tuple[Fold, Fold]) -> None:
    spec = SandwichSpec(folds)
    network = spec.build().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in encoder_tensors(network).values():
        tensor.uniform_(0.5, 2, generator=generator)
    folded, numbers = fold_batch_norms(spec, encoder_tensors(network))
    conv = folded.build()
    conv.load_state_dict(numbers, strict=True)
    maps = torch.rand(2, 2, 3, 4, generator=generator)
    expected = nn.Sequential(*network.stages.values())(maps)
    torch.testing.assert_close(conv.stages["conv"](maps), expected)


def test_a_norm_behind_a_convolution_folds_as_the_formula_says() -> None:
    # γ/√(σ² + ε) = 6/√(3.99 + 0.01) = 3 for channel 0, -1 for the others; β - a·μ = 0.5 - 3 · 2 and 0.5 + 2
    spec = dataclasses.replace(MOBILE, norm_eps=0.01)
    tensors = encoder_tensors(initialised(spec, 0))
    path = "stages.block2.depthwise"
    for part, value in (("weight", -2.0), ("bias", 0.5), ("running_mean", 2.0), ("running_var", 3.99)):
        tensors[f"{path}.norm.{part}"].fill_(value)
    tensors[f"{path}.norm.weight"][0] = 6.0
    weight = tensors[f"{path}.conv.weight"].clone()  # (channels, 1, rows, columns)
    _, folded = fold_batch_norms(spec, tensors)
    torch.testing.assert_close(folded[f"{path}.conv.weight"][0], 3 * weight[0])
    torch.testing.assert_close(folded[f"{path}.conv.weight"][1:], -weight[1:])
    torch.testing.assert_close(folded[f"{path}.conv.bias"], torch.tensor([-5.5] + [2.5] * (len(weight) - 1)))


def test_one_norm_folds_as_the_formula_says() -> None:
    # γ/√(σ² + ε) = 2/√(3.999 + 0.001) = 1 for channel 0, -3 for the others; β - a·μ = 5 and 0.5 + 3 · 2
    tensors = encoder_tensors(initialised(NORMED, 0))
    for part, value in (("weight", -6.0), ("bias", 0.5), ("running_mean", 2.0), ("running_var", 3.999)):
        tensors[f"stages.conv1.norm.{part}"].fill_(value)
    for part, value in (("weight", 2.0), ("bias", 7.0)):
        tensors[f"stages.conv1.norm.{part}"][0] = value
    weight = tensors["stages.conv2.conv.weight"].clone()  # (out, in, rows, columns)
    bias = tensors["stages.conv2.conv.bias"].clone()
    _, folded = fold_batch_norms(NORMED, tensors)
    found = folded["stages.conv2.conv.weight"]
    torch.testing.assert_close(found[:, 0], weight[:, 0])
    torch.testing.assert_close(found[:, 1:], -3 * weight[:, 1:])
    expected = bias + 5 * weight[:, 0].sum((1, 2)) + 6.5 * weight[:, 1:].sum((1, 2, 3))
    torch.testing.assert_close(folded["stages.conv2.conv.bias"], expected)


def test_a_norm_before_a_depthwise_layer_scales_each_filter_of_its_own_channel() -> None:
    tensors = encoder_tensors(initialised(NORMED, 0))
    gamma = torch.linspace(-2, 2, 16)
    tensors["stages.conv4.norm.weight"].copy_(gamma * (1 + NORMED.norm_eps) ** 0.5)
    tensors["stages.conv4.norm.bias"].copy_(torch.arange(16.0))
    weight = tensors["stages.primary.conv.weight"].clone()  # (channels, 1, rows, columns)
    _, folded = fold_batch_norms(NORMED, tensors)
    for channel in range(16):
        torch.testing.assert_close(folded["stages.primary.conv.weight"][channel], gamma[channel] * weight[channel])
        shift = channel * weight[channel].sum()
        torch.testing.assert_close(folded["stages.primary.conv.bias"][channel], shift)


def test_no_norm_is_left_over() -> None:
    spec, folded = fold_batch_norms(NORMED, encoder_tensors(toy_network(NORMED)))
    assert spec == dataclasses.replace(NORMED, norm="none")
    assert not [name for name in folded if "norm" in name]
    assert {tensor.dtype for tensor in folded.values()} == {torch.float32}


def test_the_trained_network_stays_as_it_was() -> None:
    tensors = encoder_tensors(toy_network(NORMED))
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    fold_batch_norms(NORMED, tensors)
    assert tensors.keys() == copies.keys()
    assert all(torch.equal(tensors[name], copy) for name, copy in copies.items())


def test_a_network_without_norms_is_unchanged() -> None:
    tensors = encoder_tensors(toy_network(ROUTED))
    spec, folded = fold_batch_norms(ROUTED, tensors)
    assert spec == ROUTED
    assert folded.keys() == tensors.keys()
    assert all(torch.equal(folded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("spec", [NORMED, ROUTED])
def test_the_decoder_is_dropped_with_its_norms(spec: ModelSpec) -> None:
    with_decoder = dataclasses.replace(spec, decoder="fc", decoder_norm=True)
    tensors = {n: t for n, t in initialised(with_decoder, 0).state_dict().items() if "batches_tracked" not in n}
    folded, numbers = fold_batch_norms(with_decoder, tensors)
    assert folded == spec.folded()
    assert not [name for name in numbers if name.startswith("decoder")]
    filled(folded, numbers, where="folded")
