"""smallNORB: pairs of pictures of 50 toys, as JPEG copies in a tar or as the original binary files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from qcaps.data.archives import folder_or_packed
from qcaps.data.dataset import DataSet, Holding, Part, holding
from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.data.images import ImageSet, image_set
from qcaps.data.pictures import Frame, read_pictures
from qcaps.data.smallnorb_binary import KINDS, binary_file, read_binary
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent

CLASSES = ("animal", "human", "airplane", "truck", "car")
# The toy of every class whose pictures validate: neighbouring views of one toy are nearly the same picture.
VALIDATION_INSTANCE = 9
_PAIRS = 24_300
_FRAME = Frame(1, 96, 96)
_NAME = re.compile(r"(?P<folder>[a-z]+)/(?P<index>\d{6})_(?P<name>[a-z]+)_(?P<instance>\d\d)_(?P<camera>lt|rt)\.jpg")


def read_smallnorb(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read smallNORB from ``smallNORB`` below `folder`; nothing is downloaded.

    The left camera's picture is channel 0 and the right one's channel 1; groups are the numbers of the toys. The
    original binary files (``.mat`` or ``.mat.gz``) are taken if they are there, else pictures named
    ``CLASS/INDEX_CLASS_INSTANCE_CAMERA.jpg`` in the folder of the part, packed or not; INDEX is the place in the
    original files.

    Raises
    ------
    UsageError
        If neither is there, or it is damaged or incomplete.
    """
    place = folder / "smallNORB"
    source = folder_or_packed(place, part)
    if binary_file(place, part, "dat") is not None:
        decoded = read_binary(part, place, _PAIRS, len(CLASSES))
    elif source is not None:
        decoded = decoded_once(source, SMALLNORB.name, lambda: _decode(source, f"decode smallnorb {part}", on_progress))
    else:
        raise UsageError(
            f"the {part} images of smallNORB are missing",
            where=str(place / f"{part}.tar.xz"),
            do="put them or the original .mat files there, or name another folder with --data-dir or QCAPS_DATA",
        )
    return image_set(SMALLNORB.name, part, decoded, CLASSES)


def _decode(source: Path, phase: str, on_progress: OnProgress) -> Decoded:
    """Decode the pictures, pair the cameras, and bring the pairs into the order of the original files."""

    def parsed(name: str) -> re.Match[str]:
        found = _NAME.fullmatch(name)
        if found is None or found["name"] not in CLASSES or found["folder"] != found["name"]:
            do = f"pictures are named CLASS/INDEX_CLASS_INSTANCE_CAMERA.jpg, classes are {', '.join(CLASSES)}"
            raise UsageError(f"{quoted(name)} is no picture of smallNORB", where=str(source), do=do)
        return found

    pictures = read_pictures(source, _FRAME, check=parsed, most=2 * _PAIRS, phase=phase, on_progress=on_progress)
    names = [parsed(name) for name in pictures.names]
    # Ascending names put the left picture of every pair right before the right one.
    left, right = names[::2], names[1::2]
    pairs = [one[0].replace("_lt.", "_rt.") == other[0] for one, other in zip(left, right, strict=False)]
    indices = np.array([int(name["index"]) for name in left], dtype=np.int64)
    if len(names) != 2 * _PAIRS or not all(pairs) or len(np.unique(indices)) < _PAIRS:
        what = f"there are {len(names):,} pictures instead of both of {_PAIRS:,} pairs"
        raise UsageError(what, where=str(source), do="replace it by a complete copy")
    order = np.argsort(indices)
    labels = np.array([CLASSES.index(name["name"]) for name in left], dtype=np.int64)
    instances = np.array([int(name["instance"]) for name in left], dtype=np.int64)
    pixels = pictures.pixels.reshape(_PAIRS, 2, *_FRAME.shape[1:])[order]
    return Decoded(pixels, labels[order], f"{pictures.quality} copy", instances[order])


def _look(folder: Path) -> Holding:
    place = folder / "smallNORB"
    places: dict[str, Path | None] = {}
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        binary = {kind: binary_file(place, part, kind) for kind in KINDS}
        if binary["dat"] is not None:
            places |= {f"smallNORB/{part} {kind}.mat": file for kind, file in binary.items()}
        else:
            places[f"smallNORB/{part}.tar.xz"] = folder_or_packed(place, part)
    return holding(folder, places)


SMALLNORB = DataSet(
    name="smallnorb",
    channels=2,
    height=_FRAME.height,
    width=_FRAME.width,
    class_names=CLASSES,
    validation_per_class=972,
    augmentation="norb-efficient",
    read=read_smallnorb,
    preparation="norb-efficient",
    look=_look,
    validation_group=VALIDATION_INSTANCE,
)
