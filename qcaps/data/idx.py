"""MNIST and Fashion-MNIST from their IDX files, in the folders that torchvision uses."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from qcaps.data.dataset import DataSet, Holding, Part, holding
from qcaps.data.images import ImageSet
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent

_COUNTS: dict[Part, int] = {"train": 60_000, "test": 10_000}
_PREFIXES: dict[Part, str] = {"train": "train", "test": "t10k"}
_SIZE = 28
_NETWORK_TIMEOUT_S = 5.0


def read_mnist(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read MNIST from ``MNIST/raw`` below `folder`, or raise UsageError."""
    return _read(MNIST, "MNIST", part, folder, download=download)


def read_fashion_mnist(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read Fashion-MNIST from ``FashionMNIST/raw`` below `folder`, or raise UsageError."""
    return _read(FASHION_MNIST, "FashionMNIST", part, folder, download=download)


def _read(data: DataSet, class_name: str, part: Part, folder: Path, *, download: bool) -> ImageSet:
    """Read one part of a set that torchvision knows by `class_name`."""
    images_file, labels_file = _files(class_name, part, folder)
    _require([images_file, labels_file], class_name, folder, download=download)
    count = _COUNTS[part]
    pixels = _payload(images_file, count, _SIZE, _SIZE)
    labels = _payload(labels_file, count)
    if labels.max() >= len(data.class_names):
        raise UsageError(f"a label is {labels.max()}", where=str(labels_file), do="replace the file")
    return ImageSet(
        data.name,
        part,
        torch.from_numpy(pixels).unsqueeze(1),
        torch.from_numpy(labels.astype(np.int64)),
        torch.arange(count),
        data.class_names,
    )


def _files(class_name: str, part: Part, folder: Path) -> tuple[Path, Path]:
    """Give where images and labels of one part belong."""
    start = folder / class_name / "raw" / _PREFIXES[part]
    return Path(f"{start}-images-idx3-ubyte"), Path(f"{start}-labels-idx1-ubyte")


def _look(class_name: str, folder: Path) -> Holding:
    parts: tuple[Part, ...] = ("train", "test")
    files = [file for part in parts for file in _files(class_name, part, folder)]
    return holding(folder, {file.relative_to(folder).as_posix(): file if file.is_file() else None for file in files})


def _require(files: list[Path], class_name: str, folder: Path, *, download: bool) -> None:
    """See to it that the files are there, by a download if that is allowed."""
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return
    failure = _download(class_name, folder) if download else ""
    still_missing = [file for file in files if not file.is_file()]
    if still_missing:
        raise UsageError(
            f"{still_missing[0].name} of {class_name} is missing{failure}",
            where=str(still_missing[0]),
            do="put the uncompressed file there, or name another folder with --data-dir or QCAPS_DATA",
        )


def _download(class_name: str, folder: Path) -> str:
    """Let torchvision fetch all files of a set, silently; tell why if it cannot."""
    # Imported here: it takes longer than reading the files.
    from torchvision import datasets

    try:
        with (
            _short_timeout(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            getattr(datasets, class_name)(folder, download=True)
    except (RuntimeError, OSError, EOFError, http.client.HTTPException) as error:
        # torchvision tells of every mirror on a line of its own.
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return f" and cannot be downloaded: {quoted(reason[0])}"
    return ""


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    """Give up on a silent network; torchvision offers no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _payload(file: Path, *shape: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file of bytes that must have exactly this shape."""
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise UsageError(f"cannot read the file: {error.strerror}", where=str(file)) from error
    expected = len(header) + int(np.prod(shape))
    if len(content) != expected:
        raise UsageError(
            f"the file has {len(content):,} bytes instead of {expected:,}",
            where=str(file),
            do="replace it by the complete, uncompressed file, or delete it to download it again",
        )
    if content[: len(header)].tobytes() != header:
        raise UsageError(
            f"not an IDX file of {' x '.join(map(str, shape))} bytes", where=str(file), do="replace the file"
        )
    return content[len(header) :].reshape(shape)


MNIST = DataSet(
    name="mnist",
    channels=1,
    height=_SIZE,
    width=_SIZE,
    class_names=tuple("0123456789"),
    validation_per_class=500,
    augmentation="efficient-capsnet",
    read=read_mnist,
    look=partial(_look, "MNIST"),
)

FASHION_MNIST = DataSet(
    name="fashion-mnist",
    channels=1,
    height=_SIZE,
    width=_SIZE,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    validation_per_class=500,
    augmentation="shift-flip",
    read=read_fashion_mnist,
    look=partial(_look, "FashionMNIST"),
)
