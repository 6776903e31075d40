from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from qcaps.data.digits import enlarge, read_digits

NOWHERE = Path("/nowhere")


def bilinear_by_hand(image: list[list[int]]) -> list[list[int]]:
    """Resize one 8x8 image of values 0..16 in exact fractions; halves are rounded up."""

    def sources(i: int) -> list[tuple[int, Fraction]]:
        position = (Fraction(i) + Fraction(1, 2)) * Fraction(8, 28) - Fraction(1, 2)
        position = min(max(position, Fraction(0)), Fraction(7))
        low = min(math.floor(position), 6)
        return [(low, 1 - (position - low)), (low + 1, position - low)]

    def pixel(row: int, column: int) -> int:
        value = sum(a * b * image[r][c] for r, a in sources(row) for c, b in sources(column))
        return math.floor(Fraction(255, 16) * value + Fraction(1, 2))

    return [[pixel(row, column) for column in range(28)] for row in range(28)]


def test_enlarging_is_exact_bilinear_interpolation() -> None:
    images = np.random.default_rng(5).integers(0, 17, size=(3, 8, 8))

    assert enlarge(images).tolist() == [bilinear_by_hand(image) for image in images.tolist()]


def test_enlarging_agrees_with_torch_to_one_grey_level() -> None:
    images = load_digits().images
    reference = functional.interpolate(
        torch.from_numpy(images)[:, None] * 255 / 16, size=28, mode="bilinear", align_corners=False
    )

    difference = torch.from_numpy(enlarge(images.astype(np.int64)))[:, None].double() - reference

    assert difference.abs().max() <= 0.5 + 1e-9


def test_the_largest_value_becomes_255() -> None:
    assert (enlarge(np.full((1, 8, 8), 16)) == 255).all()


def test_the_test_part_holds_36_images_of_each_class() -> None:
    test = read_digits("test", NOWHERE, False)

    assert test.labels.bincount().tolist() == [36] * 10


def test_both_parts_together_are_all_1797_images() -> None:
    train, test = (read_digits(part, NOWHERE, False) for part in ("train", "test"))

    assert sorted(train.indices.tolist() + test.indices.tolist()) == list(range(1797))


@pytest.mark.parametrize("part", ["train", "test"])
def test_indices_point_at_the_images_of_scikit_learn(part: str) -> None:
    source = load_digits()
    images = read_digits(part, NOWHERE, False)

    assert images.labels.tolist() == source.target[images.indices].tolist()
    assert images.pixels.shape == (len(images), 1, 28, 28)
    assert images.pixels.dtype == torch.uint8
    for position in (0, 7, len(images) - 1):
        original = source.images[images.indices[position]].astype(int).tolist()
        assert images.pixels[position, 0].tolist() == bilinear_by_hand(original)
