from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import foreign_decoders
import foreign_networks
import pytest
import torch
from drawn_weights import bias, keras_kernel
from foreign_decoders import kept_of
from foreign_files import save_keras
from foreign_keras import efficient_keras, keras_fc, keras_upsample48, original_keras
from foreign_networks import assert_same

from qcaps.errors import ArtifactError
from qcaps.importers.importing import import_weights
from qcaps.models.capsnet_flavours import TF_ORIGINAL
from qcaps.models.efficient_capsnet import AFFNIST, EFFICIENT_CAPSNET, MULTIMNIST, SMALLNORB
from qcaps.models.network import parameter_count
from qcaps.models.spec import build, filled

pytest.importorskip("h5py")

SOURCE = "efficient-capsnet"
STRIDES = {"mnist": (1, 1, 1, 2), "affnist": (1, 1, 1, 2), "multimnist": (1, 1, 2, 2), "smallnorb": (2, 1, 1, 2)}
PRESETS = {"mnist": EFFICIENT_CAPSNET, "affnist": AFFNIST, "multimnist": MULTIMNIST, "smallnorb": SMALLNORB}


@pytest.mark.parametrize(
    ("kind", "side", "encoder_values"), [("mnist", 28, 161_824), ("multimnist", 36, 154_656), ("affnist", 40, 180_256)]
)
def test_a_network_for_digits_is_the_preset_and_computes_the_same(
    tmp_path: Path, kind: str, side: int, encoder_values: int
) -> None:
    layers = efficient_keras(kind) | keras_fc(160, side * side)
    imported = import_weights(save_keras(tmp_path / "weights.h5", layers), SOURCE)
    assert imported.spec == replace(PRESETS[kind].spec, decoder="fc")
    assert parameter_count(build(imported.spec)) == encoder_values
    images = torch.rand(2, 1, side, side)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    encoder = list(layers["Efficient_CapsNet"].values())
    stride = 2 if kind == "multimnist" else 1
    assert_same(output, foreign_networks.efficient_keras(encoder, images.movedim(1, 3), STRIDES[kind], stride))
    drawn = foreign_decoders.fc_keras(list(layers["Generator"].values()), kept_of(output.capsules, 3))
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([3, 3])), drawn.view(images.shape))


def test_the_network_for_smallnorb_takes_all_of_its_381234_values(tmp_path: Path) -> None:
    layers = efficient_keras("smallnorb", classes=5) | keras_upsample48()
    # Names change from release to release.
    renamed = {"CapsNet" if name == "Efficient_CapsNet" else name: weights for name, weights in layers.items()}
    imported = import_weights(save_keras(tmp_path / "weights.h5", renamed), SOURCE)
    assert imported.spec == replace(SMALLNORB.spec, decoder="upsample48")
    assert imported.ignored == ()
    assert sum(tensor.numel() for tensor in imported.tensors.values()) == 381_234
    images = torch.randn(2, 2, 48, 48)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    encoder = list(layers["Efficient_CapsNet"].values())
    assert_same(output, foreign_networks.efficient_keras(encoder, images.movedim(1, 3), STRIDES["smallnorb"], 1))
    drawn = foreign_decoders.upsample48_keras(list(layers["Generator"].values()), kept_of(output.capsules, 4))
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([4, 4])), drawn.movedim(3, 1))


def test_the_original_capsnet_is_the_preset_and_computes_the_same(tmp_path: Path) -> None:
    layers = original_keras(width=12, types=4) | keras_fc(160, 784)
    imported = import_weights(save_keras(tmp_path / "weights.h5", layers), SOURCE)
    thin = {"conv_channels": (12,), "primary_types": 4, "primary_coupling": 1 / 4}
    assert imported.spec == replace(TF_ORIGINAL.spec, length_eps=1e-7, decoder="fc", **thin)
    images = torch.rand(2, 1, 28, 28)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    encoder = list(layers["Original_CapsNet"].values())
    assert_same(output, foreign_networks.original_keras(encoder, images.movedim(1, 3)))


def test_the_original_capsnet_at_its_published_size_has_its_published_number_of_values(tmp_path: Path) -> None:
    layers = {
        group: {name: torch.zeros(tensor.shape) for name, tensor in weights.items()}
        for group, weights in original_keras().items()
    }
    imported = import_weights(save_keras(tmp_path / "weights.h5", layers), SOURCE)
    assert imported.spec == replace(TF_ORIGINAL.spec, length_eps=1e-7)
    assert parameter_count(build(imported.spec)) == 6_804_384


def test_a_dense_decoder_of_colour_images_draws_channels_first(tmp_path: Path) -> None:
    layers = efficient_keras("mnist")
    layers["Efficient_CapsNet"]["conv2d/kernel"] = keras_kernel(5, 5, 3, 32)
    layers |= keras_fc(160, 28 * 28 * 3)
    imported = import_weights(save_keras(tmp_path / "weights.h5", layers), SOURCE)
    capsules = bias(1, 10, 16)
    network = filled(imported.spec, imported.tensors, where="")
    drawn = foreign_decoders.fc_keras(list(layers["Generator"].values()), kept_of(capsules, 0)).view(1, 28, 28, 3)
    torch.testing.assert_close(network.reconstruct(capsules, torch.tensor([0])), drawn.movedim(3, 1))


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ({"extra": {"w": torch.ones(2)}, "more": {"w": torch.ones(2)}}, "4 layers with weights"),
        ({"Generator": {"w": torch.ones(2)}}, "decoder of 1 weights"),
    ],
)
def test_other_groups_of_weights_are_refused(
    tmp_path: Path, group: dict[str, dict[str, torch.Tensor]], reason: str
) -> None:
    layers = efficient_keras("mnist") | keras_fc(160, 784) | group
    with pytest.raises(ArtifactError, match=reason):
        import_weights(save_keras(tmp_path / "weights.h5", layers), SOURCE)
