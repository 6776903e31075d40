from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import conv2d, linear

from qcaps.errors import UsageError
from qcaps.models.cnn_small import CNN_SMALL, CNNSmallSpec
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised, model_spec
from qcaps.models.units import cut_tensors

# Nine rows: the second halving drops none, the first one drops the last row.
SPEC = CNNSmallSpec(height=9, width=12, classes=3, conv1_channels=4, conv2_channels=5, kernel_size=3)
IMAGES = torch.rand(3, 1, 9, 12, generator=torch.Generator().manual_seed(1))


def random_network(seed=0):
    network = initialised(SPEC, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.requires_grad_(requires_grad=False), std=0.5, generator=generator)
    return network


def test_the_stages_have_the_published_number_of_parameters():
    network = build(CNN_SMALL.spec)
    counts = {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()}
    assert counts == {"conv1": 416, "conv2": 12_832, "classifier": 15_690}
    assert parameter_count(network) == 28_938


def test_the_preset_takes_images_of_its_size_alone():
    assert not CNN_SMALL.any_size


def halved(maps):
    """Take the largest of every 2×2 pixels; an odd row or column at the end is dropped."""
    rows, columns = maps.shape[2] // 2 * 2, maps.shape[3] // 2 * 2
    corners = [maps[:, :, i:rows:2, j:columns:2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners).amax(0)


def test_the_network_follows_its_formulas():
    network = random_network()
    x = IMAGES
    for name in ("conv1", "conv2"):
        conv = network.stages[name].conv
        x = halved(conv2d(x, conv.weight, conv.bias, padding=1).relu())
    last = network.stages["classifier"].linear
    logits = linear(x.flatten(1), last.weight, last.bias)
    output = network(IMAGES)
    torch.testing.assert_close(output.scores, logits)
    assert output.scores.min() < 0
    assert output.capsules.squeeze(2).equal(output.scores)


def test_the_logits_are_trained_with_cross_entropy():
    assert build(SPEC).loss == "cross-entropy"


def test_arrays_are_rounded_behind_every_layer_but_not_behind_the_pooling():
    assert array_sites(build(SPEC), (1, 9, 12)) == {"conv1.out": 4 * 108, "conv2.out": 5 * 24, "classifier.out": 3}


def test_every_parameter_is_a_weight_site():
    network = build(SPEC)
    assert sorted(weight_sites(network).values()) == sorted(
        f"stages.{name}" for name, _ in network.stages.named_parameters()
    )


@pytest.mark.parametrize(("name", "stage"), [("conv1.channels", "conv1"), ("conv2.channels", "conv2")])
def test_cutting_channels_that_are_zero_changes_no_score(name, stage):
    network = random_network()
    conv = network.stages[stage].conv
    conv.weight[[0, 2]], conv.bias[[0, 2]] = 0, 0
    expected = network(IMAGES).scores
    unit = next(unit for unit in network.units if unit.name == name)
    kept = [u for u in range(unit.count) if u not in (0, 2)]
    pruned = initialised(SPEC.with_widths({name: len(kept)}), seed=5).eval()
    pruned.load_state_dict(cut_tensors(network.state_dict(), {unit: kept}), strict=True)
    torch.testing.assert_close(pruned(IMAGES).scores, expected)


def test_the_units_are_the_channels_of_both_convolutions():
    assert {unit.name: unit.count for unit in build(SPEC).units} == {"conv1.channels": 4, "conv2.channels": 5}


@pytest.mark.parametrize(("height", "width"), [(3, 28), (28, 3)])
def test_images_that_are_too_small_are_refused(height, width):
    with pytest.raises(UsageError) as error:
        build(CNNSmallSpec(height=height, width=width))
    assert str(error.value) == f"{height}x{width} pixels are too few for cnn-small; it needs 4"


def test_the_smallest_possible_images_can_be_scored():
    network = initialised(dataclasses.replace(SPEC, height=4, width=4), seed=0)
    assert network(torch.zeros(2, 1, 4, 4)).scores.shape == (2, 3)


def test_an_even_kernel_is_refused():
    with pytest.raises(UsageError, match="kernel_size of cnn-small is 4; it must be odd"):
        build(CNNSmallSpec(kernel_size=4))


def test_there_is_no_decoder():
    with pytest.raises(UsageError, match="decoder of cnn-small is 'fc', not one of none"):
        model_spec("cnn-small", {"decoder": "fc"}, where="--decoder")
    assert CNN_SMALL.spec.usual_decoder == "none"
    assert build(SPEC).decoder is None


def test_there_is_nothing_to_fold_no_routing_and_no_decoder_to_drop():
    assert SPEC.folded() == SPEC.with_uniform_routing() == SPEC.without_decoder() == SPEC.with_widths({}) == SPEC
