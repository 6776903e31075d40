from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcaps.data.augmentation.geometry import crop, enlarge, mirror, shift, slide, turn


def random_images(count: int, channels: int = 2, height: int = 12, width: int = 15) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count))


def looked_up_slowly(image: Tensor, y: float, x: float) -> float:
    """Interpolate one channel between the four pixels around a place, zeros outside."""
    found = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                found += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row, column])
    return found


def test_only_images_whose_flag_is_set_are_mirrored() -> None:
    images = random_images(3)

    mirrored = mirror(images, torch.tensor([True, False, True]))

    for image, result, is_mirrored in zip(images, mirrored, (True, False, True), strict=True):
        expected = [row[::-1] if is_mirrored else row for row in image[1].tolist()]
        assert result[1].tolist() == expected


@given(st.lists(st.tuples(st.integers(-16, 16), st.integers(-16, 16)), min_size=1, max_size=3))
@settings(max_examples=15)
def test_a_shift_moves_pixels_and_fills_with_zeros(amounts: list[tuple[int, int]]) -> None:
    images = random_images(len(amounts))

    shifted = shift(images, torch.tensor(amounts))

    for image, result, (down, right) in zip(images, shifted, amounts, strict=True):
        expected = np.zeros((12, 15), dtype=np.float32)
        for row in range(12):
            for column in range(15):
                if 0 <= row - down < 12 and 0 <= column - right < 15:
                    expected[row, column] = image[1, row - down, column - right]
        assert result[1].tolist() == expected.tolist()


def test_a_slide_interpolates_and_repeats_the_border() -> None:
    images, amounts = random_images(3), torch.tensor([[1.25, -2.5], [-0.75, 0.0], [14.0, 3.1]])

    slid = slide(images, amounts)

    for image, result, (down, right) in zip(images, slid, amounts.tolist(), strict=True):
        for row in range(12):
            for column in range(15):
                y, x = min(max(row - down, 0), 11), min(max(column - right, 0), 14)
                assert float(result[0, row, column]) == pytest.approx(looked_up_slowly(image[0], y, x), abs=1e-5)


def test_a_crop_is_cut_out_of_a_place_of_each_images_own() -> None:
    images = random_images(3)

    cut = crop(images, torch.tensor([[0, 0], [4, 7], [2, 5]]), 8)

    assert torch.equal(cut[0], images[0, :, :8, :8])
    assert torch.equal(cut[1], images[1, :, 4:12, 7:15])
    assert torch.equal(cut[2], images[2, :, 2:10, 5:13])


def test_an_enlarged_square_is_the_bilinear_resize_of_what_was_cut_out() -> None:
    images = random_images(2, height=12, width=12)

    large = enlarge(images, torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([9.0, 12.0]))

    expected = torch.nn.functional.interpolate(images[:1, :, 1:10, 2:11], (12, 12), mode="bilinear")
    assert torch.allclose(large[:1], expected, atol=1e-6)
    assert torch.allclose(large[1], images[1], atol=1e-6)


@pytest.mark.parametrize(
    ("degrees", "shear", "down", "right"),
    [(0, 0, 0, 0), (17, 0, 0, 0), (-8, 0, 3, -2), (0, 25, 0, 0), (-29, 21, 0, 0), (12, -30, -1, 4), (45, 10, 0, 30)],
)
def test_a_turn_takes_every_pixel_from_the_nearest_one(degrees: float, shear: float, down: int, right: int) -> None:
    images = random_images(1)

    turned = turn(images, torch.tensor([degrees]), torch.tensor([shear]), torch.tensor([[down, right]]))

    # Where each pixel of a shear, then a turn, then a move goes, as matrices of offsets from the centre.
    angle = math.radians(degrees)
    sheared = np.array([[1, -math.tan(math.radians(shear))], [0, 1]])
    whole = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) @ sheared
    for row in range(12):
        for column in range(15):
            x, y = np.linalg.solve(whole, [column - 7 - right, row - 5.5 - down]) + np.array([7, 5.5])
            if abs(abs(x) % 1 - 0.5) < 1e-3 or abs(abs(y) % 1 - 0.5) < 1e-3:
                continue  # as near to two pixels
            inside = -0.5 < x < 14.5 and -0.5 < y < 11.5
            expected = float(images[0, 0, round(y), round(x)]) if inside else 0.0
            assert float(turned[0, 0, row, column]) == expected


def test_a_quarter_turn_is_clockwise() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 0, 2] = 1.0

    turned = turn(image, torch.tensor([90.0]), torch.zeros(1), torch.zeros(1, 2))

    assert turned[0, 0].nonzero().tolist() == [[2, 4]]
