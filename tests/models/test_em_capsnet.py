from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import conv2d

from qcaps.capsules.em_routing import EMRouting
from qcaps.capsules.losses import spread_loss
from qcaps.capsules.sites import hooked
from qcaps.errors import UsageError
from qcaps.models.em_capsnet import EM_CAPSNET, EMCapsNetSpec
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised
from qcaps.models.units import cut_tensors

SMALL = EMCapsNetSpec(
    channels=1,
    height=18,
    width=21,
    classes=3,
    conv_channels=4,
    primary_types=3,
    conv_types=(2, 4),
    conv_kernels=(3, 2),
)


def images_of(spec, count=2, seed=0):
    shape = (count, spec.channels, spec.height, spec.width)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameters_by_hand(channels, classes):
    conv1 = 5 * 5 * channels * 32 + 32
    primary = 32 * (32 * 16) + 32 * 16 + 32 * 32 + 32
    conv_caps = 3 * 3 * 32 * 32 * 4 * 4 + 32 + 32
    return conv1 + primary + 2 * conv_caps + 32 * classes * 4 * 4 + 2 * classes


@pytest.mark.parametrize(("channels", "classes", "total"), [(2, 5, 317_194), (1, 5, 316_394), (1, 10, 318_964)])
def test_the_encoder_has_as_many_parameters_as_its_shapes_say(channels, classes, total):
    assert parameters_by_hand(channels, classes) == total
    assert parameter_count(build(EMCapsNetSpec(channels=channels, classes=classes))) == total


def test_the_size_of_the_image_does_not_change_the_parameters():
    assert parameter_count(build(EMCapsNetSpec(height=48, width=40))) == 317_194


def test_the_stages_have_the_published_grids():
    sizes = array_sites(build(EMCapsNetSpec()), (2, 32, 32))
    grids = {"conv1.out": 14, "primary.activation.out": 14, "conv_caps1.out": 6, "conv_caps2.out": 4}
    values = {"conv1.out": 32, "primary.activation.out": 32, "conv_caps1.out": 32 * 16, "conv_caps2.out": 32 * 16}
    assert {name: sizes[name] for name in grids} == {name: side**2 * values[name] for name, side in grids.items()}
    assert sizes["class_caps.out"] == 5 * 16


def test_the_votes_of_an_image_are_one_matrix_per_pair():
    sizes = array_sites(build(EMCapsNetSpec()), (2, 32, 32))
    assert sizes["conv_caps1.votes"] == 6**2 * 9 * 32 * 32 * 16
    assert sizes["class_caps.votes"] == 4**2 * 32 * 5 * 16


def test_each_part_with_numbers_is_a_weight_site():
    layers = ["conv_caps1", "conv_caps2", "class_caps"]
    capsules = [f"{layer}.{role}" for layer in layers for role in ("weight", "routing.activation.weight")]
    biases = ["conv1", "primary.pose", "primary.activation", *(f"{layer}.routing.activation" for layer in layers)]
    expected = {"conv1.weight", "primary.pose.weight", "primary.activation.weight", *capsules}
    network = build(EMCapsNetSpec())
    assert set(weight_sites(network)) == expected | {f"{layer}.bias" for layer in biases}
    assert set(weight_sites(network).values()) == {name for name, _ in network.named_parameters()}


def test_the_network_is_its_layers_one_after_the_other():
    network, images = initialised(SMALL, seed=0), images_of(SMALL)
    conv1, primary, caps1, caps2, last = network.stages.values()
    maps = torch.relu(conv2d(images, conv1.conv.weight, conv1.conv.bias, stride=2))
    lower = primary(maps)
    assert lower.poses.shape == (2, 7, 9, 3, 16)
    middle = caps2(caps1(lower))
    assert middle.activations.shape == (2, 2, 3, 4)
    poses, activations = last(middle)
    output = network(images)
    assert output.scores.equal(activations)
    assert output.capsules.equal(poses)
    assert (output.scores.shape, output.capsules.shape) == ((2, 3), (2, 3, 16))


def test_it_is_trained_with_the_spread_loss_and_without_decoder():
    assert build(EMCapsNetSpec()).loss == "spread"
    assert EMCapsNetSpec.usual_decoder == "none"
    assert EM_CAPSNET.any_size


def test_a_decoder_draws_from_poses():
    spec = dataclasses.replace(SMALL, decoder="fc")
    network = initialised(spec, seed=0)
    output = network(images_of(spec))
    assert network.decoder[0].in_features == 3 * 16
    assert network.reconstruct(output.capsules, torch.tensor([0, 2])).shape == (2, 1, 18, 21)
    assert spec.without_decoder() == SMALL


def test_the_numbers_of_the_routing_reach_every_layer():
    spec = dataclasses.replace(SMALL, routing_passes=2, lambda_limit=0.5, lambda_decay=0.25, variance_floor=0.125)
    routings = [module.spec for module in build(spec).modules() if isinstance(module, EMRouting)]
    assert [routing.lambdas for routing in routings] == [[0.375, 0.46875]] * 3
    assert {routing.variance_floor for routing in routings} == {0.125}


def test_uniform_routing_shares_every_capsule_evenly():
    network, couplings = initialised(SMALL.with_uniform_routing(), seed=0), {}
    with hooked(network, lambda name, array: couplings.setdefault(name, array) if "coupling" in name else array):
        network(images_of(SMALL))
    assert list(couplings) == ["conv_caps1.coupling@1", "conv_caps2.coupling@1", "class_caps.coupling@1"]
    assert (couplings["class_caps.coupling@1"] == 1 / 3).all()


def test_matrices_start_near_the_identity_and_the_betas_at_zero():
    network = initialised(EMCapsNetSpec(), seed=0)
    for name in ("conv_caps1", "conv_caps2", "class_caps"):
        rest = network.stages[name].weight.detach() - torch.eye(4)
        assert rest.mean().abs() < 0.01
        assert 0.095 < rest.std() < 0.105
        assert not any(beta.any() for beta in network.stages[name].routing.parameters())


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = (initialised(SMALL, seed).state_dict() for seed in (1, 1, 2))
    assert all(first[name].equal(second[name]) for name in first)
    assert not first["stages.conv_caps1.weight"].equal(other["stages.conv_caps1.weight"])


def test_it_learns_which_corner_is_bright():
    spec = dataclasses.replace(SMALL, width=18, lambda_limit=0.1)
    network = initialised(spec, seed=0)
    labels = torch.arange(12) % 3
    images = 0.1 * images_of(spec, count=12)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 9 * (label // 2) :, 9 * (label % 2) :] += 0.8
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = spread_loss(network(images).scores, labels, 0.2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses


UNITS = {"conv1.channels": 4, "primary.types": 3, "conv_caps1.types": 2, "conv_caps2.types": 4}


def test_channels_and_all_capsule_types_but_the_classes_are_units():
    assert {unit.name: unit.count for unit in build(SMALL).units} == UNITS


@pytest.mark.parametrize("name", UNITS)
def test_units_can_change_places(name):
    network, images = initialised(SMALL, seed=0), images_of(SMALL)
    for seed, (path, parameter) in enumerate(network.named_parameters()):
        if "beta" in path:
            parameter.data.normal_(generator=torch.Generator().manual_seed(seed))
    expected = network(images)
    unit = next(unit for unit in network.units if unit.name == name)
    moved = network.state_dict()
    for cut in unit.cuts:
        path = f"stages.{cut.tensor}"
        by_unit = moved[path].unflatten(cut.axis, (unit.count, cut.inner))
        moved[path] = by_unit.roll(1, cut.axis).flatten(cut.axis, cut.axis + 1)
    assert any(not moved[path].equal(tensor) for path, tensor in network.state_dict().items())
    network.load_state_dict(moved)
    torch.testing.assert_close(network(images).scores, expected.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(images).capsules, expected.capsules, rtol=1e-4, atol=1e-5)


def test_a_primary_type_without_activation_can_be_cut_away():
    network, images = initialised(SMALL, seed=0), images_of(SMALL)
    silenced = network.state_dict()
    silenced["stages.primary.activation.conv.weight"][1] = 0
    silenced["stages.primary.activation.conv.bias"][1] = -1000
    unit = next(unit for unit in network.units if unit.name == "primary.types")
    narrow = build(SMALL.with_widths({"primary.types": 2}))
    narrow.load_state_dict(cut_tensors(silenced, {unit: [0, 2]}), assign=True)
    torch.testing.assert_close(narrow(images).scores, network(images).scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"conv_kernels": (3,)}, "conv_types, conv_kernels and conv_strides of em-capsnet differ in length"),
        ({"height": 16}, "16x32 pixels are too few for em-capsnet"),
        ({"routing_passes": 101}, "routing_passes of em-capsnet is 101"),
        ({"competing_types": (32,)}, "competing_types of em-capsnet has an entry for each"),
        ({"competing_types": (31, 32)}, "competing_types of em-capsnet has an entry for each"),
        ({"lambda_decay": 1.5}, r"lambda_decay of em-capsnet is 1\.5"),
        ({"variance_floor": 0.0}, r"variance_floor of em-capsnet is 0\.0"),
    ],
)
def test_impossible_numbers_are_refused(numbers, message):
    with pytest.raises(UsageError, match=message):
        build(EMCapsNetSpec(**numbers))


def test_the_smallest_image_leaves_one_position():
    assert array_sites(build(EMCapsNetSpec(height=17, width=17)), (2, 17, 17))["conv_caps2.out"] == 32 * 16
