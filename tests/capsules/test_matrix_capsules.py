from __future__ import annotations

import pytest
import torch

from qcaps.capsules import matrix_capsules
from qcaps.capsules.em_routing import EMRoutingSpec, MatrixCapsules, Patches
from qcaps.capsules.matrix_capsules import ClassMatrixCapsules, ConvMatrixCapsules, PrimaryMatrixCapsules, cast_votes
from qcaps.capsules.sites import hooked

BATCH, ROWS, COLUMNS, TYPES_IN, TYPES_OUT, CLASSES = 2, 4, 5, 2, 3, 4
PATCHES = Patches(ROWS, COLUMNS, (3, 3), 1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fill(module):
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = random(*parameter.shape, seed=20 + seed)
    return module.eval()


def conv_layer(patches=PATCHES):
    return fill(ConvMatrixCapsules(patches, TYPES_IN, TYPES_OUT, EMRoutingSpec()))


def class_layer():
    return fill(ClassMatrixCapsules(ROWS, COLUMNS, TYPES_IN, CLASSES, EMRoutingSpec()))


def lower_capsules(rows=ROWS, columns=COLUMNS):
    grid = (BATCH, rows, columns, TYPES_IN)
    return MatrixCapsules(random(*grid, 16, seed=1), torch.sigmoid(random(*grid, seed=2)))


def passed_arrays(layer, value):
    """Run a layer, and note what passed every site."""
    arrays = {}
    with hooked(layer, lambda name, array: arrays.setdefault(name.strip("."), array)):
        layer(value)
    return arrays


def test_channels_of_the_pose_convolution_are_numbered_by_type_then_entry():
    layer, features = fill(PrimaryMatrixCapsules(6, TYPES_IN)), random(BATCH, 6, ROWS, COLUMNS)
    found = layer(features)
    assert found.poses.shape == (BATCH, ROWS, COLUMNS, TYPES_IN, 16)
    conv = layer.pose.conv
    for type_, entry in [(0, 0), (0, 15), (1, 0), (1, 7)]:
        channel = type_ * 16 + entry
        expected = torch.einsum("c,bcyx->byx", conv.weight[channel, :, 0, 0], features) + conv.bias[channel]
        torch.testing.assert_close(found.poses[..., type_, entry], expected)


def test_activations_of_primary_capsules_are_logistic():
    layer, features = fill(PrimaryMatrixCapsules(6, TYPES_IN)), random(BATCH, 6, ROWS, COLUMNS)
    found = layer(features).activations
    conv = layer.activation.conv
    expected = torch.einsum("tc,bcyx->byxt", conv.weight[:, :, 0, 0], features) + conv.bias
    torch.testing.assert_close(found, 1 / (1 + torch.exp(-expected)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_of_the_features_does_not_matter(memory_format):
    layer, features = fill(PrimaryMatrixCapsules(6, TYPES_IN)), random(BATCH, 6, ROWS, COLUMNS)
    found = layer(features.contiguous(memory_format=memory_format))
    torch.testing.assert_close(found.poses, layer(features).poses)


def test_a_vote_is_the_pose_times_the_matrix_of_the_pair():
    poses, weight = random(1, 2, 3, 16), random(3, 2, 4, 4, seed=1)
    votes = cast_votes(poses, weight)
    assert votes.shape == (1, 2, 2, 3, 16)
    assert votes.is_contiguous()
    for p, j, i in torch.cartesian_prod(*map(torch.arange, (2, 2, 3))).tolist():
        expected = poses[0, p, i].view(4, 4) @ weight[i, j]
        torch.testing.assert_close(votes[0, p, j, i].view(4, 4), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutional_capsules_cast_votes_in_overlapping_patches(stride):
    layer = conv_layer(Patches(5, 6, (3, 2), stride))
    lower = lower_capsules(5, 6)
    votes = passed_arrays(layer, lower)["votes"]
    rows, columns = layer.patches.grid
    assert votes.shape == (BATCH, rows * columns, TYPES_OUT, 3 * 2 * TYPES_IN, 16)
    axes = (BATCH, rows, columns, 3, 2, TYPES_IN, TYPES_OUT)
    for b, row, column, i, j, m, n in torch.cartesian_prod(*map(torch.arange, axes)).tolist():
        pose = lower.poses[b, row * stride + i, column * stride + j, m].view(4, 4)
        found = votes[b, row * columns + column, n, (i * 2 + j) * TYPES_IN + m].view(4, 4)
        torch.testing.assert_close(found, pose @ layer.weight[i, j, m, n])


def test_convolutional_capsules_route_votes_with_the_activations_of_the_voters():
    layer, lower = conv_layer(), lower_capsules()
    votes = passed_arrays(layer, lower)["votes"]
    seen = [lower.activations[:, r : r + 3, c : c + 3].flatten(1) for r in range(2) for c in range(3)]
    expected = layer.routing(votes, torch.stack(seen, 1), layer.sites)
    found = layer(lower)
    assert found.poses.shape == (BATCH, 2, 3, TYPES_OUT, 16)
    assert found.poses.flatten(1, 2).equal(expected.poses)
    assert found.activations.flatten(1, 2).equal(expected.activations)


def test_every_class_sees_every_position_through_the_same_matrix():
    layer, lower = class_layer(), lower_capsules()
    votes = passed_arrays(layer, lower)["votes"]
    assert votes.shape == (BATCH, 1, CLASSES, ROWS * COLUMNS * TYPES_IN, 16)
    axes = (BATCH, ROWS, COLUMNS, TYPES_IN, CLASSES)
    for b, row, column, m, n in torch.cartesian_prod(*map(torch.arange, axes)).tolist():
        expected = lower.poses[b, row, column, m].view(4, 4) @ layer.weight[m, n]
        expected[0, 3] += (row + 0.5) / ROWS
        expected[1, 3] += (column + 0.5) / COLUMNS
        found = votes[b, 0, n, (row * COLUMNS + column) * TYPES_IN + m].view(4, 4)
        torch.testing.assert_close(found, expected)


def test_coordinates_by_hand():
    layer = fill(ClassMatrixCapsules(2, 1, 1, 1, EMRoutingSpec()))
    lower = MatrixCapsules(torch.zeros(1, 2, 1, 1, 16), torch.ones(1, 2, 1, 1))
    first, second = passed_arrays(layer.float(), lower)["votes"][0, 0, 0]
    # Entries 3 and 7 end the first two rows: a quarter and three quarters down, half way across.
    assert first.tolist() == [0, 0, 0, 0.25, 0, 0, 0, 0.5, *[0] * 8]
    assert second.tolist() == [0, 0, 0, 0.75, 0, 0, 0, 0.5, *[0] * 8]


def test_class_capsules_route_all_votes_with_the_activations_of_the_voters():
    layer, lower = class_layer(), lower_capsules()
    votes = passed_arrays(layer, lower)["votes"]
    expected = layer.routing(votes, lower.activations.flatten(1).unsqueeze(1), layer.sites)
    found = layer(lower)
    assert found.poses.shape == (BATCH, CLASSES, 16)
    assert found.poses.unsqueeze(1).equal(expected.poses)
    assert found.activations.unsqueeze(1).equal(expected.activations)


def test_class_capsules_know_where_a_capsule_lies():
    layer, lower = class_layer(), lower_capsules()
    mirrored = MatrixCapsules(lower.poses.flip(1), lower.activations.flip(1))
    assert (layer(lower).poses - layer(mirrored).poses).abs().max() > 1e-3


@pytest.mark.parametrize("make", [conv_layer, class_layer], ids=["convolutional", "class"])
def test_what_leaves_the_last_site_is_what_leaves_the_layer(make):
    layer = make()
    with hooked(layer, lambda name, array: torch.zeros_like(array) if name == ".out" else array):
        found = layer(lower_capsules())
    assert (found.poses == 0).all()
    assert (found.activations == 0).all()


@pytest.mark.parametrize("make", [conv_layer, class_layer], ids=["convolutional", "class"])
def test_half_precision_poses_are_voted_with_in_single(make):
    layer, lower = make().float(), lower_capsules()
    half = MatrixCapsules(lower.poses.bfloat16(), lower.activations.bfloat16())
    expected = layer(MatrixCapsules(half.poses.float(), half.activations.float()))
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(half)
    assert found.poses.dtype == torch.float32
    assert found.poses.equal(expected.poses)
    assert found.activations.equal(expected.activations)


def test_gradients_reach_everything_that_takes_part():
    first, last = conv_layer(), fill(ClassMatrixCapsules(2, 3, TYPES_OUT, CLASSES, EMRoutingSpec()))
    lower = MatrixCapsules(*(array.requires_grad_() for array in lower_capsules()))
    last(first(lower)).activations[:, 0].sum().backward()
    for array in (*lower, *first.parameters(), *last.parameters()):
        assert array.grad.isfinite().all()
        assert array.grad.abs().max() > 0


def test_a_batch_that_is_routed_in_blocks_learns_the_same(monkeypatch):
    poses, activations = random(5, ROWS, COLUMNS, TYPES_IN, 16, seed=1), random(5, ROWS, COLUMNS, TYPES_IN, seed=2)
    lower = MatrixCapsules(poses.requires_grad_(), torch.sigmoid(activations).requires_grad_())
    layer = conv_layer()

    def learned():
        upper = layer(lower)
        loss = (upper.poses**2).sum() + upper.activations.sum()
        return [*upper, *torch.autograd.grad(loss, (*lower, *layer.parameters()))]

    together = learned()
    monkeypatch.setattr(matrix_capsules, "LEARNED_AT_ONCE", 2)
    routed = []
    monkeypatch.setattr(
        layer, "_route", lambda *block: routed.append(len(block[0])) or ConvMatrixCapsules._route(layer, *block)
    )
    in_blocks = learned()
    assert sorted(routed) == [1, 1, 2, 2, 2, 2]  # forwards, and once more backwards
    for found, expected in zip(in_blocks, together, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
