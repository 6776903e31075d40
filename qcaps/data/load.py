"""Images of the splits of a data set, as a spec describes them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from qcaps.data.dataset import DataSet, OpenDataSet, Part, dataset, registered
from qcaps.data.decoded_cache import cache_folder
from qcaps.data.images import ImageSet, Split
from qcaps.data.spec import DataSpec
from qcaps.data.split import evenly, hold_out, hold_out_group
from qcaps.errors import UsageError
from qcaps.progress import OnProgress, silent

# Set by `--offline`, or by whoever wants no download ever.
OFFLINE = "QCAPS_OFFLINE"


def load_split(
    spec: DataSpec,
    split: Split,
    *,
    data_dir: Path | None = None,
    download: bool = True,
    on_progress: OnProgress = silent,
) -> ImageSet:
    """Read the images of one split, prepared as the spec says, without augmentation.

    Parameters
    ----------
    spec
        Names the data set and draws the validation images from its training images.
    split
        Which part to read.
    data_dir
        Folder of all data sets, may be read-only; None means `default_data_dir`.
    download
        Whether missing files may be fetched into the folder.
    on_progress
        Told while a packed set is decoded for the first time.

    Raises
    ------
    UsageError
        If files are missing or damaged, or a class has too few images to be split.
    """
    data = dataset(spec.dataset, spec.content)
    part: Part = "test" if split == "test" else "train"
    return _split_of(data, _read(data, part, data_dir, download, on_progress), split, spec)


def load_training_splits(
    spec: DataSpec, *, data_dir: Path | None = None, download: bool = True, on_progress: OnProgress = silent
) -> tuple[ImageSet, ImageSet]:
    """Read the splits ``train`` and ``validation`` at once, otherwise as `load_split`."""
    data = dataset(spec.dataset, spec.content)
    whole = _read(data, "train", data_dir, download, on_progress)
    return _split_of(data, whole, "train", spec), _split_of(data, whole, "validation", spec)


def known(
    name: str,
    *,
    data_dir: Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Find a data set by its name; one that depends on its files, with the help of these.

    Parameters
    ----------
    name
        Registry name.
    data_dir
        Folder of all data sets.
    size, channels
        Height and width, and number of channels, asked for; only a set that depends on its files can follow.
    on_progress
        Told while pictures are decoded for the first time.

    Raises
    ------
    UsageError
        If the name is unknown, there are no files, or the set has a size of its own.
    """
    found = registered(name)
    if channels not in (None, 1, 3):
        raise UsageError(f"pictures have 1 channel or 3, not {channels}", where="--image-channels")
    if isinstance(found, OpenDataSet):
        return found.survey(data_folder(data_dir), size, channels, on_progress)
    if size is not None or channels is not None:
        raise UsageError(f"{name} has images of its own size", do="leave --image-size and --image-channels out")
    return found


def limited(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """Take some of the images, drawn evenly by class; all of them if no number is given."""
    return images if count is None else images.subset(evenly(images.labels, count, seed))


def data_folder(data_dir: Path | None) -> Path:
    """Give the folder of all data sets: the one named, or else `default_data_dir`."""
    return data_dir.expanduser() if data_dir else default_data_dir()


def default_data_dir() -> Path:
    """Give QCAPS_DATA, or else the folder ``data`` in QCAPS_CACHE, which is ``~/.cache/qcaps`` by default."""
    if named := os.environ.get("QCAPS_DATA"):
        return Path(named).expanduser()
    return cache_folder() / "data"


def _read(data: DataSet, part: Part, data_dir: Path | None, download: bool, on_progress: OnProgress) -> ImageSet:
    return data.read(part, data_folder(data_dir), download and not os.environ.get(OFFLINE), on_progress)


def _split_of(data: DataSet, images: ImageSet, split: Split, spec: DataSpec) -> ImageSet:
    """Pick the images of a split out of their part, by the rule of the set, and prepare them."""
    if split != "test":
        if data.validation_group is not None and images.groups is not None:
            parts = hold_out_group(images.groups, data.validation_group)
        else:
            parts = hold_out(images.labels, spec.validation_per_class, spec.split_seed)
        images = images.subset(parts.left if split == "train" else parts.taken)
    return replace(images, split=split, preparation=spec.preparation.of(test=split == "test"))
