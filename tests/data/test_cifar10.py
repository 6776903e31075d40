from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import picture, write_folder, write_tar, write_zip

from qcaps.data import cifar10
from qcaps.data.cifar10 import CIFAR10, read_cifar10
from qcaps.errors import UsageError

SHAPE = (3, 32, 32)


@pytest.fixture(autouse=True)
def _one_image_of_each_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "data_dir" not in request.fixturenames:
        monkeypatch.setattr(cifar10, "_PER_CLASS", {"train": 1, "test": 1})


def jpegs() -> dict[str, bytes]:
    names = enumerate(CIFAR10.class_names)
    return {f"{name}/0000.jpg": picture(label, SHAPE, "JPEG", quality=75) for label, name in names}


@pytest.mark.parametrize("form", ["train", "train.zip", "train.tar.xz"])
def test_class_folders_are_read_packed_or_not(tmp_path: Path, form: str) -> None:
    write = {"train": write_folder, "train.zip": write_zip}.get(form, write_tar)
    write(tmp_path / "cifar10" / form, jpegs())

    images = read_cifar10("train", tmp_path, False)

    assert images.pixels.shape == (10, *SHAPE)
    assert images.labels.tolist() == list(range(10))
    assert images.note == "JPEG q75 copy"
    assert (images.dataset, images.split) == ("cifar10", "train")


def write_binary(folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Write the original batches with two images each, labels 0 to 9."""
    rows = np.random.default_rng(3).integers(0, 256, size=(10, 3073), dtype=np.uint8)
    rows[:, 0] = range(10)
    (folder / "cifar-10-batches-bin").mkdir()
    for number in range(5):
        path = folder / "cifar-10-batches-bin" / f"data_batch_{number + 1}.bin"
        path.write_bytes(rows[2 * number : 2 * number + 2].tobytes())
    return rows


def test_the_original_batches_go_first_and_have_no_note(tmp_path: Path) -> None:
    write_zip(tmp_path / "cifar10" / "train.zip", jpegs())
    rows = write_binary(tmp_path)

    images = read_cifar10("train", tmp_path, False)

    assert images.labels.tolist() == list(range(10))
    assert images.pixels[7, 2, 31, 30] == rows[7, 1 + 3 * 1024 - 2]  # the last plane is blue
    assert images.pixels.numpy().tobytes() == rows[:, 1:].tobytes()
    assert images.note == ""


def test_a_truncated_batch_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(UsageError, match="6,145 bytes instead of 6,146") as caught:
        read_cifar10("train", tmp_path, False)

    assert caught.value.where == str(file)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    write_binary(tmp_path)

    with pytest.raises(UsageError, match=r"No such file.*test_batch\.bin"):
        read_cifar10("test", tmp_path, False)


def test_a_label_above_nine_is_refused(tmp_path: Path) -> None:
    rows = write_binary(tmp_path)
    rows[1, 0] = 10
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(rows[:2].tobytes())

    with pytest.raises(UsageError, match="a label is 10"):
        read_cifar10("train", tmp_path, False)


def test_what_is_accepted_is_told_in_one_line_where_nothing_is_there(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()

    with pytest.raises(UsageError) as caught:
        read_cifar10("test", tmp_path, False)

    line = str(caught.value)
    assert line.startswith(f"the test images of CIFAR-10 are missing ({tmp_path / 'cifar10' / 'test.zip'}); put ")
    assert "pickles, which are never read" in line
    assert "--data-dir or QCAPS_DATA" in line


@pytest.mark.parametrize(
    ("there", "found", "missing"),
    [
        ([], (), ("cifar10/train.zip", "cifar10/test.zip")),
        (["train.tar"], ("cifar10/train.tar",), ("cifar10/test.zip",)),
        (["train.zip", "test.zip"], ("cifar10/train.zip", "cifar10/test.zip"), ()),
    ],
)
def test_what_is_there_is_told_without_reading_it(
    tmp_path: Path, there: list[str], found: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    write_folder(tmp_path / "cifar10", dict.fromkeys(there, b"no archive"))

    holding = CIFAR10.look(tmp_path)

    assert (holding.found, holding.missing) == (found, missing)


@pytest.mark.real_data
def test_the_real_test_part_is_complete_and_a_jpeg_copy(data_dir: Path) -> None:
    images = read_cifar10("test", data_dir, False)

    assert images.labels.bincount().tolist() == [1000] * 10
    assert images.note == "JPEG q75 copy"


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_training_part_has_the_known_channel_means(data_dir: Path) -> None:
    images = read_cifar10("train", data_dir, False)

    means = images.pixels.to(torch.float64).mean(dim=(0, 2, 3)) / 255
    assert images.labels.bincount().tolist() == [5000] * 10
    assert [round(mean, 4) for mean in means.tolist()] == [0.4913, 0.4821, 0.4465]
