from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from qcaps.data.augmentation.efficient_capsnet import (
    Draws,
    apply,
    digits_augmented,
    draw,
    erase,
    rotate,
    shift_within_margins,
    squish,
)
from qcaps.data.augmentation.geometry import shift
from qcaps.data.load import load_split
from qcaps.data.preparation import Preparation
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError

CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, *, seed: int = 0, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, 28, 28, generator=seeded(seed))


def rectangles(count: int, *, seed: int) -> Tensor:
    """Random grey rectangles on black, with free margins of any size."""
    generator = np.random.default_rng(seed)
    images = torch.zeros(count, 1, 28, 28)
    for image in images:
        top, left = generator.integers(0, 20, size=2)
        bottom, right = top + generator.integers(1, 9), left + generator.integers(1, 9)
        image[0, top:bottom, left:right] = torch.from_numpy(generator.uniform(0.2, 1, (bottom - top, right - left)))
    return images


def one_pixel(row: int, column: int) -> Tensor:
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, row, column] = 1.0
    return image


def rotate_slowly(image: np.ndarray, degrees: float) -> np.ndarray:
    """Look every pixel up where a counter-clockwise rotation about (14, 14) takes it from."""
    angle = math.radians(degrees)
    result = np.zeros((28, 28))
    for row in range(28):
        for column in range(28):
            right, up = column - 14, 14 - row
            x = 14 + right * math.cos(angle) + up * math.sin(angle)
            y = 14 - (-right * math.sin(angle) + up * math.cos(angle))
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    if 0 <= r < 28 and 0 <= c < 28:
                        result[row, column] += (1 - abs(y - r)) * (1 - abs(x - c)) * image[r, c]
    return result


def shift_slowly(image: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros((28, 28))
    for row in range(28):
        for column in range(28):
            if 0 <= row - down < 28 and 0 <= column - right < 28:
                result[row, column] = image[row - down, column - right]
    return result


def amount_slowly(lines: np.ndarray, share: float, up: bool) -> int:
    """Pixels to move along an axis whose rows or columns have these sums."""
    free = 0
    for line in lines[::-1] if up else lines:
        if line > 0:
            break
        free += 1
    exact = Fraction(share)
    return math.floor(exact * (1 + free)) if up else -math.ceil(exact * free)


def squish_slowly(image: np.ndarray, width: int, offset: int) -> np.ndarray:
    """Resize the width with Pillow, place it in a canvas of 28 + offset columns, keep 28."""
    small = Image.fromarray(image.astype(np.float32)).resize((28 - width, 28), Image.Resampling.LANCZOS)
    canvas = np.zeros((28, 28 + offset))
    start = width // 2 + offset
    canvas[:, start : start + 28 - width] = np.asarray(small)
    return canvas[:, :28]


def erase_slowly(image: np.ndarray, top: int, left: int) -> np.ndarray:
    result = image.copy()
    for row in range(top, top + 4):
        for column in range(left, left + 4):
            result[row, column] = 0.0
    return result


def augment_slowly(image: np.ndarray, draws: Draws, i: int) -> np.ndarray:
    """Do to one image what section by section the draws of image i say."""
    if draws.angles[i] != 0:
        image = rotate_slowly(image, float(draws.angles[i]))
    up, shares = draws.shift_up[i].tolist(), draws.shift_shares[i].tolist()
    down = amount_slowly(image.sum(axis=1), shares[0], up[0])
    right = amount_slowly(image.sum(axis=0), shares[1], up[1])
    image = shift_slowly(image, down, right)
    image = squish_slowly(image, int(draws.squish_widths[i]), int(draws.squish_offsets[i]))
    return erase_slowly(image, *draws.patches[i].tolist())


@pytest.mark.parametrize("degrees", [-29, -7, 1, 18, 45])
def test_rotation_is_bilinear_about_pixel_14_with_zeros_outside(degrees: int) -> None:
    images = random_images(1, seed=degrees + 100)

    rotated = rotate(images, torch.tensor([degrees]))

    expected = torch.from_numpy(rotate_slowly(images[0, 0].numpy(), degrees)).float()
    assert torch.allclose(rotated[0, 0], expected, atol=2e-5)


def test_a_positive_angle_turns_counter_clockwise() -> None:
    rotated = rotate(one_pixel(14, 20), torch.tensor([90]))

    assert torch.allclose(rotated, one_pixel(8, 14), atol=1e-5)


def test_images_with_angle_zero_stay_bit_for_bit() -> None:
    images = random_images(3)

    rotated = rotate(images, torch.tensor([0, 10, 0]))

    assert torch.equal(rotated[[0, 2]], images[[0, 2]])
    assert not torch.equal(rotated[1], images[1])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_shift_within_margins_never_cuts_the_digit(seed: int) -> None:
    images = rectangles(20, seed=seed)
    draws = draw(20, seeded(seed), CPU)
    # Half of the images go as far as they can.
    shares = torch.where(torch.arange(20)[:, None] < 10, 0.9999, draws.shift_shares)

    shifted = shift(images, shift_within_margins(images, shares, draws.shift_up))

    for before, after in zip(images, shifted, strict=True):
        assert before[before > 0].tolist() == after[after > 0].tolist()


@pytest.mark.parametrize(
    ("share", "up", "expected"),
    [
        (0.0, False, 0),
        (0.01, False, -1),  # 0.01 * 5 rounded up
        (0.21, False, -2),
        (0.9999, False, -5),
        (0.0, True, 0),
        (0.09, True, 0),  # 0.09 * (1 + 10) rounded down
        (0.1, True, 1),
        (0.9999, True, 10),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_shares_of_the_margin_become_pixels(axis: int, share: float, up: bool, expected: int) -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 5:18, 5:18] = 1.0  # 5 free lines before, 10 after
    shares, sides = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    shares[0, axis], sides[0, axis] = share, up

    amounts = shift_within_margins(image, shares, sides)[0].tolist()

    assert amounts[axis] == expected
    assert amounts[1 - axis] == 0


def test_an_empty_image_stays_empty() -> None:
    images = torch.zeros(50, 1, 28, 28)

    assert torch.equal(digits_augmented(images, seeded(1)), images)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("width", range(1, 8))
def test_a_squish_is_a_lanczos_resize_placed_about_the_middle(width: int, offset: int) -> None:
    images = random_images(1, seed=width)

    squished = squish(images, torch.tensor([width]), torch.tensor([offset]))

    expected = torch.from_numpy(squish_slowly(images[0, 0].numpy(), width, offset)).float()
    assert torch.allclose(squished[0, 0], expected, atol=1e-6)


def test_a_squish_does_not_clip() -> None:
    images = torch.zeros(1, 1, 28, 28)
    images[..., 10:18] = 1.0

    squished = squish(images, torch.tensor([3]), torch.tensor([0]))

    assert squished.min() < -0.01
    assert squished.max() > 1.01


def test_erasing_zeroes_four_by_four_pixels_and_no_other() -> None:
    images = random_images(3) + 0.1
    patches = torch.tensor([[4, 22], [22, 4], [13, 9]])

    erased = erase(images, patches)

    for image, result, (top, left) in zip(images, erased, patches.tolist(), strict=True):
        assert result[0].tolist() == erase_slowly(image[0].numpy(), top, left).tolist()


def test_the_four_steps_come_in_order_for_every_image_of_a_batch() -> None:
    images = rectangles(24, seed=11)
    draws = draw(24, seeded(12), CPU)
    assert 6 <= (draws.angles != 0).sum() <= 18

    augmented = apply(images, draws)

    for i, image in enumerate(images):
        expected = torch.from_numpy(augment_slowly(image[0].numpy().astype(np.float64), draws, i)).float()
        assert torch.allclose(augmented[i, 0], expected, atol=2e-5), f"image {i}"


def test_all_channels_of_an_image_change_together() -> None:
    images = random_images(16).expand(16, 3, 28, 28)

    augmented = digits_augmented(images, seeded(2))

    assert torch.equal(augmented[:, 0], augmented[:, 1])
    assert torch.equal(augmented[:, 0], augmented[:, 2])


def within_four_deviations(hits: Tensor, probability: float) -> bool:
    """Whether the share of hits of independent draws agrees with their probability."""
    deviation = math.sqrt(probability * (1 - probability) / hits.numel())
    return abs(hits.float().mean().item() - probability) < 4 * deviation


def share_below(bound: float) -> float:
    """Probability that a normal draw of standard deviation 0.33 lies within plus or minus `bound`."""
    return math.erf(bound / 0.33 / math.sqrt(2))


def test_angles_are_whole_degrees_and_half_of_the_images_are_not_rotated() -> None:
    angles = draw(40_000, seeded(5), CPU).angles

    assert set(angles.tolist()) == set(range(-29, 30))
    assert within_four_deviations(angles == 0, 0.5 + 0.5 * share_below(1 / 30))
    assert within_four_deviations(angles > 0, 0.25 * (1 - share_below(1 / 30)))
    assert within_four_deviations(angles.abs() >= 20, 0.5 * (1 - share_below(20 / 30)))


def test_shift_draws_are_clipped_absolute_normals_with_a_fair_side_for_every_axis() -> None:
    draws = draw(40_000, seeded(6), CPU)

    assert draws.shift_shares.min() >= 0
    assert draws.shift_shares.max() == torch.tensor(0.9999)
    assert within_four_deviations(draws.shift_shares < 0.2, share_below(0.2))
    assert within_four_deviations(draws.shift_up[:, 0], 0.5)
    assert within_four_deviations(draws.shift_up[:, 1], 0.5)
    assert within_four_deviations(draws.shift_up[:, 0] == draws.shift_up[:, 1], 0.5)
    assert draws.shift_shares.T.corrcoef()[0, 1].abs() < 0.02


def test_squish_draws_are_one_to_seven_columns_and_an_offset_of_zero_or_one() -> None:
    draws = draw(40_000, seeded(7), CPU)

    assert set(draws.squish_widths.tolist()) == set(range(1, 8))
    assert set(draws.squish_offsets.tolist()) == {0, 1}
    assert within_four_deviations(draws.squish_widths == 1, share_below(1 / 7))
    assert within_four_deviations(draws.squish_widths == 4, share_below(4 / 7) - share_below(3 / 7))
    assert within_four_deviations(draws.squish_offsets == 0, share_below(0.5))


@pytest.mark.parametrize("axis", [0, 1])
def test_patches_start_anywhere_from_4_to_22(axis: int) -> None:
    starts = draw(40_000, seeded(8), CPU).patches[:, axis]

    assert set(starts.tolist()) == set(range(4, 23))
    for start in (4, 13, 22):
        assert within_four_deviations(starts == start, 1 / 19)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 28x28 images, not 32x30"):
        digits_augmented(torch.zeros(2, 1, 32, 30), seeded(1))


@pytest.mark.real_data
def test_real_digits_are_augmented_as_the_slow_form_does(data_dir: Path) -> None:
    test = load_split(data_spec("mnist"), "test", data_dir=data_dir, download=False)
    images = replace(test.subset(torch.arange(16)), preparation=Preparation(256)).prepared()
    draws = draw(16, seeded(4), CPU)

    augmented = apply(images, draws)

    for i, image in enumerate(images):
        expected = torch.from_numpy(augment_slowly(image[0].numpy().astype(np.float64), draws, i)).float()
        assert torch.allclose(augmented[i, 0], expected, atol=2e-5), f"image {i}"
