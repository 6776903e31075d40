from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import conv2d, linear

from qcaps.errors import UsageError
from qcaps.models.cnn_baselines import CNN_CR, CNN_CR_SF, CNN_R, CNNCRSFSpec, CNNCRSpec, CNNRSpec
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised, model_spec
from qcaps.models.units import cut_tensors

PRESETS = [CNN_R, CNN_CR, CNN_CR_SF]
SMALL = {"height": 9, "width": 12, "classes": 3, "conv1_channels": 4, "conv2_channels": 5, "kernel_size": 3}
R = CNNRSpec(**SMALL, class_dim=2)
CR = CNNCRSpec(**SMALL, class_dim=2)
CR_SF = CNNCRSFSpec(**SMALL, class_dim=2, primary_types=4, primary_dim=3)
EVERY_SPEC = pytest.mark.parametrize("spec", [R, CR, CR_SF], ids=["r", "cr", "cr-sf"])


def random_network(spec, seed=0):
    """Build a network whose numbers are large enough that every step leaves its mark."""
    network = initialised(spec, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.requires_grad_(requires_grad=False), std=0.5, generator=generator)
    return network


def images(spec, batch=3):
    return torch.rand(batch, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        (CNN_R, {"conv1": 20_992, "conv2": 5_308_672, "features": 1_474_720, "classifier": 1_610}),
        (CNN_CR, {"conv1": 20_992, "conv2": 5_308_672, "class_caps": 1_474_720}),
        (CNN_CR_SF, {"conv1": 20_992, "conv2": 5_308_672, "primary": 1_179_776, "class_caps": 20_640}),
    ],
)
def test_the_stages_have_the_published_number_of_parameters(preset, stages):
    network = build(preset.spec)
    assert {name: sum(p.numel() for p in stage.parameters()) for name, stage in network.stages.items()} == stages


@pytest.mark.parametrize(("preset", "total"), [(CNN_R, 6_805_994), (CNN_CR, 6_804_384), (CNN_CR_SF, 6_530_080)])
def test_the_encoder_has_the_published_number_of_parameters(preset, total):
    assert parameter_count(build(preset.spec)) == total


@pytest.mark.parametrize("preset", PRESETS)
def test_the_usual_decoder_is_the_published_one(preset):
    decoder = build(dataclasses.replace(preset.spec, decoder=preset.spec.usual_decoder)).decoder
    assert sum(p.numel() for p in decoder.parameters()) == 1_411_344


def test_the_presets_take_images_of_their_size_alone():
    assert not any(preset.any_size for preset in PRESETS)


def two_convolutions(network, x):
    for name, stride in (("conv1", 1), ("conv2", 2)):
        conv = network.stages[name].conv
        x = conv2d(x, conv.weight, conv.bias, stride=stride).relu()
    return x.flatten(1)


def dense(network, name, x):
    return linear(x, network.stages[name].linear.weight, network.stages[name].linear.bias)


def squashed(capsules):
    norm = capsules.norm(dim=2, keepdim=True)
    return (1 - torch.exp(-norm)) * capsules / norm


def test_cnn_r_scores_all_features_without_an_activation():
    network = random_network(R)
    features = dense(network, "features", two_convolutions(network, images(R)))
    output = network(images(R))
    torch.testing.assert_close(output.capsules, features.view(3, 3, 2))
    torch.testing.assert_close(output.scores, dense(network, "classifier", features))
    assert output.scores.min() < 0 < output.scores.max()


def test_cnn_cr_scores_the_lengths_of_its_features():
    network = random_network(CR)
    capsules = dense(network, "class_caps", two_convolutions(network, images(CR))).view(3, 3, 2)
    output = network(images(CR))
    torch.testing.assert_close(output.capsules, capsules)
    torch.testing.assert_close(output.scores, capsules.norm(dim=2))
    assert output.scores.max() > 1


def test_cnn_cr_sf_squashes_both_layers_of_capsules():
    network = random_network(CR_SF)
    primary = squashed(dense(network, "primary", two_convolutions(network, images(CR_SF))).view(3, 4, 3))
    capsules = squashed(dense(network, "class_caps", primary.flatten(1)).view(3, 3, 2))
    output = network(images(CR_SF))
    torch.testing.assert_close(output.capsules, capsules)
    torch.testing.assert_close(output.scores, capsules.norm(dim=2))


@EVERY_SPEC
def test_the_scores_are_trained_with_the_margin_loss(spec):
    assert build(spec).loss == "margin"


def test_cnn_r_draws_from_all_features_whatever_is_kept():
    network = random_network(dataclasses.replace(R, decoder="fc"))
    capsules = network(images(R)).capsules
    drawn = network.reconstruct(capsules, torch.tensor([0, 1, 2]))
    assert network.reconstruct(capsules, torch.tensor([1, 1, 0])).equal(drawn)
    assert not network.reconstruct(capsules + torch.eye(3, 2), torch.tensor([0, 1, 2])).equal(drawn)


@pytest.mark.parametrize("spec", [CR, CR_SF], ids=["cr", "cr-sf"])
def test_the_others_draw_from_the_kept_capsule(spec):
    network = random_network(dataclasses.replace(spec, decoder="fc"))
    capsules = network(images(spec)).capsules
    others_changed, kept_changed = capsules.clone(), capsules.clone()
    others_changed[:, 1:] += 1
    kept_changed[:, 0] += 1
    kept = torch.zeros(3, dtype=torch.int64)
    drawn = network.reconstruct(capsules, kept)
    assert network.reconstruct(others_changed, kept).equal(drawn)
    assert not network.reconstruct(kept_changed, kept).equal(drawn)


def test_cnn_r_knows_one_mask_layout():
    with pytest.raises(UsageError, match="mask_layout of cnn-r is 'zeros', not one of unmasked"):
        model_spec("cnn-r", {"mask_layout": "zeros"}, where="--model-arg")


@pytest.mark.parametrize(
    ("spec", "sites"),
    [
        (R, {"conv1.out": 4 * 70, "conv2.out": 60, "features.out": 6, "classifier.out": 3}),
        (CR, {"conv1.out": 4 * 70, "conv2.out": 60, "class_caps.out": 6}),
        (
            CR_SF,
            {
                "conv1.out": 4 * 70,
                "conv2.out": 60,
                "primary.presquash": 12,
                "primary.out": 12,
                "class_caps.presquash": 6,
                "class_caps.out": 6,
            },
        ),
    ],
    ids=["r", "cr", "cr-sf"],
)
def test_arrays_are_rounded_behind_every_layer(spec, sites):
    found = array_sites(build(spec), (1, 9, 12))
    assert found == sites
    assert [*found] == [*sites]


@EVERY_SPEC
def test_every_parameter_is_a_weight_site(spec):
    network = build(spec)
    assert sorted(weight_sites(network).values()) == sorted(
        f"stages.{name}" for name, _ in network.stages.named_parameters()
    )


@pytest.mark.parametrize(
    ("spec", "units"),
    [
        (R, {"conv1.channels": 4, "conv2.channels": 5}),
        (CR, {"conv1.channels": 4, "conv2.channels": 5}),
        (CR_SF, {"conv1.channels": 4, "conv2.channels": 5, "primary.types": 4, "primary.dims": 3}),
    ],
    ids=["r", "cr", "cr-sf"],
)
def test_the_units_are_channels_and_capsules_in_between(spec, units):
    assert {unit.name: unit.count for unit in build(spec).units} == units


def zeroed(network, spec, name, dead):
    """Make the outputs `dead` of one kind of unit zero for every image."""
    outputs = {
        "conv1.channels": [("conv1.conv", u) for u in dead],
        "conv2.channels": [("conv2.conv", u) for u in dead],
        "primary.types": [("primary.linear", 3 * u + d) for u in dead for d in range(3)],
        "primary.dims": [("primary.linear", 3 * t + u) for u in dead for t in range(4)],
    }
    for layer, row in outputs[name]:
        module = network.stages.get_submodule(layer)
        module.weight[row], module.bias[row] = 0, 0


@pytest.mark.parametrize(
    ("spec", "name"),
    [(spec, unit.name) for spec in (R, CR, CR_SF) for unit in build(spec).units],
    ids=lambda value: value if isinstance(value, str) else value.architecture,
)
def test_cutting_units_that_are_zero_changes_no_score(spec, name):
    network = random_network(spec)
    zeroed(network, spec, name, dead=[0, 2])
    expected = network(images(spec)).scores
    unit = next(unit for unit in network.units if unit.name == name)
    kept = [u for u in range(unit.count) if u not in (0, 2)]
    pruned = initialised(spec.with_widths({name: len(kept)}), seed=5).eval()
    pruned.load_state_dict(cut_tensors(network.state_dict(), {unit: kept}), strict=True)
    assert parameter_count(pruned) < parameter_count(network)
    torch.testing.assert_close(pruned(images(spec)).scores, expected)


@EVERY_SPEC
def test_no_units_to_change_leave_the_spec_as_it_is(spec):
    assert spec.with_widths({}) == spec


@EVERY_SPEC
@pytest.mark.parametrize(("height", "width"), [(4, 9), (9, 4)])
def test_images_that_are_too_small_are_refused_with_the_least_size(spec, height, width):
    with pytest.raises(UsageError) as error:
        build(dataclasses.replace(spec, height=height, width=width))
    assert str(error.value) == f"{height}x{width} pixels are too few for {spec.architecture}; it needs 5"


@EVERY_SPEC
def test_the_smallest_possible_images_can_be_scored(spec):
    spec = dataclasses.replace(spec, height=5, width=5)
    assert initialised(spec, seed=0)(images(spec)).scores.shape == (3, 3)


@EVERY_SPEC
def test_a_spec_without_its_decoder_is_otherwise_the_same(spec):
    with_decoder = dataclasses.replace(spec, decoder="fc", decoder_norm=True)
    assert build(with_decoder).decoder is not None
    assert with_decoder.without_decoder() == spec
    assert build(spec).decoder is None


@EVERY_SPEC
def test_there_is_nothing_to_fold_and_no_routing(spec):
    assert spec.folded() == spec.with_uniform_routing() == spec
