from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from qcaps.data import svhn
from qcaps.data.svhn import SVHN, read_svhn
from qcaps.errors import UsageError

COUNT = 12


@pytest.fixture(autouse=True)
def _twelve_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svhn, "_COUNTS", {"train": COUNT, "test": COUNT})


def content() -> dict[str, np.ndarray]:
    """Make what the official files hold: X as rows, columns, channels, images; y from 1 to 10."""
    pixels = np.random.default_rng(3).integers(0, 256, size=(32, 32, 3, COUNT), dtype=np.uint8)
    return {"X": pixels, "y": (np.arange(COUNT, dtype=np.uint8) % 10 + 1)[:, None]}


def write(folder: Path, arrays: dict[str, np.ndarray], place: str = "svhn/train_32x32.mat") -> Path:
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, arrays, do_compression=True)
    return file


@pytest.mark.parametrize("place", ["svhn/train_32x32.mat", "SVHN/train_32x32.mat", "train_32x32.mat"])
def test_images_come_channel_by_channel_and_ten_is_the_digit_zero(tmp_path: Path, place: str) -> None:
    write(tmp_path, content(), place)

    for _ in range(2):
        images = read_svhn("train", tmp_path, False)
        assert images.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
        assert images.pixels.shape == (COUNT, 3, 32, 32)
        for image, channel, row, column in ((0, 0, 0, 1), (7, 2, 30, 4), (11, 1, 31, 31)):
            assert images.pixels[image, channel, row, column] == content()["X"][row, column, channel, image]


def test_a_missing_file_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"test_32x32\.mat of SVHN is missing") as caught:
        read_svhn("test", tmp_path, False)

    assert caught.value.where == str(tmp_path / "svhn" / "test_32x32.mat")


@pytest.mark.parametrize("share", [0.0, 0.005, 0.4, 0.9])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, share: float) -> None:
    file = write(tmp_path, content())
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])

    with pytest.raises(UsageError) as caught:
        read_svhn("train", tmp_path, False)

    assert caught.value.where == str(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"X": content()["X"][..., :-1]},
        {"X": content()["X"].astype(np.float32)},
        {"y": content()["y"][:-1]},
        {"X": np.array([["text"]])},
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, wrong: dict[str, np.ndarray]) -> None:
    file = write(tmp_path, content() | wrong)

    with pytest.raises(UsageError, match="does not hold 8-bit X of 32 x 32 x 3 x 12 and y of 12 values") as caught:
        read_svhn("train", tmp_path, False)

    assert caught.value.where == str(file)


@pytest.mark.parametrize("label", [0, 11])
def test_a_label_out_of_range_is_refused(tmp_path: Path, label: int) -> None:
    arrays = content()
    arrays["y"][5] = label
    write(tmp_path, arrays)

    with pytest.raises(UsageError, match="not one of 1 to 10"):
        read_svhn("train", tmp_path, False)


def test_random_bytes_in_a_file_raise_nothing_but_usage_errors(tmp_path: Path) -> None:
    file = tmp_path / "train_32x32.mat"
    savemat(file, {"X": np.zeros((4, 4), np.uint8), "y": np.zeros((2, 1))})
    whole = file.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(whole)
        for place in generator.integers(124, len(whole), size=3):
            changed[place] = generator.integers(256)
        file.write_bytes(changed)
        with pytest.raises(UsageError):
            read_svhn("train", tmp_path, False)


def test_what_is_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").touch()

    holding = SVHN.look(tmp_path)

    assert holding.found == ("train_32x32.mat",)
    assert holding.missing == ("svhn/test_32x32.mat",)
