from __future__ import annotations

import pytest
import torch
from prunable import DEEP, EFFICIENT, RESNET, SHALLOW, drawn_tensors

from qcaps.models.spec import build, filled
from qcaps.pruning.magnitude import magnitude


def network_of(spec):
    return filled(spec, drawn_tensors(build(spec)), where="toy")


def test_a_channel_counts_the_weights_of_its_filter():
    network = network_of(EFFICIENT)
    weight = network.stages["conv2"].conv.weight
    expected = [sum(abs(value) for value in weight[c].flatten().tolist()) for c in range(5)]
    assert magnitude(network, 1)["conv2.channels"].tolist() == pytest.approx(expected, rel=1e-6)


def test_types_and_dimensions_count_their_rows_and_positions_their_votes():
    network = network_of(SHALLOW)  # 3 types of 4 dimensions at 12 positions
    rows = network.stages["primary"].conv.weight.square().flatten(1).sum(1).tolist()
    votes = network.stages["class_caps"].weight.square().flatten(1).sum(1).tolist()
    found = magnitude(network, 2)
    assert found["primary.types"].tolist() == pytest.approx([sum(rows[4 * t : 4 * t + 4]) for t in range(3)], rel=1e-6)
    assert found["primary.dims"].tolist() == pytest.approx([sum(rows[d::4]) for d in range(4)], rel=1e-6)
    assert found["primary.positions"].tolist() == pytest.approx([sum(votes[p::12]) for p in range(12)], rel=1e-6)


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_channels_of_a_residual_sum_are_judged_by_the_last_convolution_of_the_first_block(layer):
    network = network_of(RESNET)
    leader = network.stages[f"layer{layer}"][0].conv3.conv.weight
    expected = leader.double().abs().sum((1, 2, 3))
    torch.testing.assert_close(magnitude(network, 1)[f"layer{layer}.out.channels"], expected)


def test_capsules_of_a_sum_are_judged_by_the_layer_that_is_skipped():
    network = network_of(DEEP)
    leader = network.stages["block2"].l3.conv.weight  # 4 types of 3 dimensions
    expected = leader.double().abs().sum((1, 2, 3)).view(4, 3)
    found = magnitude(network, 1)
    torch.testing.assert_close(found["block2.types"], expected.sum(1))
    torch.testing.assert_close(found["block2.dims"], expected.sum(0))
