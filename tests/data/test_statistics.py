from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import qcaps.data.statistics
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.preparation import Preparation
from qcaps.data.spec import DataSpec, data_spec, data_spec_from_dict, data_spec_to_dict
from qcaps.data.statistics import channel_statistics, value_statistics, with_preparation
from qcaps.errors import UsageError


def image_set(pixels: Tensor, preparation: Preparation) -> ImageSet:
    numbers = torch.arange(len(pixels))
    return ImageSet("toy", "train", pixels, numbers, numbers, ("a",), preparation)


def drawn_pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_statistics_of_channels_are_over_all_pixels_of_all_images() -> None:
    pixels = drawn_pixels(1200, 2, 3, 5)

    mean, std = channel_statistics(image_set(pixels, Preparation(256)))

    values = pixels.numpy().astype(np.float64) / 256
    assert mean == pytest.approx(values.mean((0, 2, 3)), rel=1e-12)
    assert std == pytest.approx(values.std((0, 2, 3)), rel=1e-12)


def test_statistics_of_channels_are_those_of_the_source_size() -> None:
    pixels = drawn_pixels(3, 1, 8, 8)

    small = channel_statistics(image_set(pixels, Preparation(resize=(4, 4))))

    assert small == channel_statistics(image_set(pixels, Preparation()))


def test_statistics_of_values_are_over_all_resized_images() -> None:
    pixels = drawn_pixels(1200, 2, 4, 6)
    pixels[:, 1, 2:, 2:] = 51

    mean, std = value_statistics(image_set(pixels, Preparation(resize=(2, 3))))

    halves = pixels.double().unflatten(2, (2, 2)).unflatten(4, (3, 2)).mean((3, 5)) / 255  # halving is averaging
    assert mean == pytest.approx(halves.mean(0).flatten().tolist(), rel=1e-6)
    assert std[:9] == pytest.approx(halves.std(0, correction=0).flatten()[:9].tolist(), rel=1e-5)
    assert std[11] == pytest.approx(1.0)  # always a fifth: shifted to 0 and left alone


def test_standardised_training_images_have_mean_0_and_deviation_1() -> None:
    pixels = drawn_pixels(100, 2, 6, 6)
    mean, std = channel_statistics(image_set(pixels, Preparation()))

    values = image_set(pixels, Preparation(mean=mean, std=std)).prepared()

    assert values.mean((0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert values.std((0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_a_preparation_without_statistics_reads_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcaps.data.statistics, "load_split", lambda *_, **__: pytest.fail("images were read"))
    spec = data_spec("mnist", augmentation="shift", split_seed=7, validation_per_class=3)

    made = with_preparation(spec, "plain-256")

    assert made == DataSpec("mnist", Preparation(256), "shift", 7, 3)


def test_statistics_come_from_training_images_alone_where_all_images_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []

    def noted(spec: DataSpec, split: str, *, data_dir: Path | None) -> ImageSet:
        read.append(split)
        return load_split(spec, split, data_dir=data_dir)

    monkeypatch.setattr(qcaps.data.statistics, "load_split", noted)
    spec = with_preparation(data_spec("digits"), "norb-efficient")

    assert read == ["train"]
    assert spec.image == (1, 48, 48)
    values = load_split(data_spec("digits"), "train").pixels.numpy() / 255
    assert spec.preparation.mean == pytest.approx([values.mean()])
    assert spec.preparation.std == pytest.approx([values.std()])


def test_test_images_get_their_own_statistics_in_the_published_protocol() -> None:
    spec = with_preparation(data_spec("digits"), "norb-efficient-split")

    assert spec.preparation.of(test=False) == with_preparation(data_spec("digits"), "norb-efficient").preparation
    test = load_split(data_spec("digits"), "test").pixels.numpy() / 255
    prepared = load_split(spec, "test").preparation
    assert prepared.mean == pytest.approx([test.mean()])
    assert prepared.std == pytest.approx([test.std()])
    assert load_split(spec, "validation").preparation == spec.preparation.of(test=False)


def test_the_statistics_of_every_value_survive_a_file() -> None:
    spec = with_preparation(data_spec("digits"), "norb-32-q7")

    assert len(spec.preparation.mean) == len(spec.preparation.std) == 32 * 32
    assert data_spec_from_dict(data_spec_to_dict(spec), where="x.pt") == spec


def test_a_preparation_for_colour_images_does_not_suit_grey_ones() -> None:
    with pytest.raises(UsageError, match="mnist cannot be prepared like that: mean and std"):
        with_preparation(data_spec("mnist"), "imagenet")
