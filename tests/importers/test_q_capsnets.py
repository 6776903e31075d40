from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import foreign_decoders
import foreign_networks
import pytest
import torch
from foreign_files import on_gpu, save_zip
from foreign_networks import assert_same
from foreign_torch import convdecoder, fc_layers, q_capsnets_deepcaps, q_capsnets_shallow

from qcaps.importers.importing import import_weights
from qcaps.models.deepcaps import DEEPCAPS, DEEPCAPS_64
from qcaps.models.network import parameter_count
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, filled

THIN = {"width": 6, "types": 3}
DECODER = ("fc1", "fc2", "fc3")


def test_the_published_shallow_capsnet_is_the_preset_and_computes_the_same(tmp_path: Path) -> None:
    state = q_capsnets_shallow()
    imported = import_weights(save_zip(tmp_path / "model.pt", state), "q-capsnets")
    assert imported.spec == ShallowCapsNetSpec()
    assert parameter_count(build(imported.spec)) == 6_804_384
    assert imported.ignored == ()
    images = torch.rand(1, 1, 28, 28)
    network = filled(imported.spec, imported.tensors, where="")
    expected = foreign_networks.q_capsnets_shallow(state, images)
    assert_same(network(images), expected)


@pytest.mark.parametrize(
    ("channels", "classes", "side"), [(2, 5, 32), (3, 10, 64), (1, 10, 36), (1, 4, 40), (2, 5, 48)]
)
def test_image_and_widths_of_a_shallow_capsnet_are_read_off_its_shapes(
    tmp_path: Path, channels: int, classes: int, side: int
) -> None:
    state = q_capsnets_shallow(channels=channels, classes=classes, side=side, dim=4, **THIN)
    state |= fc_layers(16, channels * side * side, *DECODER)
    imported = import_weights(on_gpu(save_zip(tmp_path / "model.pt", state)), "q-capsnets")
    spec = ShallowCapsNetSpec(
        channels=channels,
        height=side,
        width=side,
        classes=classes,
        conv_channels=(6,),
        primary_types=3,
        primary_dim=4,
        primary_coupling=1 / 3,
        decoder="fc",
    )
    assert imported.spec == spec
    images = torch.rand(2, channels, side, side)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    assert_same(output, foreign_networks.q_capsnets_shallow(state, images))
    drawn = foreign_decoders.fc(state, output.capsules[:, 1], *DECODER).view(images.shape)
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([1, 1])), drawn)


def test_the_published_deepcaps_are_the_presets(tmp_path: Path) -> None:
    for preset, count in ((DEEPCAPS, 8_445_504), (DEEPCAPS_64, 13_363_008)):
        state = {
            name: torch.zeros(tensor.shape)
            for name, tensor in q_capsnets_deepcaps(channels=preset.spec.channels, side=preset.spec.height).items()
        }
        state["conv1.batchnorm.num_batches_tracked"] = torch.tensor(3)
        imported = import_weights(save_zip(tmp_path / "model.pt", state), "q-capsnets")
        assert imported.spec == preset.spec
        assert parameter_count(build(imported.spec)) == count
        assert imported.ignored == ("conv1.batchnorm.num_batches_tracked",)


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 64)])
def test_a_deepcaps_computes_the_same_and_so_does_its_decoder(tmp_path: Path, channels: int, side: int) -> None:
    state = q_capsnets_deepcaps(channels=channels, classes=4, side=side, **THIN) | convdecoder(32, channels, side)
    imported = import_weights(save_zip(tmp_path / "model.pt", state), "q-capsnets")
    preset = DEEPCAPS if side == 28 else DEEPCAPS_64
    known = replace(
        preset.spec, classes=4, conv_channels=6, types=(3,) * 12, competing_types=3, decoder=f"convdecoder{side}"
    )
    assert imported.spec == known
    images = torch.rand(2, channels, side, side)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    assert_same(output, foreign_networks.q_capsnets_deepcaps(state, images))
    drawn = foreign_decoders.convdecoder(state, output.capsules[:, 2])
    assert (drawn > 0).float().mean() > 0.1
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([2, 2])), drawn)


def test_numbers_of_the_user_come_first(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", q_capsnets_shallow(**THIN))
    spec = import_weights(path, "q-capsnets", {"height": 27, "routing_passes": 2}).spec
    assert (spec.height, spec.width, spec.routing_passes) == (27, 28, 2)
