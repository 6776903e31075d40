from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from toys import NORMED, toy_network

from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.errors import UsageError
from qcaps.models.spec import ModelSpec
from qcaps.verbs.decoding import decoder_for

DRAWING = dataclasses.replace(NORMED, decoder="fc")
CAPSULES = torch.rand(2, 3, 4)
KEPT = torch.tensor([2, 0])


def written(path: Path, spec: ModelSpec) -> Path:
    tensors = {k: v for k, v in toy_network(spec).state_dict().items() if not k.endswith("num_batches_tracked")}
    write_checkpoint(path, Checkpoint(spec, tensors, None, {}))
    return path


def test_a_network_draws_with_its_own_decoder() -> None:
    network = toy_network(DRAWING)
    draw = decoder_for(network, DRAWING, None)
    assert torch.equal(draw(CAPSULES, KEPT), network.reconstruct(CAPSULES, KEPT))


def test_a_network_without_a_decoder_draws_nothing() -> None:
    assert decoder_for(toy_network(NORMED), NORMED, None) is None


def test_another_checkpoint_lends_its_decoder(tmp_path: Path) -> None:
    draw = decoder_for(toy_network(NORMED), NORMED, written(tmp_path / "a.pt", DRAWING))
    assert torch.allclose(draw(CAPSULES, KEPT), toy_network(DRAWING).reconstruct(CAPSULES, KEPT))


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (NORMED, "has no decoder"),
        (dataclasses.replace(DRAWING, class_dim=6), "other capsules"),
        (dataclasses.replace(DRAWING, classes=4), "other capsules"),
        (dataclasses.replace(DRAWING, height=16, width=16), "other images"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(spec: ModelSpec, what: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=what):
        decoder_for(toy_network(NORMED), NORMED, written(tmp_path / "a.pt", spec))
