from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import FOLDED, NORMED, ROUTED, toy_images, toy_network

import qcaps.evaluation.measure
from qcaps.capsules.sites import hooked
from qcaps.data.images import ImageSet
from qcaps.data.preparation import Preparation
from qcaps.errors import StoppedError
from qcaps.evaluation.measure import Measurement, batches, in_blocks, measure, predictor


def numbered(count: int) -> ImageSet:
    """Give images whose every pixel is their number, and whose index is ten times that."""
    numbers = torch.arange(count)
    pixels = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSet("digits", "test", pixels, numbers % 3, 10 * numbers, ("a", "b", "c"))


def say_number(pixels, indices):
    """Predict the number of an image, from its pixels."""
    return (pixels[:, 0, 0, 0] * 255).round().long()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8, 100])
def test_every_image_is_predicted_once_in_order(batch_size):
    found = measure(say_number, numbered(7), batch_size=batch_size)
    assert found.predictions.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_the_candidate_is_given_the_indices_of_the_images_in_their_source():
    found = measure(lambda pixels, indices: indices, numbered(5), batch_size=2)
    assert found.predictions.tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("divisor", [255, 256])
def test_pixels_are_divided_by_the_divisor(divisor):
    seen = []

    def record(pixels, indices):
        seen.append(pixels)
        return indices

    measure(record, dataclasses.replace(numbered(4), preparation=Preparation(divisor)), batch_size=4)
    assert seen[0].dtype == torch.float32
    assert seen[0][:, 0, 0, 0].tolist() == pytest.approx([n / divisor for n in range(4)], rel=1e-6)


def test_no_gradients_are_kept():
    modes = []
    measure(lambda p, i: modes.append(torch.is_inference_mode_enabled()) or i, numbered(1), batch_size=1)
    assert modes == [True]


def test_hits_and_scores_are_counted():
    found = Measurement(torch.tensor([1, 2, 0, 2]), torch.tensor([1, 0, 0, 2]))
    assert found.hits.tolist() == [True, False, True, True]
    assert (found.correct, found.images, found.accuracy) == (3, 4, 0.75)


def test_progress_is_told_after_every_batch():
    told = []
    measure(say_number, numbered(5), batch_size=2, phase="look", on_progress=told.append)
    assert [(step.phase, step.done, step.total) for step in told] == [("look", 2, 5), ("look", 4, 5), ("look", 5, 5)]


def test_a_wish_to_stop_is_heard_after_the_current_batch():
    seen = []

    def record(pixels, indices):
        seen.extend(indices.tolist())
        return indices

    with pytest.raises(StoppedError):
        measure(record, numbered(6), batch_size=2, stop=lambda: len(seen) >= 4)
    assert seen == [0, 10, 20, 30]


def test_batches_are_consecutive_and_only_the_last_is_smaller():
    assert [batch.indices.tolist() for batch in batches(numbered(5), 2)] == [[0, 10], [20, 30], [40]]


@pytest.mark.parametrize("spec", [NORMED, FOLDED])
def test_a_float_network_predicts_its_longest_capsule(spec):
    network, images = toy_network(spec), toy_images(spec)
    found = measure(predictor(network), images, batch_size=6)
    with torch.inference_mode():
        capsules = network(images.pixels / 255).capsules.double()
    assert found.predictions.tolist() == capsules.square().sum(2).argmax(1).tolist()
    assert len(set(found.predictions.tolist())) > 1


@pytest.mark.parametrize(("images", "blocks"), [(4, [4]), (5, [3, 2]), (9, [3, 3, 3]), (1, [1])])
def test_a_batch_is_cut_into_even_blocks_whose_largest_array_fits(images, blocks, monkeypatch):
    # The largest array of this network has 4 maps of 10x10: four images of it fit.
    monkeypatch.setattr(qcaps.evaluation.measure, "BLOCK_BYTES", 4 * (4 * 100 * 4) + 1)
    seen = []

    def predict(pixels, indices):
        seen.append(len(pixels))
        return indices

    found = in_blocks(toy_network(ROUTED), predict)(torch.zeros(images, 1, 14, 14), torch.arange(images))
    assert seen == blocks
    assert found.tolist() == list(range(images))


def test_an_image_whose_arrays_do_not_fit_goes_alone(monkeypatch):
    monkeypatch.setattr(qcaps.evaluation.measure, "BLOCK_BYTES", 1)
    seen = []
    predict = in_blocks(toy_network(ROUTED), lambda pixels, indices: seen.append(len(pixels)) or indices)
    predict(torch.zeros(3, 1, 14, 14), torch.arange(3))
    assert seen == [1, 1, 1]


def test_blocks_can_be_found_while_the_arrays_are_hooked():
    network, images = toy_network(ROUTED), toy_images(ROUTED, 3)
    passed = []
    with hooked(network, lambda site, array: passed.append(site) or array):
        measure(predictor(network), images, batch_size=3)
    assert len(passed) == len(set(passed))  # each site once: finding the size of a block leaves no trace
