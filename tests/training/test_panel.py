from __future__ import annotations

import dataclasses

import pytest
import torch
from toys import NORMED, toy_images, toy_network

from qcaps.training.panel import draw_panel, panel_images


def test_a_panel_shows_the_first_two_images_of_every_class_class_by_class():
    images = dataclasses.replace(toy_images(NORMED, 7), labels=torch.tensor([2, 0, 2, 1, 2, 0, 0]))
    assert panel_images(images).indices.tolist() == images.indices[[1, 5, 3, 0, 2]].tolist()


def test_a_panel_of_many_classes_ends_after_forty_images():
    images = dataclasses.replace(
        toy_images(NORMED, 90), labels=torch.arange(90) // 3, class_names=tuple(map(str, range(30)))
    )
    assert panel_images(images).labels.tolist() == [label for label in range(20) for _ in range(2)]


def test_what_is_drawn_is_the_longest_capsule():
    network = toy_network(dataclasses.replace(NORMED, decoder="fc"))
    images = toy_images(NORMED, 5)
    found = draw_panel(network, images)
    assert found.images.equal(images.pixels / 255)
    with torch.inference_mode():
        for number in range(5):
            capsules = network(images.pixels[number : number + 1] / 255).capsules
            longest = max(range(3), key=lambda label: float(capsules[0, label].square().sum()))
            expected = network.reconstruct(capsules, torch.tensor([longest]))[0]
            assert found.reconstructions[number].flatten().tolist() == pytest.approx(expected.flatten().tolist())
