from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qcaps.data.preparation import PLAIN, Preparation, prepare, restored


def drawn_pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def resized_slowly(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Look up where the centre of every new pixel lies among the four nearest old ones."""
    result = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = (row + 0.5) * image.shape[0] / height - 0.5
            x = (column + 0.5) * image.shape[1] / width - 0.5
            y, x = (min(max(place, 0), side - 1) for place, side in zip((y, x), image.shape, strict=True))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            result[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return result


@pytest.mark.parametrize("divisor", [255, 256])
def test_a_divided_pixel_is_the_nearest_float32_to_the_exact_quotient(divisor: int) -> None:
    values = prepare(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16), Preparation(divisor))

    assert values.dtype == torch.float32
    assert values.shape == (1, 1, 16, 16)
    for pixel, value in enumerate(values.flatten()):
        exact = Fraction(pixel, divisor)
        error = abs(Fraction(value.item()) - exact)
        below, above = (torch.nextafter(value, torch.tensor(end)).item() for end in (-1.0, 2.0))
        assert error <= abs(Fraction(below) - exact)
        assert error <= abs(Fraction(above) - exact)


def test_preparing_leaves_the_pixels_alone() -> None:
    pixels = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)

    prepare(pixels, PLAIN)

    assert pixels.flatten().tolist() == [200] * 4


@pytest.mark.parametrize("size", [(10, 14), (24, 21), (12, 12)])
def test_a_float_resize_is_bilinear_between_pixel_centres_without_antialiasing(size: tuple[int, int]) -> None:
    pixels = drawn_pixels(2, 3, 18, 15)

    values = prepare(pixels, Preparation(256, resize=size))

    for image, result in zip(pixels, values, strict=True):
        for channel, found in zip(image, result, strict=True):
            expected = resized_slowly(channel.double().numpy() / 256, *size)
            assert np.allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(32, 64), (96, 48), (32, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_8_bit_resize_is_that_of_pillow(before: int, after: int, channels: int) -> None:
    pixels = drawn_pixels(3, channels, before, before)

    values = prepare(pixels, Preparation(resize=(after, after), resize_rounds=True))

    for image, result in zip(pixels, values, strict=True):
        for channel, found in zip(image, result, strict=True):
            small = Image.fromarray(channel.numpy()).resize((after, after), Image.Resampling.BILINEAR)
            assert np.array_equal((found * 255).round().numpy(), np.asarray(small))


def test_every_channel_has_a_mean_and_a_deviation() -> None:
    pixels = drawn_pixels(2, 2, 3, 4)

    values = prepare(pixels, Preparation(mean=(0.5, 0.25), std=(0.125, 2.0)))

    assert torch.allclose(values[:, 0], (pixels[:, 0] / 255 - 0.5) * 8)
    assert torch.allclose(values[:, 1], (pixels[:, 1] / 255 - 0.25) / 2)


def test_one_mean_and_deviation_serve_all_channels() -> None:
    pixels = drawn_pixels(2, 3, 3, 4)

    assert torch.allclose(prepare(pixels, Preparation(mean=(0.5,), std=(0.25,))), (pixels / 255 - 0.5) * 4)


def test_statistics_of_every_value_go_channel_by_channel_and_row_by_row() -> None:
    pixels = drawn_pixels(2, 2, 2, 3)
    mean = tuple(n / 16 for n in range(12))

    values = prepare(pixels, Preparation(mean=mean, std=(0.5,) * 12))

    assert values[1, 1, 0, 2].item() == pytest.approx((pixels[1, 1, 0, 2].item() / 255 - 8 / 16) * 2)
    assert values[0, 0, 1, 0].item() == pytest.approx((pixels[0, 0, 1, 0].item() / 255 - 3 / 16) * 2)


def test_the_centre_of_64_pixels_begins_8_pixels_inside() -> None:
    pixels = drawn_pixels(2, 2, 64, 64)

    values = prepare(pixels, Preparation(crop=(48, 48)))

    assert torch.equal(values, pixels[:, :, 8:56, 8:56] / 255)


def test_the_centre_is_cut_out_of_the_resized_image() -> None:
    pixels = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    pixels[:, :, 2:6, 2:6] = 255

    values = prepare(pixels, Preparation(resize=(16, 16), crop=(6, 6)))

    assert torch.equal(values, torch.ones(1, 1, 6, 6))


def test_test_images_have_statistics_of_their_own_where_these_are_given() -> None:
    both = Preparation(256, crop=(4, 4), mean=(0.1,), std=(0.2,), test_mean=(0.3,), test_std=(0.4,))

    assert both.of(test=False) == Preparation(256, crop=(4, 4), mean=(0.1,), std=(0.2,))
    assert both.of(test=True) == Preparation(256, crop=(4, 4), mean=(0.3,), std=(0.4,))
    assert Preparation(mean=(0.1,)).of(test=True) == Preparation(mean=(0.1,))


def test_statistics_of_every_value_and_a_crop_exclude_each_other() -> None:
    every = Preparation(mean=(0.0,) * 12, std=(1.0,) * 12)

    assert every.misfit(3, 2, 2) == ""
    assert "mean and std" in Preparation(mean=every.mean, std=every.std, crop=(2, 2)).misfit(3, 2, 2)
    assert "mean and std" in every.misfit(3, 2, 3)


@pytest.mark.parametrize(
    "preparation",
    [
        PLAIN,
        Preparation(256),
        Preparation(mean=(0.25,), std=(0.5,)),
        Preparation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        Preparation(mean=tuple(n / 100 for n in range(75)), std=tuple(1 + n / 100 for n in range(75))),
    ],
)
def test_what_a_network_sees_can_be_turned_back_into_pixels(preparation: Preparation) -> None:
    pixels = drawn_pixels(4, 3, 5, 5)
    assert torch.equal(restored(prepare(pixels, preparation), preparation), pixels)


def test_what_no_pixel_can_be_is_clamped() -> None:
    values = torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 1, 3)
    assert restored(values, PLAIN).flatten().tolist() == [0, 128, 255]
