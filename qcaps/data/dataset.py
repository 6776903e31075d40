"""What every data set tells about itself, and how to find one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.data.images import ImageSet
from qcaps.progress import OnProgress
from qcaps.registry import DATASETS

Part = Literal["train", "test"]
Read = Callable[[Part, Path, bool, OnProgress], ImageSet]


@dataclass(frozen=True)
class Holding:
    """What of a data set lies in a folder; found without reading an image.

    Parameters
    ----------
    found, missing
        Paths below the folder.
    """

    found: tuple[str, ...]
    missing: tuple[str, ...]


def holding(folder: Path, places: Mapping[str, Path | None]) -> Holding:
    """Sort where things belong, as paths below a folder, by whether something is there."""
    found = tuple(place.relative_to(folder).as_posix() for place in places.values() if place is not None)
    return Holding(found, tuple(belongs for belongs, place in places.items() if place is None))


def needs_nothing(folder: Path) -> Holding:
    """Tell of a set that needs no files."""
    return Holding((), ())


@dataclass(frozen=True)
class DataSet:
    """One data set; its images are read on demand.

    Parameters
    ----------
    name
        Registry name.
    channels, height, width
        Size of one image as it lies in the source.
    class_names
        Name of every class, by label.
    validation_per_class
        How many training images of every class are held out by default.
    augmentation
        Registry name of what suits its training images best, used unless another is asked for.
    read
        Reads the part named by the first argument from the folder of all data sets; the third argument
        allows a download, the fourth is told how far it is. Raises UsageError if the images cannot be had.
    preparation
        Registry name of how its images are prepared unless another way is asked for.
    look
        Tells what of its files is in the folder of all data sets.
    validation_group
        The group of images (see :class:`~qcaps.data.images.ImageSet`) that validates, in place of a draw.
    """

    name: str
    channels: int
    height: int
    width: int
    class_names: tuple[str, ...]
    validation_per_class: int
    augmentation: str
    read: Read
    preparation: str = "plain"
    look: Callable[[Path], Holding] = needs_nothing
    validation_group: int | None = None


def dataset(name: str) -> DataSet:
    """Find a data set by its registry name.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    found = DATASETS.load(name)
    assert isinstance(found, DataSet)
    return found
