from __future__ import annotations

import torch

from qcaps.data.augment import NO_AUGMENTATION, Augmentation, augmented
from qcaps.data.images import ImageSet
from qcaps.data.preparation import Preparation

BOTH = Preparation(resize=(8, 8), mean=(0.5,), std=(0.25,), crop=(4, 4))


def image_set(preparation: Preparation) -> ImageSet:
    pixels = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet("toy", "train", pixels, torch.zeros(5), torch.arange(5), ("a",), preparation)


def test_without_a_change_images_are_prepared_as_any_others() -> None:
    images = image_set(BOTH)

    assert torch.equal(augmented(images, NO_AUGMENTATION, torch.Generator()), images.prepared())


def test_pixels_are_changed_after_the_resize_and_before_they_are_standardised() -> None:
    seen = []

    def change(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(images)
        return torch.ones_like(images)

    found = augmented(image_set(BOTH), Augmentation(change), torch.Generator())

    assert seen[0].shape == (5, 1, 8, 8)
    assert 0 <= seen[0].min() < seen[0].max() <= 1
    assert torch.equal(found, torch.full((5, 1, 4, 4), 2.0))  # (1 - 0.5) / 0.25


def test_standardised_values_are_changed_where_the_augmentation_says_so() -> None:
    seen = []

    def change(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(images)
        return images + 10

    images = image_set(BOTH)
    found = augmented(images, Augmentation(change, standardised=True), torch.Generator())

    assert seen[0].shape == (5, 1, 8, 8)
    assert seen[0].min() < -1
    assert torch.equal(found, images.prepared() + 10)


def test_the_centre_is_left_alone_after_a_change_that_cuts_out_the_size_of_the_network() -> None:
    corner = Augmentation(lambda images, _: images[:, :, :4, :4])
    images = image_set(Preparation(crop=(2, 2)))

    whole = augmented(images, Augmentation(lambda images, _: images[:, :, :2, :2]), torch.Generator())
    centre = augmented(images, corner, torch.Generator())

    assert torch.equal(whole, images.pixels[:, :, :2, :2] / 255)
    assert torch.equal(centre, images.pixels[:, :, 1:3, 1:3] / 255)
