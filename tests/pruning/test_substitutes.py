from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from prunable import NETWORKS, SHALLOW, drawn_tensors, labelled_images

from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning import substitutes
from qcaps.pruning.readers import readers
from qcaps.pruning.substitutes import Moments, channel_moments, least_squares, mean_fold
from qcaps.pruning.surgery import cut

STAYS = torch.tensor([0, 2, 3])
GONE = [1, 4]


def network_of(spec, tensors=None):
    return to_inference(filled(spec, tensors or drawn_tensors(build(spec)), where="test"))


def moments_of(samples):
    found = Moments(0, torch.zeros(()), torch.zeros(()))
    for part in torch.as_tensor(samples).split(7):
        found.see(part)
    return found


def drawn_samples(count=200):
    generator = np.random.default_rng(0)
    return (generator.normal(size=(count, 5)) @ generator.normal(size=(5, 5)) + generator.normal(size=5)).astype("f4")


@pytest.fixture
def no_ridge(monkeypatch):
    monkeypatch.setattr(substitutes, "RIDGE", 1e-9)


@pytest.mark.usefixtures("no_ridge")
@pytest.mark.parametrize("with_constant", [True, False])
def test_the_combination_is_that_of_an_ordinary_least_squares_fit(with_constant):
    samples = drawn_samples()
    regressors = samples[:, STAYS].astype("f8")
    if with_constant:
        regressors = np.concatenate([regressors, np.ones((len(samples), 1))], 1)
    expected, *_ = np.linalg.lstsq(regressors, samples[:, GONE].astype("f8"), rcond=None)
    found = least_squares(moments_of(samples), STAYS, with_constant=with_constant)
    np.testing.assert_allclose(found.mix[GONE].numpy().T, expected[:3], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.offset[GONE], expected[3] if with_constant else 0, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("with_constant", [True, False])
def test_nothing_is_added_to_channels_that_stay(with_constant):
    found = least_squares(moments_of(drawn_samples()), STAYS, with_constant=with_constant)
    assert not found.mix[STAYS].any()
    assert not found.offset[STAYS].any()
    assert found.mix[GONE].all()


def test_kept_channels_that_are_always_silent_do_no_harm():
    samples = torch.from_numpy(drawn_samples())
    samples[:, STAYS] = 0
    found = least_squares(moments_of(samples), STAYS, with_constant=True)
    assert not found.mix.any()
    torch.testing.assert_close(found.offset[GONE], samples[:, GONE].mean(0))


def test_kept_channels_that_say_the_same_share_the_work():
    samples = torch.from_numpy(drawn_samples())
    samples[:, 2] = samples[:, 0]
    samples[:, 1] = samples[:, 0]
    found = least_squares(moments_of(samples), STAYS, with_constant=True)
    torch.testing.assert_close(found.mix[1], torch.tensor([0.5, 0.5, 0.0]), rtol=0, atol=2e-3)


def test_the_mean_stands_for_a_channel_that_is_gone():
    samples = drawn_samples()
    found = mean_fold(moments_of(samples), STAYS)
    assert found.mix.shape == (5, 3)
    assert not found.mix.any()
    np.testing.assert_allclose(found.offset[GONE], samples[:, GONE].mean(0), rtol=1e-5)
    assert not found.offset[STAYS].any()


def test_the_inputs_of_a_convolution_are_watched_at_every_position_of_every_image():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, 5)
    reader = next(r for r in readers(network) if r.path == "conv2.conv")
    batches = [images.subset(torch.arange(3)), images.subset(torch.tensor([3, 4]))]
    (found,) = channel_moments(network, [reader], batches)
    maps = network.stages["conv1"](images.pixels / 255)  # (5, 5, 12, 10)
    assert found.count == 5 * 12 * 10
    for a in range(5):
        assert found.total[a].item() == pytest.approx(maps[:, a].sum().item(), rel=1e-5)
        for b in range(5):
            assert found.products[a, b].item() == pytest.approx((maps[:, a] * maps[:, b]).sum().item(), rel=1e-4)


def test_capsules_are_watched_type_by_type_and_dimension_by_dimension():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, 4)
    reader = next(r for r in readers(network) if r.path == "class_caps")
    (found,) = channel_moments(network, [reader], [images])
    value = images.pixels / 255
    for name in ("conv1", "conv2", "primary"):
        value = network.stages[name](value)
    by_type = value.unflatten(1, (3, -1))  # (batch, types, positions, dims)
    assert found.count == 4 * by_type.shape[2]
    assert found.total[4 * 2 + 1].item() == pytest.approx(by_type[:, 2, :, 1].sum().item(), rel=1e-4)
    expected = (by_type[:, 2, :, 1] * by_type[:, 0, :, 3]).sum().item()
    assert found.products[4 * 2 + 1, 3].item() == pytest.approx(expected, rel=1e-4)


def everything_but(spec, **gone):
    """Keep all units except some."""
    names = {name.replace("_", "."): indices for name, indices in gone.items()}
    return {
        unit.name: tuple(index for index in range(unit.count) if index not in names.get(unit.name, ()))
        for unit in build(spec).units
    }


def refitted(spec, tensors, kept, method):
    """Cut a network, and let its layers make up for it."""
    source, network = network_of(spec, tensors), network_of(*cut(spec, tensors, kept))
    layers = readers(source)
    seen = channel_moments(source, layers, [labelled_images(spec, 16)])
    for reader, moments in zip(layers, seen, strict=True):
        stays = reader.kept_channels(kept)
        if method == "mean-fold":
            reader.refit(network, kept, mean_fold(moments, stays))
        else:
            reader.refit(network, kept, least_squares(moments, stays, with_constant=reader.takes_constant))
    return network


def scores(network, spec):
    with torch.no_grad():
        return network(labelled_images(spec, 30).pixels[16:] / 255).scores


# Their second convolutions have no padding.
@pytest.mark.parametrize("name", ["shallow-capsnet", "efficient-capsnet, folded", "em-capsnet", "cnn-cr"])
@pytest.mark.parametrize("method", ["mean-fold", "least-squares"])
def test_a_constant_channel_is_made_up_for_exactly(name, method):
    spec = NETWORKS[name]
    tensors = drawn_tensors(build(spec))
    tensors["stages.conv1.conv.weight"][1] = 0
    tensors["stages.conv1.conv.bias"][1] = 0.7
    kept = everything_but(spec, conv1_channels=(1,))
    expected = scores(network_of(spec, tensors), spec)
    torch.testing.assert_close(scores(refitted(spec, tensors, kept, method), spec), expected, rtol=1e-4, atol=1e-5)
    assert (scores(network_of(*cut(spec, tensors, kept)), spec) - expected).abs().max() > 1e-3


DOUBLED = [
    ("shallow-capsnet", "conv1.channels"),
    ("shallow-capsnet, runs of cells", "conv2.channels"),
    ("efficient-capsnet", "conv2.channels"),
    ("efficient-capsnet, instance norm", "conv3.channels"),
    ("deepcaps", "conv1.channels"),
    ("em-capsnet", "conv1.channels"),
    ("resnet50-capsnet", "layer4.out.channels"),
    ("resnet50-capsnet, folded", "layer3.0.conv1.channels"),
    ("mobilenetv1-capsnet", "block13.channels"),
    ("cnn-small", "conv2.channels"),
]


@pytest.mark.usefixtures("no_ridge")
@pytest.mark.parametrize(("name", "unit"), DOUBLED, ids=[", ".join(pair) for pair in DOUBLED])
def test_a_channel_that_another_one_repeats_is_made_up_for(name, unit):
    spec = NETWORKS[name]
    tensors = drawn_tensors(build(spec))
    (double,) = (each for each in build(spec).units if each.name == unit)
    for each in double.cuts:
        if each.axis == 0:
            tensor = tensors[f"stages.{each.tensor}"]
            if each.tensor.endswith("bias"):
                tensor[0] += 1  # it is heard
            tensor[1] = tensor[0]
    kept = everything_but(spec) | {unit: tuple(index for index in range(double.count) if index != 1)}
    expected = scores(network_of(spec, tensors), spec)
    found = scores(refitted(spec, tensors, kept, "least-squares"), spec)
    without = scores(network_of(*cut(spec, tensors, kept)), spec)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert (without - expected).abs().max() > 20 * (found - expected).abs().max()


@pytest.mark.usefixtures("no_ridge")
def test_capsules_of_a_type_that_another_one_repeats_vote_for_both():
    spec = replace(SHALLOW, routing="uniform")
    tensors = drawn_tensors(build(spec))
    for name in ("primary.conv.weight", "primary.bias"):
        rows = tensors[f"stages.{name}"].view(3, -1)
        rows[1] = rows[0]
    kept = everything_but(spec, primary_types=(1,))
    expected = scores(network_of(spec, tensors), spec)
    found = scores(refitted(spec, tensors, kept, "least-squares"), spec)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
