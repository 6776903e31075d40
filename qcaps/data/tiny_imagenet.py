"""Tiny-ImageNet: the official folder of 200 classes, or a packed subset of 50 of them."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path, PurePosixPath

from qcaps.data.archives import folder_or_packed
from qcaps.data.class_folders import first_folder, of_classes, read_class_folders
from qcaps.data.dataset import Content, DataSet, Holding, OpenDataSet, Part, holding
from qcaps.data.images import ImageSet, image_set
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent

_ALL = 200
# Folder and, inside, the list of its classes: of each line, what stands before a tab.
_PLACES = (("tiny-imagenet-200", "wnids.txt"), ("tiny-imagenet-50of200-64x64", "classes.tsv"))
_PER_CLASS: dict[Part, int] = {"train": 500, "test": 50}
# The labels of the test pictures were never published: validation pictures are our test part.
_NAMES: dict[Part, str] = {"train": "train", "test": "val"}
_SIZE = 64


def read_tiny_imagenet(
    content: Content, part: Part, folder: Path, download: bool, on_progress: OnProgress = silent
) -> ImageSet:
    """Read the classes that are asked for, grey pictures as colours; nothing is downloaded.

    The first of these below `folder` that is there is taken: ``tiny-imagenet-200`` as it is distributed, or
    ``tiny-imagenet-50of200-64x64`` with class folders in ``train`` and ``val``, packed or not.

    Raises
    ------
    UsageError
        If neither is there, or it is damaged, incomplete, or misses a class.
    """
    place, listed = _listed(folder)
    source = folder_or_packed(place, _NAMES[part])
    if source is None:
        raise _missing(place / f"{_NAMES[part]}.tar.xz")
    annotations = source / "val_annotations.txt"
    class_of, way = first_folder, ""
    if annotations.is_file():
        by_picture = dict(line.split("\t")[:2] for line in _text(annotations).splitlines() if "\t" in line)
        way = hashlib.sha256(repr(by_picture).encode()).hexdigest()

        def class_of(name: str) -> str:
            return by_picture.get(PurePosixPath(name).name, "")

    decoded = read_class_folders(
        source,
        content.frame,
        class_of=class_of,
        way=way,
        most=_PER_CLASS[part] * len(listed),
        phase=f"decode tiny-imagenet {part}",
        on_progress=on_progress,
    )
    classes = content.class_names
    decoded = of_classes(decoded, classes, per_class=_PER_CLASS[part], left_out=listed, where=str(source))
    # The pictures were JPEGs from the beginning.
    note = "" if len(classes) == _ALL else f"{len(classes)} of {_ALL} classes"
    return image_set(TINY_IMAGENET.name, part, dataclasses.replace(decoded, note=note), classes)


def _listed(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Find the set, and the classes that its own list names."""
    for place, names in _PLACES:
        file = folder / place / names
        if file.is_file():
            found = sorted(line.split("\t")[0].strip() for line in _text(file).splitlines() if line.strip())
            if len(set(found)) != len(found) or not 2 <= len(found) <= _ALL:
                raise UsageError(f"the list names {len(found)} classes", where=str(file), do="replace it")
            return folder / place, tuple(found)
    raise _missing(folder / _PLACES[0][0] / _PLACES[0][1])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the file: {quoted(str(error))}", where=str(file), do="replace it") from error


def _missing(place: Path) -> UsageError:
    return UsageError(
        "Tiny-ImageNet is missing or incomplete",
        where=str(place),
        do="put the unpacked folder tiny-imagenet-200 there, or name another folder with --data-dir or QCAPS_DATA",
    )


def _described(content: Content) -> DataSet:
    return DataSet(
        name=TINY_IMAGENET.name,
        channels=content.channels,
        height=content.height,
        width=content.width,
        class_names=content.class_names,
        validation_per_class=50,
        augmentation="tiny-towards-efficient",
        read=partial(read_tiny_imagenet, content),
        content=content,
    )


def _survey(folder: Path, size: tuple[int, int] | None, channels: int | None, on_progress: OnProgress) -> DataSet:
    height, width = size or (_SIZE, _SIZE)
    _, listed = _listed(folder)
    return _described(Content(channels or 3, height, width, size is not None, listed))


def _look(folder: Path) -> Holding:
    place, names = next((each for each in _PLACES if (folder / each[0]).is_dir()), _PLACES[0])
    list_file = folder / place / names
    places: dict[str, Path | None] = {f"{place}/{names}": list_file if list_file.is_file() else None}
    places |= {f"{place}/{name}": folder_or_packed(folder / place, name) for name in _NAMES.values()}
    return holding(folder, places)


TINY_IMAGENET = OpenDataSet(name="tiny-imagenet", survey=_survey, described=_described, look=_look)
