from __future__ import annotations

import math

import pytest
import torch

from qcaps.capsules.dense import DenseCapsules, FeatureClassifier, MapClassifier


def filled(layer):
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return layer


def by_loop(linear, values):
    """Compute the outputs of a dense layer for one image, sum by sum."""
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [sum(w * x for w, x in zip(row, values, strict=True)) + bias for row, bias in rows]


def images(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("squash", [None, "efficient"])
@torch.no_grad()
def test_the_outputs_of_a_dense_layer_are_cut_into_capsules(squash):
    layer = filled(DenseCapsules(2 * 3 * 1, 4, 5, squash_variant=squash))
    x = images(2, 3, 1)
    expected = []
    for image in x:
        values = by_loop(layer.linear, image.flatten().tolist())
        for capsule in (values[5 * j : 5 * j + 5] for j in range(4)):
            norm = math.hypot(*capsule)
            shrink = (1 - math.exp(-norm)) / norm if squash else 1
            expected.append([value * shrink for value in capsule])
    torch.testing.assert_close(layer(x), torch.tensor(expected).view(2, 4, 5))


@torch.no_grad()
def test_a_feature_classifier_hands_its_features_on():
    layer = filled(FeatureClassifier(6, 4))
    features = images(2, 3)
    capsules, scores = layer(features)
    assert capsules is features
    torch.testing.assert_close(scores, torch.tensor([by_loop(layer.linear, f.flatten().tolist()) for f in features]))


@torch.no_grad()
def test_a_map_classifier_gives_its_logits_as_capsules_of_one_dimension_too():
    layer = filled(MapClassifier(12, 4))
    maps = images(3, 2, 2)
    capsules, logits = layer(maps)
    torch.testing.assert_close(logits, torch.tensor([by_loop(layer.linear, m.flatten().tolist()) for m in maps]))
    assert capsules.shape == (2, 4, 1)
    assert capsules.squeeze(2).equal(logits)


@pytest.mark.parametrize(
    ("layer", "arrays"),
    [
        (DenseCapsules(6, 2, 2, squash_variant=None), ["out"]),
        (DenseCapsules(6, 2, 2, squash_variant="hinton"), ["presquash", "out"]),
        (FeatureClassifier(6, 4), ["out"]),
        (MapClassifier(6, 4), ["out"]),
    ],
)
@torch.no_grad()
def test_the_declared_sites_are_those_that_are_passed_in_order(layer, arrays):
    passed = []
    layer.sites.hook = lambda name, array: (passed.append(name.removeprefix(".")), array)[1]
    layer(images(3, 2))
    assert passed == [*layer.sites.arrays] == arrays


@torch.no_grad()
def test_a_plan_that_changes_the_outputs_changes_what_follows():
    for layer in (MapClassifier(6, 4), FeatureClassifier(6, 4)):
        layer.sites.hook = lambda name, array: torch.full_like(array, 7)
        assert (layer(images(3, 2))[1] == 7).all()
