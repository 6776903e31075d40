"""Pictures sorted into a folder for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Sequence
from pathlib import Path

import numpy as np

from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.data.pictures import Frame, read_pictures
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent


def first_folder(name: str) -> str:
    """Give the class folder that a picture lies in, however deep; nothing if it lies beside them."""
    folder, inside, _ = name.partition("/")
    return folder if inside else ""


def read_class_folders(
    source: Path,
    frame: Frame,
    *,
    class_of: Callable[[str], str] = first_folder,
    way: str = "",
    most: int | None = None,
    phase: str,
    on_progress: OnProgress = silent,
) -> Decoded:
    """Read pictures that lie in a folder for each class, as a folder or packed, through the cache.

    Parameters
    ----------
    source
        What holds the class folders.
    frame
        The size of the images.
    class_of
        Gives the class of a picture by its name; nothing if it has none, which is an error.
    way
        What else the classes depend on.
    most
        How many pictures a complete set has, if that is known.
    phase, on_progress
        Told while pictures are decoded.

    Returns
    -------
    Decoded
        In the order of the names; labels count the classes found, ascending.

    Raises
    ------
    UsageError
        If a picture lies in no class folder or is damaged, or there are none.
    """

    def check(name: str) -> None:
        if not class_of(name):
            do = "sort the pictures into a folder for each class"
            raise UsageError(f"{quoted(name)} lies in no class folder", where=str(source), do=do)

    def make() -> Decoded:
        pictures = read_pictures(source, frame, check=check, most=most, phase=phase, on_progress=on_progress)
        if not pictures.names:
            raise UsageError("there are no pictures", where=str(source), do="sort some into a folder for each class")
        found, labels = np.unique([class_of(name) for name in pictures.names], return_inverse=True)
        return Decoded(pictures.pixels, labels.astype(np.int64), pictures.quality, class_names=tuple(map(str, found)))

    return decoded_once(source, repr((frame, way)), make)


def of_classes(
    decoded: Decoded,
    class_names: Sequence[str],
    *,
    per_class: int | None = None,
    left_out: Container[str] = (),
    may_lack: bool = False,
    where: str,
) -> Decoded:
    """Label images by the place of their class in a list.

    Parameters
    ----------
    decoded
        Labels count its own classes.
    class_names
        The classes wanted, by label.
    per_class
        How many images a class has in a complete set, if that is known.
    left_out
        Classes whose images are left out; any other class that is not wanted is an error.
    may_lack
        Whether a class may have no image.
    where
        The source, for messages.

    Raises
    ------
    UsageError
        If a class is unknown, or has not as many images as it must have.
    """
    unknown = [name for name in decoded.class_names if name not in class_names and name not in left_out]
    if unknown:
        do = f"known are {', '.join(class_names[:20])}"
        raise UsageError(f"unknown class {quoted(unknown[0])}", where=where, do=do)
    places = {name: label for label, name in enumerate(class_names)}
    labels = np.array([places.get(name, -1) for name in decoded.class_names], dtype=np.int64)[decoded.labels]
    counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
    for name, count in zip(class_names, counts, strict=True):
        if (count == 0 and not may_lack) or (per_class is not None and count != per_class):
            what = f"class {quoted(name)} has {count:,} pictures"
            what += "" if per_class is None else f" instead of {per_class:,}"
            raise UsageError(what, where=where, do="replace it by a complete copy")
    taken = labels >= 0
    pixels = decoded.pixels if taken.all() else decoded.pixels[taken]
    return dataclasses.replace(decoded, pixels=pixels, labels=labels[taken], class_names=tuple(class_names))
