from __future__ import annotations

import torch
from toys import ROUTED, echo_network, toy_images, toy_network

from qcaps.capsules.sites import hooked
from qcaps.evaluation.measure import measure, predictor
from qcaps.evaluation.watching import RangeWatch, watched
from qcaps.models.network import array_sites

IMAGES = toy_images(ROUTED, 30)


def measured(predict):
    return measure(predict, IMAGES, batch_size=7).predictions


def test_every_array_is_shown_and_no_prediction_changes():
    network, seen = toy_network(ROUTED), {}

    def see(site, array):
        seen[site] = seen.get(site, 0) + len(array)

    assert torch.equal(measured(watched(network, see)), measured(predictor(toy_network(ROUTED))))
    assert seen == dict.fromkeys(array_sites(network, (1, 14, 14)), len(IMAGES))


def test_arrays_are_shown_as_they_leave_the_hook_of_their_images():
    found, given = [], []

    def hook_of(indices):
        given.append(indices)
        return lambda _site, array: array + indices.view(-1, 1, 1)

    measured(watched(echo_network(), lambda _site, array: found.append(array), hook_of))
    expected = IMAGES.pixels.flatten(1).unsqueeze(2) / 255 + IMAGES.indices.view(-1, 1, 1)
    assert torch.cat(found).allclose(expected)
    assert torch.equal(torch.cat(given), IMAGES.indices)


def test_a_range_holds_the_smallest_and_the_largest_value_of_all_batches():
    watch = RangeWatch()
    measured(watched(toy_network(ROUTED), watch.see))
    arrays = {}
    with torch.inference_mode(), hooked(network := toy_network(ROUTED), lambda s, a: arrays.setdefault(s, a.clone())):
        network(IMAGES.pixels.float() / 255)
    assert watch.ranges.keys() == arrays.keys()
    for site, (low, high) in watch.ranges.items():
        values = sorted(arrays[site].flatten().tolist())
        assert abs(low - values[0]) < 1e-5
        assert abs(high - values[-1]) < 1e-5
