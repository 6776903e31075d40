from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from qcaps.data.augmentation.colour import jitter, lift, stretch


def test_lifting_adds_a_number_of_each_images_own() -> None:
    images = torch.rand(2, 2, 3, 4)

    assert torch.equal(lift(images, torch.tensor([0.5, -2.0])), torch.stack([images[0] + 0.5, images[1] - 2.0]))


def test_stretching_moves_values_away_from_the_mean_of_their_channel_without_clipping() -> None:
    images = torch.tensor([[[[0.0, 1.0]], [[2.0, 6.0]]], [[[0.0, 1.0]], [[2.0, 6.0]]]])

    stretched = stretch(images, torch.tensor([2.0, 0.5]))

    assert stretched[0].tolist() == [[[-0.5, 1.5]], [[0.0, 8.0]]]
    assert stretched[1].tolist() == [[[0.25, 0.75]], [[3.0, 5.0]]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("bright_first", [True, False])
def test_brightness_and_contrast_are_those_of_pillow_up_to_its_rounding(mode: str, bright_first: bool) -> None:
    generator = np.random.default_rng(3)
    factors = [(0.75, 1.8), (1.25, 0.2), (1.0, 1.0), (1.2, 1.4)]
    pixels = generator.integers(0, 256, (4, 9, 8) if mode == "L" else (4, 9, 8, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).float().view(4, 9, 8, -1).permute(0, 3, 1, 2) / 255
    bright, contrast = torch.tensor(factors).T

    changed = jitter(images, bright, contrast, torch.full((4,), bright_first))

    for array, result, (b, c) in zip(pixels, changed, factors, strict=True):
        steps = [(ImageEnhance.Brightness, b), (ImageEnhance.Contrast, c)]
        image = Image.fromarray(array)
        for enhance, factor in steps if bright_first else reversed(steps):
            image = enhance(image).enhance(factor)
        expected = np.asarray(image, dtype=np.float64).reshape(9, 8, -1).transpose(2, 0, 1)
        # Pillow rounds after each step and the mean as well, and the contrast multiplies the first.
        assert np.abs(result.numpy() * 255 - expected).max() < 2.5


def test_the_order_of_brightness_and_contrast_is_each_images_own() -> None:
    images = torch.tensor([0.1, 0.9]).view(1, 1, 1, 2).expand(2, 1, 1, 2)

    changed = jitter(images, torch.full((2,), 2.0), torch.full((2,), 0.5), torch.tensor([True, False]))

    # 0.2 and 1 clipped, then half as far from 0.6; or half as far from 0.5 first, then doubled and clipped.
    assert changed[0].flatten().tolist() == pytest.approx([0.4, 0.8])
    assert changed[1].flatten().tolist() == pytest.approx([0.6, 1.0])
