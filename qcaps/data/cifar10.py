"""CIFAR-10: pictures in class folders, packed or not, or the original binary batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from qcaps.data.archives import folder_or_packed
from qcaps.data.class_folders import of_classes, read_class_folders
from qcaps.data.dataset import DataSet, Holding, Part, holding
from qcaps.data.decoded_cache import Decoded
from qcaps.data.images import ImageSet, image_set
from qcaps.data.pictures import Frame
from qcaps.errors import UsageError
from qcaps.progress import OnProgress, silent

_PER_CLASS: dict[Part, int] = {"train": 5_000, "test": 1_000}
_BINARY = "cifar-10-batches-bin"
_BATCHES: dict[Part, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_FRAME = Frame(3, 32, 32)


def read_cifar10(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read CIFAR-10 from below `folder`; nothing is downloaded.

    The first of these that is there is taken: the binary batches in ``cifar-10-batches-bin``; class folders in
    ``cifar10/train`` and ``cifar10/test``; the same packed. The batches for Python are pickles and are never read.

    Raises
    ------
    UsageError
        If none is there, or it is damaged or incomplete.
    """
    if (folder / _BINARY).is_dir():
        return image_set(CIFAR10.name, part, _read_binary(part, folder / _BINARY), CIFAR10.class_names)
    source = folder_or_packed(folder / "cifar10", part)
    if source is None:
        raise UsageError(
            f"the {part} images of CIFAR-10 are missing",
            where=str(folder / "cifar10" / f"{part}.zip"),
            do=f"put class folders there, packed or not, or {_BINARY} beside it (the batches for Python are pickles, "
            "which are never read); or name another folder with --data-dir or QCAPS_DATA",
        )
    decoded = read_class_folders(
        source,
        _FRAME,
        most=_PER_CLASS[part] * len(CIFAR10.class_names),
        phase=f"decode cifar10 {part}",
        on_progress=on_progress,
    )
    decoded = of_classes(decoded, CIFAR10.class_names, per_class=_PER_CLASS[part], where=str(source))
    note = decoded.note and f"{decoded.note} copy"
    return image_set(CIFAR10.name, part, dataclasses.replace(decoded, note=note), CIFAR10.class_names)


def _read_binary(part: Part, folder: Path) -> Decoded:
    """Read batches of rows: a byte for the label, then the pixels of an image, channel by channel."""
    row = 1 + int(np.prod(_FRAME.shape))
    rows = _PER_CLASS[part] * len(CIFAR10.class_names) // len(_BATCHES[part])
    batches = []
    for name in _BATCHES[part]:
        file = folder / name
        try:
            content = np.fromfile(file, dtype=np.uint8)
        except OSError as error:
            raise UsageError(f"cannot read the file: {error.strerror}", where=str(file)) from error
        if content.size != row * rows:
            what = f"the file has {content.size:,} bytes instead of {row * rows:,}"
            raise UsageError(what, where=str(file), do="replace it by the complete, unpacked file")
        batches.append(content.reshape(rows, row))
    whole = np.concatenate(batches)
    labels = whole[:, 0].astype(np.int64)
    if labels.max() >= len(CIFAR10.class_names):
        raise UsageError(f"a label is {labels.max()}", where=str(folder), do="replace the files")
    return Decoded(np.ascontiguousarray(whole[:, 1:]).reshape(-1, *_FRAME.shape), labels)


def _look(folder: Path) -> Holding:
    if (folder / _BINARY).is_dir():
        names = [name for batches in _BATCHES.values() for name in batches]
        files = [(f"{_BINARY}/{name}", folder / _BINARY / name) for name in names]
        return holding(folder, {place: file if file.is_file() else None for place, file in files})
    parts: tuple[Part, ...] = ("train", "test")
    return holding(folder, {f"cifar10/{part}.zip": folder_or_packed(folder / "cifar10", part) for part in parts})


CIFAR10 = DataSet(
    name="cifar10",
    channels=_FRAME.channels,
    height=_FRAME.height,
    width=_FRAME.width,
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    validation_per_class=500,
    augmentation="cifar-q-capsnets",
    read=read_cifar10,
    look=_look,
)
