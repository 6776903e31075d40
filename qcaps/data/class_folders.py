"""Pictures sorted into a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.data.pictures import Frame, read_pictures
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent


def read_class_folders(
    source: Path,
    class_folders: Sequence[str],
    frame: Frame,
    *,
    per_class: int | None = None,
    phase: str,
    on_progress: OnProgress = silent,
) -> Decoded:
    """Read pictures that lie in a folder for each class, as a folder or packed, through the cache.

    Parameters
    ----------
    source
        What holds the class folders.
    class_folders
        Name of the folder of every class, by label. Pictures may lie anywhere below it.
    frame
        The size of the images.
    per_class
        How many pictures a class has in the complete set, where it is a known one.
    phase, on_progress
        Told while pictures are decoded.

    Returns
    -------
    Decoded
        In the order of the names; its note tells of JPEG.

    Raises
    ------
    UsageError
        If a picture lies in no known class folder, is damaged, or a class misses pictures.
    """
    labels = {name: label for label, name in enumerate(class_folders)}
    most = None if per_class is None else per_class * len(labels)

    def label_of(name: str) -> int:
        folder, inside, _ = name.partition("/")
        if inside and folder in labels:
            return labels[folder]
        what = f"{quoted(name)} lies in no class folder" if not inside else f"unknown class {quoted(folder)}"
        raise UsageError(what, where=str(source), do=f"known are {', '.join(class_folders[:20])}")

    def make() -> Decoded:
        pictures = read_pictures(source, frame, check=label_of, most=most, phase=phase, on_progress=on_progress)
        found = np.array([label_of(name) for name in pictures.names], dtype=np.int64)
        return Decoded(pictures.pixels, found, pictures.quality)

    decoded = decoded_once(source, repr((class_folders, frame)), make)
    counts = np.bincount(decoded.labels, minlength=len(labels))
    least = 1 if per_class is None else per_class
    for name, count in zip(class_folders, counts, strict=True):
        if count < least or (per_class is not None and count > per_class):
            what = f"class {quoted(name)} has {count:,} pictures instead of {least:,}"
            raise UsageError(what, where=str(source), do="replace it by a complete copy")
    return decoded
