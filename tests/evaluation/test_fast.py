from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import FOLDED, NORMED, ROUTED, toy_images, toy_network

import qcaps.models.network
from qcaps.capsules.sites import Sites
from qcaps.evaluation import measure
from qcaps.evaluation.fast import fast_form
from qcaps.models.network import CapsuleNetwork, predictions
from qcaps.models.spec import ModelSpec, image_of


class Witness(nn.Module):
    """A convolution of 72 weights that notes the batches it meets and the order of the maps it makes."""

    batches: ClassVar[list[int]] = []
    channels_last: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.sites = Sites("out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if not x.is_meta:
            self.batches.append(len(x))
            self.channels_last.append(maps.is_contiguous(memory_format=torch.channels_last))
        return self.sites("out", maps).flatten(2)  # (batch, 4, 9): 36 values


@pytest.fixture
def witness() -> CapsuleNetwork:
    Witness.batches.clear()
    Witness.channels_last.clear()
    return CapsuleNetwork({"witness": Witness()})


@pytest.mark.parametrize("spec", [NORMED, FOLDED, ROUTED])
def test_a_batch_in_blocks_gets_the_scores_and_capsules_of_the_network(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = toy_network(spec), toy_images(spec).prepared()
    monkeypatch.setattr(measure, "BLOCK_BYTES", 1 << 13)  # the 20 images make several blocks
    with torch.inference_mode():
        expected = network(images)
    found = fast_form(network)(images)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.capsules, expected.capsules, rtol=1e-5, atol=1e-6)


def test_blocks_are_even_and_no_larger_than_their_bytes_allow(
    witness: CapsuleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BLOCK_BYTES", 4 * 36 * 4 + 1)  # four images of 36 values
    fast_form(witness)(torch.zeros(9, 2, 5, 5))
    assert Witness.batches == [3, 3, 3]


def test_an_image_larger_than_a_block_goes_alone(witness: CapsuleNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BLOCK_BYTES", 1)
    fast_form(witness)(torch.zeros(2, 2, 5, 5))
    assert Witness.batches == [1, 1]


@pytest.mark.parametrize(("most_weights", "channels_last"), [(72, True), (71, False)])
def test_only_a_network_of_small_convolutions_runs_channels_last(
    most_weights: int, channels_last: bool, witness: CapsuleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qcaps.models.network, "MOST_WEIGHTS_CHANNELS_LAST", most_weights)
    fast_form(witness)(torch.zeros(2, 2, 5, 5))
    assert Witness.channels_last == [channels_last]


def test_a_network_with_instance_norms_runs_in_the_usual_order(witness: CapsuleNetwork) -> None:
    witness.stages["witness"].norm = nn.InstanceNorm2d(4)
    fast_form(witness)(torch.zeros(2, 2, 5, 5))
    assert Witness.channels_last == [False]


def test_bfloat16_changes_scores_slightly_and_no_prediction() -> None:
    network, images = toy_network(FOLDED), toy_images(FOLDED).prepared()
    single, half = (fast_form(network, bfloat16=bfloat16)(images) for bfloat16 in (False, True))
    assert 0 < (half.scores - single.scores).abs().max() < 0.02
    assert half.scores.dtype == torch.float32
    assert torch.equal(predictions(half), predictions(single))


def test_the_network_itself_stays_as_it_was() -> None:
    network = toy_network(NORMED).train().requires_grad_(requires_grad=True)
    before = copy.deepcopy(network.state_dict())
    fast_form(network, bfloat16=True)(torch.zeros(2, *image_of(NORMED)))
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.dtype == before[name].dtype, name
