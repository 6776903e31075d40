from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from qcaps.data.idx import read_fashion_mnist, read_mnist
from qcaps.errors import UsageError

IMAGES = "t10k-images-idx3-ubyte"
LABELS = "t10k-labels-idx1-ubyte"


def write_test_part(folder: Path, class_name: str = "MNIST") -> tuple[bytes, bytes]:
    """Write random images and labels as IDX files, and give what lies in them."""
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, size=10_000 * 28 * 28, dtype=np.uint8).tobytes()
    labels = generator.integers(0, 10, size=10_000, dtype=np.uint8).tobytes()
    raw = folder / class_name / "raw"
    raw.mkdir(parents=True)
    (raw / IMAGES).write_bytes(struct.pack(">4I", 2051, 10_000, 28, 28) + pixels)
    (raw / LABELS).write_bytes(struct.pack(">2I", 2049, 10_000) + labels)
    return pixels, labels


def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    pixels, labels = write_test_part(tmp_path)

    images = read_mnist("test", tmp_path, False)

    assert images.pixels.shape == (10_000, 1, 28, 28)
    assert images.pixels.numpy().tobytes() == pixels
    assert images.labels.tolist() == list(labels)
    assert images.labels.dtype == torch.int64
    assert images.indices.tolist() == list(range(10_000))


def test_fashion_mnist_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    pixels, _ = write_test_part(tmp_path, "FashionMNIST")

    images = read_fashion_mnist("test", tmp_path, False)

    assert images.dataset == "fashion-mnist"
    assert images.class_names[9] == "Ankle boot"
    assert images.pixels.numpy().tobytes() == pixels


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_missing_file_is_named_with_its_place_and_the_options(tmp_path: Path, name: str) -> None:
    write_test_part(tmp_path)
    file = tmp_path / "MNIST" / "raw" / name
    file.unlink()

    with pytest.raises(UsageError) as caught:
        read_mnist("test", tmp_path, False)

    line = str(caught.value)
    assert line.startswith(f"{name} of MNIST is missing ({file}); put ")
    assert "--data-dir or QCAPS_DATA" in line


@pytest.mark.parametrize("name", [IMAGES, LABELS])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused_by_name(tmp_path: Path, name: str, change: int) -> None:
    write_test_part(tmp_path)
    file = tmp_path / "MNIST" / "raw" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] if change < 0 else content + b"x")

    with pytest.raises(UsageError, match=f"{len(content) + change:,} bytes instead of {len(content):,}") as caught:
        read_mnist("test", tmp_path, False)

    assert caught.value.where == str(file)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write_test_part(tmp_path)
    (tmp_path / "MNIST" / "raw" / IMAGES).write_bytes(b"")

    with pytest.raises(UsageError, match="0 bytes instead of"):
        read_mnist("test", tmp_path, False)


@pytest.mark.parametrize("header", [(2049, 10_000, 28, 28), (2051, 10_000, 14, 56), (0, 0, 0, 0)])
def test_a_file_with_another_header_is_refused(tmp_path: Path, header: tuple[int, ...]) -> None:
    write_test_part(tmp_path)
    file = tmp_path / "MNIST" / "raw" / IMAGES
    file.write_bytes(struct.pack(">4I", *header) + file.read_bytes()[16:])

    with pytest.raises(UsageError, match="not an IDX file of 10000 x 28 x 28 bytes") as caught:
        read_mnist("test", tmp_path, False)

    assert caught.value.where == str(file)


def test_a_label_above_nine_is_refused(tmp_path: Path) -> None:
    write_test_part(tmp_path)
    file = tmp_path / "MNIST" / "raw" / LABELS
    file.write_bytes(file.read_bytes()[:-1] + bytes([10]))

    with pytest.raises(UsageError, match="a label is 10") as caught:
        read_mnist("test", tmp_path, False)

    assert caught.value.where == str(file)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_test_part(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "fromfile", refuse)

    with pytest.raises(UsageError, match="cannot read the file: Permission denied"):
        read_mnist("test", tmp_path, False)


def test_missing_files_are_downloaded_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(folder: Path, *, download: bool) -> None:
        assert download
        write_test_part(folder)

    monkeypatch.setattr(datasets, "MNIST", fetch)

    assert len(read_mnist("test", tmp_path, True)) == 10_000


def test_files_that_are_there_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_test_part(tmp_path)
    monkeypatch.setattr(datasets, "MNIST", None)

    assert len(read_mnist("test", tmp_path, True)) == 10_000


@pytest.mark.parametrize("part", ["train", "test"])
def test_nothing_is_downloaded_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(datasets, "MNIST", None)

    with pytest.raises(UsageError, match="is missing"):
        read_mnist(part, tmp_path, False)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error downloading:\nTried mirror, got:\n<no network>\n"),
        TimeoutError("<no network>"),
        PermissionError("<no network>"),
        EOFError("<no network>"),
    ],
)
def test_a_failed_download_is_one_quiet_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(folder: Path, *, download: bool) -> None:
        print("Downloading to", folder)
        print("0%", file=sys.stderr)
        raise error

    monkeypatch.setattr(datasets, "MNIST", fail)

    with pytest.raises(UsageError) as caught:
        read_mnist("test", tmp_path, True)

    assert str(caught.value).startswith(
        f"{IMAGES} of MNIST is missing and cannot be downloaded: '<no network>' ({tmp_path}"
    )
    assert capfd.readouterr() == ("", "")


def test_a_download_gives_up_on_a_silent_network_and_restores_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fail(folder: Path, *, download: bool) -> None:
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(datasets, "MNIST", fail)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(33.0)
    try:
        with pytest.raises(UsageError, match="timed out"):
            read_mnist("test", tmp_path, True)
        after = socket.getdefaulttimeout()
    finally:
        socket.setdefaulttimeout(before)

    assert seen[0] is not None
    assert 0 < seen[0] <= 15
    assert after == 33.0


@pytest.mark.real_data
def test_mnist_has_its_published_class_counts(data_dir: Path) -> None:
    train, test = (read_mnist(part, data_dir, False) for part in ("train", "test"))

    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.real_data
def test_fashion_mnist_has_as_many_images_of_each_class(data_dir: Path) -> None:
    train, test = (read_fashion_mnist(part, data_dir, False) for part in ("train", "test"))

    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10


@pytest.mark.real_data
@pytest.mark.parametrize("part", ["train", "test"])
def test_mnist_is_read_as_torchvision_reads_it(data_dir: Path, part: str) -> None:
    reference = datasets.MNIST(data_dir, train=part == "train", download=False)

    images = read_mnist(part, data_dir, False)

    assert torch.equal(images.pixels[:, 0], reference.data)
    assert torch.equal(images.labels, reference.targets)
