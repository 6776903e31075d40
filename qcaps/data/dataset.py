"""What every data set tells about itself, and how to find one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.data.images import ImageSet
from qcaps.data.pictures import Frame
from qcaps.errors import UsageError
from qcaps.progress import OnProgress
from qcaps.registry import DATASETS

_LARGEST_SIDE = 1024
_MOST_CLASSES = 10_000

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
class Content:
    """Size and classes of images that are known only with the files: plain data for file headers.

    Parameters
    ----------
    channels, height, width
        Size of one image, as `Frame` has it.
    resize
        Whether pictures of another size are brought to this one; otherwise they are errors.
    class_names
        Name of the folder of every class, by label.
    """

    channels: int
    height: int
    width: int
    resize: bool
    class_names: tuple[str, ...]

    @property
    def frame(self) -> Frame:
        """Give the size as readers of pictures take it."""
        return Frame(self.channels, self.height, self.width, self.resize)

    def misfit(self) -> str:
        """Say what is wrong with these values, or nothing; types are checked too, they may come out of a file."""
        if type(self.channels) is not int or self.channels not in (1, 3):
            return "pictures have 1 channel or 3"
        if not all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in (self.height, self.width)):
            return f"height and width are 1 to {_LARGEST_SIDE}"
        if type(self.resize) is not bool:
            return "resize is true or false"
        names = self.class_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            return "class names are a list of texts"
        if not 2 <= len(set(names)) == len(names) <= _MOST_CLASSES:
            return f"there are 2 to {_MOST_CLASSES} classes of different names"
        return ""


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
    content
        What its files say of its images, if the set does not know it without them.
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
    content: Content | None = None


@dataclass(frozen=True)
class OpenDataSet:
    """A data set whose images have the size and the classes of whatever files the user has.

    Parameters
    ----------
    name
        Registry name.
    survey
        Finds out with the files in the folder of all data sets; height and width, and channels, may be asked for.
        Raises UsageError if there are none.
    described
        Gives the set of a known content, wherever its files are.
    look
        Tells what of its files is in the folder of all data sets.
    """

    name: str
    survey: Callable[[Path, tuple[int, int] | None, int | None, OnProgress], DataSet]
    described: Callable[[Content], DataSet]
    look: Callable[[Path], Holding]


def dataset(name: str, content: Content | None = None) -> DataSet:
    """Find a data set by its registry name.

    Parameters
    ----------
    name
        Registry name.
    content
        What is known of the images of a set that depends on its files; None for every other set.

    Raises
    ------
    UsageError
        If the name is unknown, or the content does not fit to it.
    """
    found = registered(name)
    if isinstance(found, OpenDataSet):
        if content is None:
            raise UsageError(f"size and classes of {name} are known only with its files")
        return found.described(content)
    if content is not None:
        raise UsageError(f"{name} has a size and classes of its own")
    return found


def registered(name: str) -> DataSet | OpenDataSet:
    """Give what a registry name of a data set stands for, or raise UsageError."""
    found = DATASETS.load(name)
    assert isinstance(found, DataSet | OpenDataSet)
    return found
