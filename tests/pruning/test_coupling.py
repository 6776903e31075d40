from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prunable import DEEP, EFFICIENT, EM, MOBILE, RESNET_CAPS, SHALLOW, drawn_tensors, labelled_images

from qcaps.capsules.sites import hooked
from qcaps.models.network import to_inference
from qcaps.models.spec import build, filled
from qcaps.pruning.coupling import coupling

IMAGES = 4


def network_of(spec):
    return to_inference(filled(spec, drawn_tensors(build(spec)), where="toy"))


def seen(network, images, *sites):
    """Give the arrays of every image at some sites."""
    for pixels, label in zip(images.prepared(), images.labels.tolist(), strict=True):
        arrays = {}
        with torch.inference_mode(), hooked(network, lambda site, array, to=arrays: to.setdefault(site, array)):
            network(pixels.unsqueeze(0))
        yield label, *(arrays[site][0] for site in sites)


def test_types_and_positions_count_the_couplings_of_their_capsules_to_the_true_class():
    network, images = network_of(SHALLOW), labelled_images(SHALLOW, IMAGES)
    types, positions, dims = [0.0] * 3, [0.0] * 12, [0.0] * 4
    for label, capsules, coupled in seen(network, images, "primary.out", "class_caps.coupling@3"):
        for t in range(3):
            for p in range(12):
                entries, heard = capsules[12 * t + p].tolist(), coupled[12 * t + p, label].item()
                strength = sum(entry**2 for entry in entries) ** 0.5 * heard
                types[t] += strength / 12 / IMAGES
                positions[p] += strength / 3 / IMAGES
                for d in range(4):
                    dims[d] += abs(entries[d]) * heard / 36 / IMAGES
    found = coupling(network, images)
    assert found.keys() == {"primary.types", "primary.dims", "primary.positions"}
    assert found["primary.types"].tolist() == pytest.approx(types, rel=1e-4)
    assert found["primary.positions"].tolist() == pytest.approx(positions, rel=1e-4)
    assert found["primary.dims"].tolist() == pytest.approx(dims, rel=1e-4)


def test_a_negative_coupling_counts_by_its_magnitude():
    network, images = network_of(EFFICIENT), labelled_images(EFFICIENT, IMAGES)
    network.stages["class_caps"].routing.bias.fill_(-2.0)
    types = [0.0] * 3
    for label, capsules, coupled in seen(network, images, "primary.out", "class_caps.coupling"):
        assert coupled.max() < 0
        for t in range(3):
            types[t] += capsules[t].norm().item() * -coupled[t, label].item() / IMAGES
    assert coupling(network, images)["primary.types"].tolist() == pytest.approx(types, rel=1e-4)


def test_each_branch_counts_its_own_capsules():
    network, images = network_of(DEEP), labelled_images(DEEP, IMAGES)
    first, second = [0.0] * 2, [0.0] * 3  # types, of 9 and of 4 positions
    for label, maps3, maps4, coupled in seen(
        network, images, "block3.sum_out", "block4.sum_out", "class_caps.coupling@3"
    ):
        for maps, found, positions, start in ((maps3, first, 9, 0), (maps4, second, 4, 18)):
            lengths = maps.view(len(found), 5, positions).norm(dim=1)  # (types, positions)
            for t in range(len(found)):
                for p in range(positions):
                    heard = coupled[start + positions * t + p, label].item()
                    found[t] += lengths[t, p].item() * heard / positions / IMAGES
    found = coupling(network, images)
    assert found.keys() == {"block3.types", "block4.types", "block3.dims"}
    assert found["block3.types"].tolist() == pytest.approx(first, rel=1e-4)
    assert found["block4.types"].tolist() == pytest.approx(second, rel=1e-4)


def test_matrix_capsules_count_with_their_activations():
    network, images = network_of(EM), labelled_images(EM, IMAGES)
    types = [0.0] * 3
    sites = ("conv_caps2.routing.activation.out", "class_caps.coupling@3")
    for label, active, coupled in seen(network, images, *sites):
        cells = len(active)  # (positions, types)
        for t in range(3):
            for p in range(cells):
                types[t] += active[p, t].item() * coupled[0, label, 3 * p + t].item() / cells / IMAGES
    found = coupling(network, images)
    assert found.keys() == {"conv_caps2.types"}
    assert found["conv_caps2.types"].tolist() == pytest.approx(types, rel=1e-4)


def test_a_capsule_that_only_another_class_hears_counts_nothing():
    spec = replace(RESNET_CAPS, routing="attention", routing_bias="after_softmax")
    network, images = network_of(spec), labelled_images(spec, IMAGES)
    images.labels.fill_(1)
    bias = network.stages["class_caps"].routing.bias
    bias.fill_(1.0)
    # One type has no votes: its logits are 0, its couplings 1/4 before the bias.
    network.stages["class_caps"].weight[2] = 0
    bias[2, 1] = -0.25
    found = coupling(network, images)["primary.types"]
    assert found[2] < 1e-6 < found[[0, 1, 3, 4]].min()


def test_a_classifier_couples_nothing():
    assert coupling(network_of(MOBILE), labelled_images(MOBILE, IMAGES)) == {}
