from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from qcaps.reports.panel import panel_png


def picture(images: torch.Tensor, reconstructions: torch.Tensor) -> np.ndarray:
    with Image.open(io.BytesIO(panel_png(images, reconstructions))) as found:
        return np.asarray(found.convert("RGB"))


def test_reconstructions_stand_below_their_images():
    images = torch.linspace(0, 1, 12).view(12, 1, 1, 1).expand(12, 1, 28, 28)
    found = picture(images, 1 - images)
    # 28 pixels are drawn as 56, with a border of two; the middle of each is looked at.
    middles = found[28::58, 28::58, 0]
    levels = [round(255 * number / 11) for number in range(12)]
    assert middles.shape == (4, 10)
    assert middles[0].tolist() == levels[:10]
    assert middles[1].tolist() == [255 - level for level in levels[:10]]
    assert middles[2, :2].tolist() == levels[10:]
    assert middles[3, :2].tolist() == [255 - level for level in levels[10:]]
    assert (middles[2:, 2:] == 255).all()


def test_colours_stay_colours():
    images = torch.zeros(1, 3, 64, 64)
    images[:, 1] = 1
    assert picture(images, images)[10, 10].tolist() == [0, 255, 0]


def test_two_eyes_are_shown_side_by_side():
    images = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])[None]
    found = picture(images, images)
    assert found[10, 10].tolist() == [0, 0, 0]
    assert found[10, 74].tolist() == [255, 255, 255]


def test_standardised_images_are_drawn_from_their_darkest_to_their_brightest_value():
    images = torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 56, 56)
    found = picture(images, torch.full_like(images, 1.0))
    assert [found[5, 5, 0], found[5, 63, 0], found[63, 5, 0]] == [0, 255, 128]


def test_images_of_one_value_can_be_drawn():
    assert picture(torch.zeros(1, 1, 56, 56), torch.zeros(1, 1, 56, 56)).shape == (116, 58, 3)
