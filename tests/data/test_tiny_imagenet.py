from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture, pixels_of, write_folder, write_tar

from qcaps.data import tiny_imagenet
from qcaps.data.dataset import DataSet
from qcaps.data.images import ImageSet
from qcaps.data.load import known
from qcaps.data.tiny_imagenet import TINY_IMAGENET
from qcaps.errors import UsageError

SHAPE = (3, 64, 64)
WNIDS = ("n01", "n02", "n03", "n04")


@pytest.fixture(autouse=True)
def _two_images_of_each_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "data_dir" not in request.fixturenames:
        monkeypatch.setattr(tiny_imagenet, "_PER_CLASS", {"train": 2, "test": 1})
        monkeypatch.setattr(tiny_imagenet, "_ALL", 4)


def read(data: DataSet, part: str, folder: Path) -> ImageSet:
    return data.read(part, folder, False, lambda step: None)


def write_subset(folder: Path, wnids: tuple[str, ...] = ("n01", "n03")) -> Path:
    """Write the packed subset; the first training picture of every class is grey."""
    place = folder / "tiny-imagenet-50of200-64x64"
    train = {f"{wnid}/{wnid}_{i}.JPEG": picture(i, (2 * i + 1, 64, 64)) for wnid in wnids for i in range(2)}
    write_tar(place / "train.tar.xz", train)
    write_tar(place / "val.tar.xz", {f"{wnid}/val_{i}.JPEG": picture(i, SHAPE) for i, wnid in enumerate(wnids)})
    (place / "classes.tsv").write_text("".join(f"{wnid}\tsome words\n" for wnid in wnids))
    return folder


def write_official(folder: Path) -> Path:
    """Write the folder as it is distributed; picture i of class c has the seed 10·c + i, of val 100 + c."""
    files = {"wnids.txt": "\n".join(reversed(WNIDS)).encode(), "words.txt": b"n01\tgoldfish\n"}
    for label, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"0 0 63 63"
        for number in range(2):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = picture(10 * label + number, SHAPE)
        files[f"val/images/val_{9 - label}.JPEG"] = picture(100 + label, SHAPE)
    lines = [f"val_{9 - label}.JPEG\t{wnid}\t0\t0\t63\t63\n" for label, wnid in enumerate(WNIDS)]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    write_folder(folder / "tiny-imagenet-200", files)
    return folder


def test_the_subset_is_read_with_a_note_and_grey_pictures_as_colours(tmp_path: Path) -> None:
    data = known("tiny-imagenet", data_dir=write_subset(tmp_path))

    images = read(data, "train", tmp_path)

    assert data.class_names == ("n01", "n03")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.pixels.shape == (4, *SHAPE)
    assert np.array_equal(images.pixels[0].numpy(), np.repeat(pixels_of(0, (1, 64, 64)), 3, axis=0))
    assert images.note == "2 of 4 classes"


def test_validation_pictures_are_the_test_part(tmp_path: Path) -> None:
    images = read(known("tiny-imagenet", data_dir=write_subset(tmp_path)), "test", tmp_path)

    assert images.labels.tolist() == [0, 1]
    assert images.split == "test"


def test_the_official_folder_goes_first_and_has_no_note(tmp_path: Path) -> None:
    write_official(write_subset(tmp_path))
    data = known("tiny-imagenet", data_dir=tmp_path)

    images = read(data, "train", tmp_path)

    assert data.class_names == WNIDS
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(images.pixels[5].numpy(), pixels_of(21, SHAPE))
    assert images.note == ""


def test_official_validation_pictures_are_labelled_by_their_list(tmp_path: Path) -> None:
    images = read(known("tiny-imagenet", data_dir=write_official(tmp_path)), "test", tmp_path)

    for label in range(4):
        (position,) = (images.labels == label).nonzero()[0].tolist()
        assert np.array_equal(images.pixels[position].numpy(), pixels_of(100 + label, SHAPE))


def test_classes_of_the_subset_are_found_in_the_official_folder(tmp_path: Path) -> None:
    subset = known("tiny-imagenet", data_dir=write_subset(tmp_path / "subset"))

    images = read(subset, "test", write_official(tmp_path / "all"))

    assert images.class_names == ("n01", "n03")
    assert sorted(images.labels.tolist()) == [0, 1]
    assert images.note == "2 of 4 classes"


def test_all_classes_are_not_found_in_the_subset(tmp_path: Path) -> None:
    everything = known("tiny-imagenet", data_dir=write_official(tmp_path / "all"))

    with pytest.raises(UsageError, match="class 'n02' has 0 pictures instead of 2"):
        read(everything, "train", write_subset(tmp_path / "subset"))


def test_a_missing_set_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Tiny-ImageNet is missing") as caught:
        known("tiny-imagenet", data_dir=tmp_path)

    assert caught.value.where == str(tmp_path / "tiny-imagenet-200" / "wnids.txt")


def test_a_missing_part_is_told_with_its_place(tmp_path: Path) -> None:
    data = known("tiny-imagenet", data_dir=write_subset(tmp_path))
    (tmp_path / "tiny-imagenet-50of200-64x64" / "val.tar.xz").unlink()

    with pytest.raises(UsageError, match="missing") as caught:
        read(data, "test", tmp_path)

    assert caught.value.where.endswith("val.tar.xz")


@pytest.mark.parametrize("content", [b"", b"n01\n", b"n01\nn01\n", b"\xff\xfe\x00"])
def test_a_wrong_list_of_classes_is_refused(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path, {"tiny-imagenet-200/wnids.txt": content})

    with pytest.raises(UsageError) as caught:
        known("tiny-imagenet", data_dir=tmp_path)

    assert caught.value.where.endswith("wnids.txt")


def test_what_is_there_is_told(tmp_path: Path) -> None:
    write_subset(tmp_path)
    (tmp_path / "tiny-imagenet-50of200-64x64" / "val.tar.xz").unlink()

    holding = TINY_IMAGENET.look(tmp_path)

    start = "tiny-imagenet-50of200-64x64"
    assert holding.found == (f"{start}/classes.tsv", f"{start}/train.tar.xz")
    assert holding.missing == (f"{start}/val",)


@pytest.mark.real_data
def test_the_real_subset_has_fifty_classes(data_dir: Path) -> None:
    data = known("tiny-imagenet", data_dir=data_dir)

    images = read(data, "test", data_dir)

    assert len(data.class_names) == 50
    assert data.class_names[0] == "n01443537"
    assert images.labels.bincount().tolist() == [50] * 50
    assert images.note == "50 of 200 classes"
    # The goldfish is red.
    red, green, blue = images.pixels[images.labels == 0].float().mean(dim=(0, 2, 3)).tolist()
    assert red > max(green, blue)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_training_part_has_five_hundred_of_each(data_dir: Path) -> None:
    images = read(known("tiny-imagenet", data_dir=data_dir), "train", data_dir)

    grey = (images.pixels.amax(dim=1) == images.pixels.amin(dim=1)).flatten(1).all(dim=1)
    assert images.labels.bincount().tolist() == [500] * 50
    assert int(grey.sum()) >= 499
