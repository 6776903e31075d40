from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qcaps.data.augment import augmentation
from qcaps.data.augmentation import published
from qcaps.data.augmentation.published import SHIFT, SHIFT_FLIP
from qcaps.errors import UsageError
from qcaps.registry import AUGMENTATIONS

# Side of images that an augmentation takes, and of those that it gives; 28 for the others.
SIDES = {"norb-efficient": (64, 48), "ethanleet-norb": (48, 32)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(name: str) -> tuple[int, int]:
    return SIDES.get(name, (28, 28))


def random_images(name: str, count: int, channels: int = 1) -> Tensor:
    side = sides(name)[0]
    images = torch.zeros(count, channels, side, side)
    images[:, :, 5:19, 6:18] = torch.rand(count, channels, 14, 12, generator=seeded(1))
    return images


def one_pixel(count: int, side: int, row: int, column: int) -> Tensor:
    image = torch.zeros(1, 1, side, side)
    image[0, 0, row, column] = 1.0
    return image.expand(count, 1, side, side)


def within_four_deviations(hits: Tensor, probability: float) -> bool:
    """Whether the share of hits of independent draws agrees with their probability."""
    deviation = math.sqrt(probability * (1 - probability) / hits.numel())
    return abs(hits.float().mean().item() - probability) < 4 * deviation


def noted(monkeypatch: pytest.MonkeyPatch, step: str, *, applied: bool = False) -> list[tuple[Tensor, ...]]:
    """Note with which numbers a step is applied, or would be."""
    seen: list[tuple[Tensor, ...]] = []
    original = getattr(published, step)

    def note(images: Tensor, *numbers: Tensor) -> Tensor:
        seen.append(numbers)
        return original(images, *numbers) if applied else images

    monkeypatch.setattr(published, step, note)
    return seen


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_the_generator_is_the_only_source_of_randomness(name: str) -> None:
    images, change = random_images(name, 16), augmentation(name).change
    kept, state = images.clone(), torch.get_rng_state()

    first, again = change(images, seeded(3)), change(images, seeded(3))

    assert torch.equal(first, again)
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS.names() if name != "none"])
def test_the_next_batch_is_drawn_anew(name: str) -> None:
    images, change, generator = random_images(name, 16), augmentation(name).change, seeded(3)

    assert not torch.equal(change(images, generator), change(images, generator))


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
@pytest.mark.parametrize(("count", "channels"), [(0, 1), (1, 2), (7, 3)])
def test_any_number_of_images_and_channels_is_taken(name: str, count: int, channels: int) -> None:
    augmented = augmentation(name).change(random_images(name, count, channels), seeded(1))

    assert augmented.shape == (count, channels, *[sides(name)[1]] * 2)
    assert augmented.dtype == torch.float32


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS.names() if n not in ("norb-efficient",)])
def test_all_channels_of_a_grey_image_stay_alike(name: str) -> None:
    images = random_images(name, 6).expand(-1, 3, -1, -1)

    augmented = augmentation(name).change(images, seeded(2))

    assert torch.allclose(augmented[:, 0], augmented[:, 1], atol=1e-6)
    assert torch.allclose(augmented[:, 0], augmented[:, 2], atol=1e-6)


def test_a_shift_is_uniform_over_two_pixels_per_axis() -> None:
    shifted = SHIFT.change(one_pixel(10_000, 28, 10, 14), seeded(9))

    places = shifted.mean(dim=0)[0]
    assert places.sum().item() == pytest.approx(1)
    assert places[8:13, 12:17].sum().item() == pytest.approx(1)
    assert (places[8:13, 12:17] * 10_000 - 400).abs().max() < 4 * math.sqrt(400)


def test_a_fifth_of_the_images_is_mirrored_after_the_shift() -> None:
    shifted = SHIFT_FLIP.change(one_pixel(5_000, 28, 10, 4), seeded(10))

    columns = shifted.flatten(1).argmax(dim=1) % 28
    assert set(columns.tolist()) == {2, 3, 4, 5, 6, 21, 22, 23, 24, 25}
    assert within_four_deviations(columns > 14, 0.2)


def test_no_augmentation_changes_nothing() -> None:
    images = random_images("none", 4)

    assert torch.equal(augmentation("none").change(images, seeded(1)), images)


def test_q_capsnets_turns_cifar_by_2_degrees_and_moves_it_by_5_pixels_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, flips = noted(monkeypatch, "turn"), noted(monkeypatch, "mirror")

    augmentation("cifar-q-capsnets").change(torch.zeros(20_000, 0, 64, 64), seeded(4))

    [(degrees, shears, amounts)], [(mirrored,)] = turns, flips
    assert 1.99 < degrees.max() < 2
    assert -2 < degrees.min() < -1.99
    assert not shears.any()
    assert set(amounts.flatten().tolist()) == set(range(-5, 6))
    assert within_four_deviations(amounts == 3, 0.1)
    assert within_four_deviations(amounts == 5, 0.05)  # the end of a rounded uniform draw
    assert within_four_deviations(mirrored, 0.5)


def test_tiny_imagenet_is_turned_by_20_degrees_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = noted(monkeypatch, "turn")

    augmentation("tiny-towards-efficient").change(torch.zeros(10_000, 0, 8, 8), seeded(4))

    [(degrees, _, amounts)] = turns
    assert 19.9 < degrees.max() < 20
    assert -20 < degrees.min() < -19.9
    assert not amounts.any()


def test_q7_slides_cifar_by_a_tenth_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    slides = noted(monkeypatch, "slide")

    augmentation("cifar-q7").change(torch.zeros(10_000, 0, 32, 20), seeded(4))

    [(amounts,)] = slides
    assert 3.19 < amounts[:, 0].abs().max() <= 3.2
    assert 1.99 < amounts[:, 1].abs().max() <= 2.0


@pytest.mark.parametrize(
    ("name", "brightness", "contrast"),
    [
        ("cifar-towards-efficient", 0.25, 0.8),
        ("ethanleet-cifar", 63 / 255, 0.8),
        ("ethanleet-norb", 32 / 255, 0.5),
    ],
)
def test_brightness_and_contrast_change_by_factors_around_1_in_either_order(
    monkeypatch: pytest.MonkeyPatch, name: str, brightness: float, contrast: float
) -> None:
    jitters, _ = (noted(monkeypatch, step) for step in ("jitter", "crop"))
    side = sides(name)[0]

    augmentation(name).change(torch.zeros(20_000, 0, side, side), seeded(5))

    [(bright, stretched, first)] = jitters
    for factors, most in ((bright, brightness), (stretched, contrast)):
        assert 1 - most <= factors.min() < 1 - most + 0.01
        assert 1 + most - 0.01 < factors.max() < 1 + most + 1e-6
        assert within_four_deviations(factors < 1, 0.5)
    assert within_four_deviations(first, 0.5)


def test_efficient_capsnet_cuts_both_eyes_alike_and_changes_standardised_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crops, lifts, stretches = (noted(monkeypatch, step, applied=True) for step in ("crop", "lift", "stretch"))
    norb = augmentation("norb-efficient")
    left = torch.rand(50, 1, 64, 64, generator=seeded(1))

    eyes = norb.change(torch.cat([left, 3 * left + 1], dim=1), seeded(6))

    [(corners, size)], [(amounts,)], [(factors,)] = crops, lifts, stretches
    assert norb.standardised
    for i in range(50):
        top, start = corners[i].tolist()
        window = left[i, 0, top : top + 48, start : start + 48]
        for eye, values in zip(eyes[i], (window, 3 * window + 1), strict=True):
            lifted = values + amounts[i]
            assert torch.allclose(eye, (lifted - lifted.mean()) * factors[i] + lifted.mean(), atol=1e-4)
    assert size == 48


def test_the_numbers_of_efficient_capsnet_for_smallnorb_cover_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, lifts, stretches = (noted(monkeypatch, step) for step in ("crop", "lift", "stretch"))

    augmentation("norb-efficient").change(torch.zeros(10_000, 0, 64, 64), seeded(7))

    [(corners, _)], [(amounts,)], [(factors,)] = crops, lifts, stretches
    assert set(corners.flatten().tolist()) == set(range(17))
    assert within_four_deviations(corners == 16, 1 / 17)
    assert -2 <= amounts.min() < -1.99
    assert 1.99 < amounts.max() <= 2
    assert 0.5 <= factors.min() < 0.51
    assert 1.49 < factors.max() <= 1.5


def test_efficientcn_turns_shears_and_enlarges_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, enlargements = noted(monkeypatch, "turn"), noted(monkeypatch, "enlarge")

    augmentation("efficientcn-mnist").change(torch.zeros(20_000, 0, 28, 28), seeded(8))

    [(degrees, shears, amounts)], [(corners, sizes)] = turns, enlargements
    for drawn in (degrees, shears):
        assert -30 <= drawn.min() < -29.9
        assert 29.9 < drawn.max() <= 30
    assert not amounts.any()
    # Areas of 0.8 to (28.5 / 28)^2 of the image: sides of 25.04 and more, rounded.
    assert set(sizes.tolist()) == {25, 26, 27, 28}
    areas = (28.5 / 28) ** 2 - 0.8
    assert within_four_deviations(sizes == 26, ((26.5 / 28) ** 2 - (25.5 / 28) ** 2) / areas)
    assert within_four_deviations(sizes == 28, ((28.5 / 28) ** 2 - (27.5 / 28) ** 2) / areas)
    for size in range(25, 29):
        places = corners[sizes == size]
        assert set(places.flatten().tolist()) == set(range(29 - size))
        assert within_four_deviations(places == 0, 1 / (29 - size)) or size == 28


@pytest.mark.parametrize(("name", "size"), [("norb-efficient", 48), ("ethanleet-norb", 32)])
def test_images_too_small_to_cut_out_of_are_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"cuts {size}x{size} pixels out of images of 64x28"):
        augmentation(name).change(torch.zeros(2, 1, 64, 28), seeded(1))
