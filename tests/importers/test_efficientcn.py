from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import foreign_decoders
import foreign_networks
import pytest
import torch
from foreign_decoders import kept_of
from foreign_files import save_zip
from foreign_networks import assert_same
from foreign_torch import efficientcn, efficientcn_capsnet, fc_layers, upsample48

from qcaps.errors import ArtifactError
from qcaps.importers.importing import import_weights
from qcaps.models.capsnet_flavours import EFFICIENTCN
from qcaps.models.efficient_capsnet import AFFNIST, EFFICIENT_CAPSNET, MULTIMNIST, SMALLNORB
from qcaps.models.network import parameter_count
from qcaps.models.spec import build, filled

SOURCE = "efficientcn"
PRESETS = {"mnist": EFFICIENT_CAPSNET, "affnist": AFFNIST, "multimnist": MULTIMNIST, "smallnorb": SMALLNORB}
STRIDES = {"mnist": (1, 1, 1, 2), "affnist": (1, 1, 1, 2), "multimnist": (1, 1, 2, 2), "smallnorb": (2, 1, 1, 2)}
LAYERS = ("layers.0", "layers.2", "layers.4")
# PyTorch's defaults, plain lengths, and the paper's scale.
NUMBERS = {"norm_eps": 1e-5, "norm_momentum": 0.1, "length_eps": 0.0, "attention_scale": math.sqrt(8)}


@pytest.mark.parametrize(("kind", "side"), [("mnist", 28), ("multimnist", 36), ("affnist", 40)])
def test_a_network_for_digits_computes_the_same(tmp_path: Path, kind: str, side: int) -> None:
    decoders = ["decoder1", "decoder2"] if kind == "multimnist" else ["decoder"]
    state = efficientcn(kind)
    for decoder in decoders:
        state |= fc_layers(160, side * side, *(f"{decoder}.{layer}" for layer in LAYERS))
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == replace(PRESETS[kind].spec, decoder="fc", **NUMBERS)
    counters = [f"backbone.layers.{i}.num_batches_tracked" for i in (2, 5, 8, 11)]
    second = [f"decoder2.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    assert sorted(imported.ignored) == sorted([*counters, *(second if kind == "multimnist" else [])])
    images = torch.rand(2, 1, side, side)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    assert_same(output, foreign_networks.efficientcn(state, images, STRIDES[kind]))
    drawn = foreign_decoders.fc(state, kept_of(output.capsules, 7), *(f"{decoders[0]}.{layer}" for layer in LAYERS))
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([7, 7])), drawn.view(images.shape))


def test_the_network_for_smallnorb_has_norms_without_tensors_and_aligned_corners(tmp_path: Path) -> None:
    state = efficientcn("smallnorb", classes=5) | upsample48()
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == replace(SMALLNORB.spec, norm_affine=False, decoder="upsample48-aligned", **NUMBERS)
    images = torch.randn(2, 2, 48, 48)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    assert_same(output, foreign_networks.efficientcn(state, images, STRIDES["smallnorb"]))
    drawn = foreign_decoders.upsample48(state, kept_of(output.capsules, 2))
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([2, 2])), drawn)


def test_a_network_without_routing_bias_has_none(tmp_path: Path) -> None:
    state = efficientcn("affnist", with_bias=False)
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == replace(AFFNIST.spec, routing_bias="none", **NUMBERS)
    images = torch.rand(2, 1, 40, 40)
    expected = foreign_networks.efficientcn(state, images, STRIDES["affnist"])
    assert_same(filled(imported.spec, imported.tensors, where="")(images), expected)


def test_a_capsnet_starts_from_its_table_and_makes_four_passes(tmp_path: Path) -> None:
    state = efficientcn_capsnet(width=12, types=4) | fc_layers(160, 784, *(f"decoder.{layer}" for layer in LAYERS))
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == replace(EFFICIENTCN.spec, conv_channels=(12,), primary_types=4, decoder="fc")
    assert (imported.spec.routing_passes, imported.spec.prior_logits) == (4, True)
    images = torch.rand(2, 1, 28, 28)
    expected = foreign_networks.efficientcn_capsnet(state, images)
    assert_same(filled(imported.spec, imported.tensors, where="")(images), expected)


def test_the_capsnet_for_smallnorb_has_a_second_convolution(tmp_path: Path) -> None:
    state = efficientcn_capsnet(channels=2, classes=5, side=48, width=6, types=3, convs=2) | upsample48()
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert (imported.spec.height, imported.spec.width, imported.spec.channels) == (48, 48, 2)
    assert (imported.spec.conv_channels, imported.spec.conv_kernels) == ((6, 6), (9, 9))
    images = torch.rand(2, 2, 48, 48)
    expected = foreign_networks.efficientcn_capsnet(state, images)
    assert_same(filled(imported.spec, imported.tensors, where="")(images), expected)


def test_the_published_capsnet_has_its_published_number_of_values(tmp_path: Path) -> None:
    state = {name: torch.zeros(tensor.shape) for name, tensor in efficientcn_capsnet().items()}
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == EFFICIENTCN.spec
    assert parameter_count(build(imported.spec)) == 6_815_744


def test_convolutions_without_a_relu_between_them_are_refused(tmp_path: Path) -> None:
    state = efficientcn_capsnet(side=48, width=6, types=3, convs=2)
    linear = {name.replace("backbone.layers.2.", "backbone.layers.1."): tensor for name, tensor in state.items()}
    with pytest.raises(ArtifactError, match="ReLU behind each"):
        import_weights(save_zip(tmp_path / "model.pt", linear), SOURCE)


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    state = efficientcn("mnist") | {"decoder.layers.0.weight": torch.ones(3, 160)}
    with pytest.raises(ArtifactError, match="a decoder of 1 tensors"):
        import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
