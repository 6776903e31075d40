from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from toys import NORMED, ROUTED, toy_images, toy_network

from qcaps.models.network import CapsuleNetwork, encoder_tensors, to_inference
from qcaps.models.spec import ModelSpec, filled, initialised
from qcaps.quantization.folding import fold_batch_norms

WIDE = dataclasses.replace(NORMED, conv_channels=(3, 5, 8, 24), conv_kernels=(3, 3, 1, 3), conv_strides=(1, 2, 1, 1))


def folded_network(spec: ModelSpec, tensors: dict[str, Tensor]) -> CapsuleNetwork:
    folded, numbers = fold_batch_norms(spec, tensors)
    return to_inference(filled(folded, numbers, where="folded"))


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
