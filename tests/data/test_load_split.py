from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qcaps.data.load import default_data_dir, load_split, load_training_splits
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError

SPLITS = ("train", "validation", "test")


def test_the_three_splits_of_digits_are_disjoint_and_complete() -> None:
    parts = [load_split(data_spec("digits"), split) for split in SPLITS]

    together = torch.cat([part.indices for part in parts])
    assert sorted(together.tolist()) == list(range(1797))
    assert [part.split for part in parts] == list(SPLITS)


def test_validation_holds_the_number_of_the_spec_of_every_class() -> None:
    spec = data_spec("digits", validation_per_class=17)

    assert load_split(spec, "validation").labels.bincount().tolist() == [17] * 10


def test_the_split_seed_changes_validation_but_never_the_test_images() -> None:
    first, second = (data_spec("digits", split_seed=seed) for seed in (1, 2))

    assert load_split(first, "validation").sha256() != load_split(second, "validation").sha256()
    assert load_split(first, "test").sha256() == load_split(second, "test").sha256()


def test_too_large_a_validation_part_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot hold out 138 images per class: class 8"):
        load_split(data_spec("digits", validation_per_class=138), "train")


def test_both_training_splits_at_once_are_those_read_one_by_one() -> None:
    spec = data_spec("digits")

    both = load_training_splits(spec)

    assert [images.split for images in both] == ["train", "validation"]
    for images in both:
        assert images.sha256() == load_split(spec, images.split).sha256()


def test_qcaps_data_names_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAPS_DATA", "/images")
    monkeypatch.setenv("QCAPS_CACHE", "/cache")

    assert default_data_dir() == Path("/images")


def test_the_default_folder_lies_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAPS_DATA", "")
    monkeypatch.setenv("QCAPS_CACHE", "/cache")

    assert default_data_dir() == Path("/cache/data")


def test_the_cache_lies_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCAPS_DATA", raising=False)
    monkeypatch.delenv("QCAPS_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")

    assert default_data_dir() == Path("/home/someone/.cache/qcaps/data")


def test_a_named_folder_goes_before_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAPS_DATA", "/images")

    with pytest.raises(UsageError) as caught:
        load_split(data_spec("mnist"), "test", data_dir=tmp_path, download=False)

    assert caught.value.where.startswith(str(tmp_path))


def test_files_are_looked_for_in_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCAPS_DATA", str(tmp_path))

    with pytest.raises(UsageError) as caught:
        load_split(data_spec("mnist"), "test", download=False)

    assert caught.value.where.startswith(str(tmp_path))


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_5000_of_60000_training_images_validate(data_dir: Path, name: str) -> None:
    train, validation = (
        load_split(data_spec(name), split, data_dir=data_dir, download=False) for split in ("train", "validation")
    )

    assert len(train) == 55_000
    assert validation.labels.bincount().tolist() == [500] * 10
    assert len(set(train.indices.tolist()) | set(validation.indices.tolist())) == 60_000


@pytest.mark.real_data
def test_indices_point_into_the_training_file(data_dir: Path) -> None:
    validation = load_split(data_spec("mnist"), "validation", data_dir=data_dir, download=False)

    content = (data_dir / "MNIST/raw/train-images-idx3-ubyte").read_bytes()
    for position in (0, 2500, 4999):
        start = 16 + 784 * int(validation.indices[position])
        assert validation.pixels[position].numpy().tobytes() == content[start : start + 784]
