"""Any user's own pictures, sorted into class folders."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import torch

from qcaps.data.archives import PACKED, files, folder_or_packed
from qcaps.data.class_folders import of_classes, read_class_folders
from qcaps.data.dataset import Content, DataSet, Holding, OpenDataSet, Part, holding
from qcaps.data.decoded_cache import Decoded
from qcaps.data.images import ImageSet, image_set
from qcaps.data.pictures import LARGEST_FILE, Frame, frame_of, is_picture
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent

# Of pictures without a part of their own for tests, every class gives this share, the same for every split seed.
_TEST_SHARE = 5
_TEST_SEED = 20_000
# One training picture of so many validates, counted in the smallest class.
_VALIDATION_SHARE = 10


def read_own_images(
    content: Content, part: Part, folder: Path, download: bool, on_progress: OnProgress = silent
) -> ImageSet:
    """Read pictures in class folders: ``train`` and ``test`` below `folder`, packed or not, or `folder` itself.

    `folder` itself, which may be a packed file, has no test part: a fifth of every class is drawn for it, always the
    same one. Pictures in ``test`` may lack a class, but have no other ones.

    Raises
    ------
    UsageError
        If there are no pictures, one is damaged or of another size, or a class is unknown.
    """
    source = _source(part, folder)
    decoded = _decoded(source, part, content.frame, on_progress)
    if source == folder:
        decoded = of_classes(decoded, content.class_names, where=str(source))
        in_test = _in_test(decoded.labels)
        taken = in_test if part == "test" else ~in_test
        whole = image_set(OWN_IMAGES.name, part, decoded, content.class_names)
        return whole.subset(torch.from_numpy(np.flatnonzero(taken)))
    decoded = of_classes(decoded, content.class_names, may_lack=part == "test", where=str(source))
    return image_set(OWN_IMAGES.name, part, decoded, content.class_names)


def _source(part: Part, folder: Path) -> Path:
    """Find the pictures of a part: in a folder or file of its own, or among all others."""
    found = {name: folder_or_packed(folder, name) for name in ("train", "test")}
    source = found[part]
    if source is not None:
        return source
    if any(found.values()):
        raise UsageError(
            f"the pictures of {part} are missing",
            where=str(folder / part),
            do="put class folders there, packed or not",
        )
    if not folder.is_dir() and not folder.name.endswith(PACKED):
        raise UsageError(
            "there are no pictures",
            where=str(folder),
            do="name with --data-dir a folder that holds train and test, or class folders, or these as a zip or tar",
        )
    return folder


def _decoded(source: Path, part: str, frame: Frame, on_progress: OnProgress) -> Decoded:
    decoded = read_class_folders(source, frame, phase=f"decode {part}", on_progress=on_progress)
    return dataclasses.replace(decoded, note="")  # JPEG or not, they are the originals


def _in_test(labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool]]:
    """Draw a fifth of every class, at least one image."""
    generator = np.random.default_rng(_TEST_SEED)
    drawn = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        drawn[positions[: max(1, len(positions) // _TEST_SHARE)]] = True
    return drawn


def _survey(folder: Path, size: tuple[int, int] | None, channels: int | None, on_progress: OnProgress) -> DataSet:
    """Look at the training pictures: their classes, and the size of the first one unless another is asked for."""
    source = _source("train", folder)
    frame = Frame(channels or 3, *size, resize=True) if size and channels else _frame(source, size, channels)
    decoded = _decoded(source, "train", frame, on_progress)
    content = Content(*frame.shape, frame.resize, decoded.class_names)
    if misfit := content.misfit():
        raise UsageError(f"these pictures cannot be a data set: {misfit}", where=str(source))
    labels = decoded.labels if source != folder else decoded.labels[~_in_test(decoded.labels)]
    smallest = int(np.bincount(labels).min())
    return dataclasses.replace(_described(content), validation_per_class=max(1, smallest // _VALIDATION_SHARE))


def _frame(source: Path, size: tuple[int, int] | None, channels: int | None) -> Frame:
    """Take what is not asked for from the first picture."""
    for name, content in files(source, is_picture, file_bytes=LARGEST_FILE):
        try:
            first = frame_of(content)
        except ValueError as error:
            raise UsageError(f"{quoted(name)} {error}", where=str(source), do="replace or remove it") from error
        height, width = size or (first.height, first.width)
        return Frame(channels or first.channels, height, width, resize=size is not None)
    raise UsageError("there are no pictures", where=str(source), do="sort some into a folder for each class")


def _described(content: Content) -> DataSet:
    return DataSet(
        name=OWN_IMAGES.name,
        channels=content.channels,
        height=content.height,
        width=content.width,
        class_names=content.class_names,
        validation_per_class=1,
        augmentation="none",
        read=partial(read_own_images, content),
        content=content,
    )


def _look(folder: Path) -> Holding:
    return holding(folder, {name: folder_or_packed(folder, name) for name in ("train", "test")})


OWN_IMAGES = OpenDataSet(name="images", survey=_survey, described=_described, look=_look)
