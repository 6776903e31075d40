from __future__ import annotations

import hashlib
import struct
from dataclasses import replace

import pytest
import torch

from qcaps.data.images import ImageSet
from qcaps.data.preparation import Preparation


def three_images() -> ImageSet:
    return ImageSet(
        dataset="toy",
        split="train",
        pixels=torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.uint8).view(3, 1, 1, 2),
        labels=torch.tensor([7, 8, 9]),
        indices=torch.tensor([40, 41, 42]),
        class_names=tuple("0123456789"),
    )


def test_subset_keeps_pixels_labels_and_indices_together_in_the_order_asked_for() -> None:
    picked = three_images().subset(torch.tensor([2, 0]))

    assert len(picked) == 2
    assert picked.pixels.flatten().tolist() == [5, 6, 1, 2]
    assert picked.labels.tolist() == [9, 7]
    assert picked.indices.tolist() == [42, 40]
    assert picked.split == "train"


def test_subset_keeps_groups_and_the_note() -> None:
    images = replace(three_images(), groups=torch.tensor([4, 5, 6]), note="JPEG q75 copy")

    picked = images.subset(torch.tensor([2, 0]))

    assert picked.groups is not None
    assert picked.groups.tolist() == [6, 4]
    assert picked.note == "JPEG q75 copy"


def test_sha256_is_over_the_shape_and_preparation_then_pixels_labels_and_indices_in_little_endian() -> None:
    content = (
        b"((3, 1, 1, 2), Preparation(divisor=255, resize=None, resize_rounds=False, mean=(0.0,), std=(1.0,), "
        b"test_mean=(), test_std=(), crop=None))" + bytes([1, 2, 3, 4, 5, 6]) + struct.pack("<6q", 7, 8, 9, 40, 41, 42)
    )

    assert three_images().sha256() == hashlib.sha256(content).hexdigest()


def test_images_prepared_in_another_way_are_others() -> None:
    assert replace(three_images(), preparation=Preparation(256)).sha256() != three_images().sha256()


@pytest.mark.parametrize("name", ["pixels", "labels", "indices"])
def test_sha256_changes_with_one_value(name: str) -> None:
    images = three_images()
    changed = getattr(images, name).clone()
    changed.view(-1)[1] += 1

    assert replace(images, **{name: changed}).sha256() != images.sha256()


def test_sha256_of_a_view_is_that_of_its_copy() -> None:
    images = three_images()
    column = replace(images, pixels=images.pixels[..., :1])
    copy = replace(images, pixels=images.pixels[..., :1].clone())

    assert column.sha256() == copy.sha256()
