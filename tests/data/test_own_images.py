from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture, pixels_of, two_classes, write_folder, write_tar, write_zip

from qcaps.data.dataset import DataSet
from qcaps.data.images import ImageSet
from qcaps.data.load import known, load_split, load_training_splits
from qcaps.data.own_images import OWN_IMAGES
from qcaps.data.spec import data_spec, data_spec_from_dict, data_spec_to_dict
from qcaps.errors import ArtifactError, UsageError

TEST = {"cat/1.png": picture(50), "dog/1.png": picture(51)}


def survey(folder: Path, **options: object) -> DataSet:
    return known("images", data_dir=folder, **options)


def read(data: DataSet, part: str, folder: Path) -> ImageSet:
    return data.read(part, folder, False, lambda step: None)


def write_parts(folder: Path, form: str) -> Path:
    write = {"": write_folder, ".zip": write_zip}.get(form, write_tar)
    write(folder / f"train{form}", two_classes(20))
    write(folder / f"test{form}", TEST)
    return folder


@pytest.mark.parametrize("form", ["", ".zip", ".tar", ".tar.gz", ".tar.xz"])
def test_size_and_classes_are_those_of_the_files(tmp_path: Path, form: str) -> None:
    data = survey(write_parts(tmp_path, form))

    assert (data.channels, data.height, data.width) == (3, 4, 6)
    assert data.class_names == ("cat", "dog")
    assert data.validation_per_class == 2
    assert len(read(data, "train", tmp_path)) == 40
    test = read(data, "test", tmp_path)
    assert np.array_equal(test.pixels.numpy(), np.stack([pixels_of(50), pixels_of(51)]))
    assert test.note == ""


@pytest.mark.parametrize("form", ["folder", "x.zip", "x.tar.xz"])
def test_a_fifth_of_a_single_folder_or_file_is_its_test_part(tmp_path: Path, form: str) -> None:
    write = {"folder": write_folder, "x.zip": write_zip}.get(form, write_tar)
    source = write(tmp_path / form, two_classes(10))
    data = survey(source)

    train, test = (read(data, part, source) for part in ("train", "test"))

    assert test.labels.bincount().tolist() == [2, 2]
    assert train.labels.bincount().tolist() == [8, 8]
    assert sorted(train.indices.tolist() + test.indices.tolist()) == list(range(20))
    assert data.validation_per_class == 1


def test_the_three_splits_of_a_single_folder_are_disjoint(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, two_classes(10))
    data = survey(folder)
    spec = data_spec("images", validation_per_class=data.validation_per_class, content=data.content)

    splits = (*load_training_splits(spec, data_dir=folder), load_split(spec, "test", data_dir=folder))

    pictures = [bytes(image.numpy()) for split in splits for image in split.pixels]
    assert [len(split) for split in splits] == [14, 2, 4]
    assert len(set(pictures)) == 20


def test_pictures_are_resized_and_converted_as_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat/1.png": picture(1), "dog/1.png": picture(2, (1, 30, 20))})
    write_folder(tmp_path / "test", TEST)

    data = survey(tmp_path, size=(8, 10), channels=1)

    assert (data.channels, data.height, data.width) == (1, 8, 10)
    assert read(data, "train", tmp_path).pixels.shape == (2, 1, 8, 10)
    assert read(data, "test", tmp_path).pixels.shape == (2, 1, 8, 10)


def test_pictures_of_different_sizes_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat/1.png": picture(1), "dog/1.png": picture(2, (3, 4, 7))})

    with pytest.raises(UsageError, match=r"'dog/1.png' has 4x7 pixels instead of 4x6"):
        survey(tmp_path)


def test_a_test_picture_of_another_size_is_refused_too(tmp_path: Path) -> None:
    data = survey(write_parts(tmp_path, ""))
    write_folder(tmp_path / "test", {"cat/1.png": picture(1, (3, 5, 5))})

    with pytest.raises(UsageError, match="5x5 pixels instead of 4x6"):
        read(data, "test", tmp_path)


def test_classes_and_size_travel_with_the_spec_to_other_files(tmp_path: Path) -> None:
    data = survey(write_parts(tmp_path / "here", ""), size=(8, 8))
    spec = data_spec("images", content=data.content)
    write_folder(tmp_path / "there" / "test", {"dog/9.png": picture(3, (3, 20, 20))})

    carried = data_spec_from_dict(data_spec_to_dict(spec), where="x.pt")
    images = load_split(carried, "test", data_dir=tmp_path / "there")

    assert carried == spec
    assert (carried.image, carried.classes) == ((3, 8, 8), 2)
    assert images.labels.tolist() == [1]
    assert images.pixels.shape == (1, 3, 8, 8)


def test_an_unknown_class_elsewhere_is_named(tmp_path: Path) -> None:
    data = survey(write_parts(tmp_path / "here", ""))
    write_folder(tmp_path / "there" / "test", {"bird/9.png": picture(3)})

    with pytest.raises(UsageError, match="unknown class 'bird'"):
        read(data, "test", tmp_path / "there")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there are no pictures"),
        ({"train/readme.txt": b"x"}, "there are no pictures"),
        ({"train/cat/1.png": picture(1)}, "2 to 10000 classes"),
        ({"train/1.png": picture(1)}, r"'1.png' lies in no class folder"),
        ({"train/cat/1.png": b"no picture"}, r"'cat/1.png' is not a picture, or damaged"),
        ({"test/cat/1.png": picture(1)}, "the pictures of train are missing"),
    ],
)
def test_what_is_no_set_of_pictures_is_told_in_one_line(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        survey(write_folder(tmp_path, files))

    assert caught.value.where.startswith(str(tmp_path))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no pictures") as caught:
        survey(tmp_path / "nowhere")

    assert "--data-dir" in caught.value.do


def test_a_set_of_its_own_size_takes_no_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits has images of its own size"):
        known("digits", size=(8, 8))


def test_two_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 channel or 3, not 2"):
        survey(tmp_path, channels=2)


def test_without_files_nothing_is_known() -> None:
    with pytest.raises(UsageError, match="known only with its files"):
        data_spec("images")


CONTENT = {"channels": 3, "height": 4, "width": 6, "resize": False, "class_names": ["cat", "dog"]}


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 2},
        {"channels": True},
        {"height": 0},
        {"width": 1025},
        {"width": 6.0},
        {"resize": 0},
        {"class_names": "cat"},
        {"class_names": ["cat"]},
        {"class_names": ["cat", "cat"]},
        {"class_names": ["cat", ""]},
        {"class_names": ["cat", 1]},
        {"class_names": ["cat", ["dog"]]},
        {"class_names": [str(number) for number in range(10_001)]},
        {"colour": 1},
    ],
)
def test_a_wrong_content_in_a_file_is_an_artifact_error(change: dict[str, object]) -> None:
    header = data_spec_to_dict(data_spec("digits")) | {"dataset": "images", "content": CONTENT}
    assert data_spec_from_dict(header, where="x.pt").classes == 2

    with pytest.raises(ArtifactError, match=r"\(x\.pt\)"):
        data_spec_from_dict(header | {"content": CONTENT | change}, where="x.pt")


@pytest.mark.parametrize(("name", "content"), [("digits", CONTENT), ("images", None), ("images", 3), ("images", [])])
def test_content_goes_with_a_set_that_depends_on_files_alone(name: str, content: object) -> None:
    header = data_spec_to_dict(data_spec("digits")) | {"dataset": name, "content": content}

    with pytest.raises(ArtifactError):
        data_spec_from_dict(header, where="x.pt")


def test_what_is_there_is_told(tmp_path: Path) -> None:
    write_zip(tmp_path / "train.zip", two_classes())

    holding = OWN_IMAGES.look(tmp_path)

    assert (holding.found, holding.missing) == (("train.zip",), ("test",))
