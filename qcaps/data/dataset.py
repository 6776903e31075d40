"""What every data set tells about itself, and how to find one by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.data.images import ImageSet
from qcaps.registry import DATASETS

Part = Literal["train", "test"]
Read = Callable[[Part, Path, bool], ImageSet]


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
        allows a download. Raises UsageError if the images cannot be had.
    preparation
        Registry name of how its images are prepared unless another way is asked for.
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
