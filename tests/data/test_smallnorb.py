from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import write_folder, write_tar
from PIL import Image

from qcaps.data import smallnorb
from qcaps.data.load import load_training_splits
from qcaps.data.smallnorb import SMALLNORB, read_smallnorb
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError

CLASSES = ("animal", "human", "airplane", "truck", "car")


@pytest.fixture(autouse=True)
def _ten_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "data_dir" not in request.fixturenames:
        monkeypatch.setattr(smallnorb, "_PAIRS", 10)


def jpegs() -> dict[str, bytes]:
    """Make ten pairs: the first five of instance 4, the others of instance 9; every picture is one grey level."""
    files = {}
    for index in range(10):
        name = CLASSES[index % 5]
        for camera, level in (("lt", 10 * index), ("rt", 10 * index + 5)):
            path = f"{name}/{index:06d}_{name}_{4 if index < 5 else 9:02d}_{camera}.jpg"
            files[path] = flat(level)
    return files


def flat(level: int) -> bytes:
    """Make a grey JPEG of one level, which survives the compression."""
    file = io.BytesIO()
    Image.new("L", (96, 96), level).save(file, "JPEG", quality=75)
    return file.getvalue()


@pytest.mark.parametrize("form", ["train", "train.tar.xz"])
def test_pairs_come_in_the_original_order_left_eye_first(tmp_path: Path, form: str) -> None:
    (write_folder if form == "train" else write_tar)(tmp_path / "smallNORB" / form, jpegs())

    images = read_smallnorb("train", tmp_path, False)

    assert images.pixels.shape == (10, 2, 96, 96)
    assert images.pixels[:, 0].amax(dim=(1, 2)).tolist() == [10 * index for index in range(10)]
    assert images.pixels[:, 1].amin(dim=(1, 2)).tolist() == [10 * index + 5 for index in range(10)]
    assert images.labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert images.class_names == CLASSES
    assert images.groups is not None
    assert images.groups.tolist() == [4] * 5 + [9] * 5
    assert images.note == "JPEG q75 copy"


def test_instance_nine_of_every_class_validates(tmp_path: Path) -> None:
    write_tar(tmp_path / "smallNORB" / "train.tar.xz", jpegs())

    train, validation = load_training_splits(data_spec("smallnorb"), data_dir=tmp_path)

    assert train.indices.tolist() == [0, 1, 2, 3, 4]
    assert validation.indices.tolist() == [5, 6, 7, 8, 9]
    assert validation.split == "validation"


def test_a_missing_picture_of_a_pair_is_noticed(tmp_path: Path) -> None:
    files = jpegs()
    del files["animal/000005_animal_09_rt.jpg"]
    write_tar(tmp_path / "smallNORB" / "train.tar.xz", files)

    with pytest.raises(UsageError, match="19 pictures instead of both of 10 pairs"):
        read_smallnorb("train", tmp_path, False)


def test_two_left_pictures_are_no_pair(tmp_path: Path) -> None:
    files = jpegs()
    files["animal/000006_animal_09_lt.jpg"] = files.pop("animal/000005_animal_09_rt.jpg")
    write_tar(tmp_path / "smallNORB" / "train.tar.xz", files)

    with pytest.raises(UsageError, match="20 pictures instead of both of 10 pairs"):
        read_smallnorb("train", tmp_path, False)


@pytest.mark.parametrize(
    "name",
    ["animal/000000_human_04_lt.jpg", "bird/000000_bird_04_lt.jpg", "animal/1_animal_04_lt.jpg", "animal/0.jpg"],
)
def test_a_picture_with_another_name_is_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "smallNORB" / "train.tar.xz", {name: flat(1)})

    with pytest.raises(UsageError, match="is no picture of smallNORB") as caught:
        read_smallnorb("train", tmp_path, False)

    assert "classes are animal, human, airplane, truck, car" in caught.value.do


def test_missing_files_are_told_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the test images of smallNORB are missing") as caught:
        read_smallnorb("test", tmp_path, False)

    assert caught.value.where == str(tmp_path / "smallNORB" / "test.tar.xz")


def matrix(magic: int, values: np.ndarray) -> bytes:
    """Write a matrix by hand: magic, number of dimensions, at least three of them, values."""
    dimensions = [*values.shape, *[1] * max(0, 3 - values.ndim)]
    return struct.pack(f"<{2 + len(dimensions)}i", magic, values.ndim, *dimensions) + values.tobytes()


def binary_files() -> dict[str, bytes]:
    pixels = np.random.default_rng(4).integers(0, 256, size=(10, 2, 96, 96), dtype=np.uint8)
    info = np.array([[4 if index < 5 else 9, 1, 2, 3] for index in range(10)], dtype="<i4")
    start = "smallnorb-5x46789x9x18x6x2x96x96-training"
    return {
        f"{start}-dat.mat": matrix(0x1E3D4C55, pixels),
        f"{start}-cat.mat": matrix(0x1E3D4C54, np.arange(10, dtype="<i4") % 5),
        f"{start}-info.mat": matrix(0x1E3D4C54, info),
    }


@pytest.mark.parametrize("packed", [False, True])
def test_the_original_files_go_first_packed_or_not(tmp_path: Path, packed: bool) -> None:
    files = binary_files()
    pixels = files["smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat"][-10 * 2 * 96 * 96 :]
    if packed:
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    write_folder(tmp_path / "smallNORB", files | {"train.tar.xz": b"no archive"})

    for _ in range(2):
        images = read_smallnorb("train", tmp_path, False)
        assert images.pixels.numpy().tobytes() == pixels
        assert images.labels.tolist() == [0, 1, 2, 3, 4] * 2
        assert images.labels.dtype == torch.int64
        assert images.groups is not None
        assert images.groups.tolist() == [4] * 5 + [9] * 5
        assert images.note == ""


@pytest.mark.parametrize("kind", ["cat", "info"])
def test_a_missing_original_file_is_named(tmp_path: Path, kind: str) -> None:
    files = binary_files()
    del files[f"smallnorb-5x46789x9x18x6x2x96x96-training-{kind}.mat"]
    write_folder(tmp_path / "smallNORB", files)

    with pytest.raises(UsageError, match=rf"training-{kind}\.mat of smallNORB is missing"):
        read_smallnorb("train", tmp_path, False)


@pytest.mark.parametrize("kind", ["dat", "cat", "info"])
@pytest.mark.parametrize("change", ["magic", "dimension", "short", "long"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_original_file_is_named(tmp_path: Path, kind: str, change: str, packed: bool) -> None:
    files = binary_files()
    name = f"smallnorb-5x46789x9x18x6x2x96x96-training-{kind}.mat"
    content = bytearray(files.pop(name))
    if change in ("magic", "dimension"):
        content[0 if change == "magic" else 8] ^= 1
    content = content[:-1] if change == "short" else content + b"x" if change == "long" else content
    name += ".gz" * packed
    files[name] = gzip.compress(content) if packed else bytes(content)
    write_folder(tmp_path / "smallNORB", files)

    with pytest.raises(UsageError, match="not a matrix of 10 ") as caught:
        read_smallnorb("train", tmp_path, False)

    assert caught.value.where.endswith(name)


def test_a_truncated_packed_file_is_one_clear_line(tmp_path: Path) -> None:
    files = {f"{name}.gz": gzip.compress(content) for name, content in binary_files().items()}
    name = next(iter(files))
    write_folder(tmp_path / "smallNORB", files | {name: files[name][:500]})

    with pytest.raises(UsageError, match="cannot read the file") as caught:
        read_smallnorb("train", tmp_path, False)

    assert caught.value.where.endswith(name)


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    name = "smallnorb-5x46789x9x18x6x2x96x96-training-cat.mat"
    write_folder(tmp_path / "smallNORB", binary_files() | {name: matrix(0x1E3D4C54, np.arange(10, dtype="<i4"))})

    with pytest.raises(UsageError, match="a category is not one of 0 to 4"):
        read_smallnorb("train", tmp_path, False)


def test_missing_parts_are_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "smallNORB", {"train.tar.xz": b"no archive"})

    holding = SMALLNORB.look(tmp_path)

    assert holding.found == ("smallNORB/train.tar.xz",)
    assert holding.missing == ("smallNORB/test.tar.xz",)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(("part", "instances"), [("train", [4, 6, 7, 8, 9]), ("test", [0, 1, 2, 3, 5])])
def test_the_real_parts_are_those_of_the_original(data_dir: Path, part: str, instances: list[int]) -> None:
    images = read_smallnorb(part, data_dir, False)

    assert images.labels.tolist() == [index % 5 for index in range(24_300)]
    assert images.groups is not None
    assert images.groups.unique().tolist() == instances
    assert images.note == "JPEG q75 copy"
    # The eyes of a pair show the same toy: they are far more alike than two left eyes.
    left, right = (images.pixels[:500, eye].float().flatten(1) for eye in (0, 1))
    assert (left - right).abs().mean() < 0.7 * (left[:-1] - left[1:]).abs().mean()


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_validation_part_is_instance_nine(data_dir: Path) -> None:
    train, validation = load_training_splits(data_spec("smallnorb"), data_dir=data_dir)

    assert (len(train), len(validation)) == (19_440, 4_860)
    assert validation.labels.bincount().tolist() == [972] * 5
    assert validation.groups is not None
    assert validation.groups.unique().tolist() == [9]
