from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import foreign_decoders
import foreign_networks
import pytest
import torch
from foreign_decoders import kept_of
from foreign_files import save_zip
from foreign_networks import assert_same
from foreign_torch import ethanleet, ethanleet_deconv, ethanleet_fc

from qcaps.errors import ArtifactError
from qcaps.importers.importing import import_weights
from qcaps.models.capsnet_flavours import ETHANLEET
from qcaps.models.network import parameter_count
from qcaps.models.spec import build, filled

SOURCE = "ethanleet"
THIN = {"width": 6, "types": 4}


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(
    ("decoder", "channels", "classes", "side"),
    [("fc", 1, 10, 28), ("deconv28", 1, 10, 28), ("deconv32", 1, 5, 32), ("deconv32", 3, 10, 32), ("fc", 3, 10, 32)],
)
def test_a_network_and_its_decoder_compute_the_same(
    tmp_path: Path, decoder: str, channels: int, classes: int, side: int, with_norm: bool
) -> None:
    state = ethanleet(channels=channels, classes=classes, side=side, with_norm=with_norm, **THIN)
    if decoder == "fc":
        state |= ethanleet_fc(classes * 16, channels * side * side, with_norm=with_norm)
    else:
        state |= ethanleet_deconv(classes, channels, side, with_norm=with_norm)
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == replace(
        ETHANLEET.spec,
        channels=channels,
        height=side,
        width=side,
        classes=classes,
        conv_channels=(6,),
        primary_types=4,
        norm="batch" if with_norm else "none",
        decoder=decoder,
        decoder_norm=with_norm,
    )
    assert imported.spec.reshape_order == "stacked_raw"
    images = torch.randn(2, channels, side, side)
    network = filled(imported.spec, imported.tensors, where="")
    output = network(images)
    assert_same(output, foreign_networks.ethanleet(state, images))
    drawn = foreign_decoders.ethanleet_decoder(state, kept_of(output.capsules, 1), classes).view(images.shape)
    assert drawn.std() > 0.01
    torch.testing.assert_close(network.reconstruct(output.capsules, torch.tensor([1, 1])), drawn)


def test_the_published_network_has_its_published_number_of_values(tmp_path: Path) -> None:
    state = {name: torch.zeros(tensor.shape) for name, tensor in ethanleet().items()}
    imported = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
    assert imported.spec == ETHANLEET.spec
    assert parameter_count(build(imported.spec)) == 6_804_384


def test_a_dense_decoder_tells_an_odd_size(tmp_path: Path) -> None:
    state = ethanleet(side=27, **THIN) | ethanleet_fc(160, 27 * 27, with_norm=False)
    spec = import_weights(save_zip(tmp_path / "model.pt", state), SOURCE).spec
    assert (spec.height, spec.width) == (27, 27)


def test_primary_convolutions_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    state = ethanleet(**THIN)
    del state["primary_capsules.capsules.3.0.bias"]
    with pytest.raises(ArtifactError, match="not alike"):
        import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)


def test_a_missing_primary_convolution_is_noticed(tmp_path: Path) -> None:
    state = {name: t for name, t in ethanleet(**THIN).items() if not name.startswith("primary_capsules.capsules.3.")}
    with pytest.raises(ArtifactError, match=r"no tensors below 'primary_capsules\.capsules\.3\.0'"):
        import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)


def test_the_earlier_layout_with_another_routing_is_refused(tmp_path: Path) -> None:
    state = ethanleet(**THIN)
    state["digit_caps.bias"] = state["digit_caps.bias"].unsqueeze(4)
    with pytest.raises(ArtifactError, match=r"'digit_caps\.bias' has shape \(1, 1, 10, 16, 1\), not 1x1x10x16"):
        import_weights(save_zip(tmp_path / "model.pt", state), SOURCE)
