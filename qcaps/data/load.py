"""Images of one split of a data set, as a spec describes it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from qcaps.data.dataset import dataset
from qcaps.data.images import ImageSet, Split
from qcaps.data.spec import DataSpec
from qcaps.data.split import hold_out

# Set by `--offline`, or by whoever wants no download ever.
OFFLINE = "QCAPS_OFFLINE"


def load_split(spec: DataSpec, split: Split, *, data_dir: Path | None = None, download: bool = True) -> ImageSet:
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

    Raises
    ------
    UsageError
        If files are missing or damaged, or a class has too few images to be split.
    """
    data = dataset(spec.dataset)
    download = download and not os.environ.get(OFFLINE)
    folder = data_dir.expanduser() if data_dir else default_data_dir()
    preparation = spec.preparation.of(test=split == "test")
    if split == "test":
        return replace(data.read("test", folder, download), preparation=preparation)
    images = replace(data.read("train", folder, download), preparation=preparation)
    parts = hold_out(images.labels, spec.validation_per_class, spec.split_seed)
    return replace(images.subset(parts.left if split == "train" else parts.taken), split=split)


def default_data_dir() -> Path:
    """Give QCAPS_DATA, or else the folder ``data`` in QCAPS_CACHE, which is ``~/.cache/qcaps`` by default."""
    if named := os.environ.get("QCAPS_DATA"):
        return Path(named).expanduser()
    return Path(os.environ.get("QCAPS_CACHE") or "~/.cache/qcaps").expanduser() / "data"
