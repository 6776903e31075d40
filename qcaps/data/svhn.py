"""SVHN, the street-view house numbers cropped to 32x32, from its MATLAB files."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from qcaps.data.dataset import DataSet, Holding, Part, holding
from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.data.images import ImageSet, image_set
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, silent

_COUNTS: dict[Part, int] = {"train": 73_257, "test": 26_032}
_SIZE = 32
# Version 5 of the format, the official one; hostile files raise almost anything.
_DAMAGE = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)


def read_svhn(part: Part, folder: Path, download: bool, on_progress: OnProgress = silent) -> ImageSet:
    """Read ``train_32x32.mat`` or ``test_32x32.mat`` from ``svhn``, ``SVHN`` or `folder` itself; no download.

    The label 10 of the files is the digit 0. The part called "extra" is not used.

    Raises
    ------
    UsageError
        If the file is missing, damaged or incomplete.
    """
    file = _find(part, folder)
    if file is None:
        name = f"{part}_32x32.mat"
        raise UsageError(
            f"{name} of SVHN is missing",
            where=str(folder / "svhn" / name),
            do="put the file there, or name another folder with --data-dir or QCAPS_DATA",
        )
    return image_set(SVHN.name, part, decoded_once(file, SVHN.name, lambda: _decode(part, file)), SVHN.class_names)


def _find(part: Part, folder: Path) -> Path | None:
    places = (folder / inside / f"{part}_32x32.mat" for inside in ("svhn", "SVHN", "."))
    return next((file for file in places if file.is_file()), None)


def _decode(part: Part, file: Path) -> Decoded:
    """Read X, shape ``(32, 32, 3, n)``, and y, shape ``(n, 1)``, after a look at what the file says of them."""
    # Imported here: no other set needs it.
    from scipy.io import loadmat, matlab, whosmat

    count = _COUNTS[part]
    wanted = {"X": (_SIZE, _SIZE, 3, count), "y": (count, 1)}
    try:
        shapes = {name: shape for name, shape, kind in whosmat(file, appendmat=False) if kind in ("uint8", "double")}
        fits = all(shapes.get(name) == shape for name, shape in wanted.items())
        found = loadmat(file, appendmat=False, variable_names=list(wanted)) if fits else {}
    except (*_DAMAGE, matlab.MatReadError, zlib.error) as error:
        reason = quoted(str(error) or type(error).__name__)
        raise UsageError(f"not a readable MATLAB file: {reason}", where=str(file), do="replace it") from error
    if not fits:
        what = f"the file does not hold 8-bit X of {' x '.join(map(str, wanted['X']))} and y of {count} values"
        raise UsageError(what, where=str(file), do="replace it by the complete file")
    labels = found["y"].ravel().astype(np.int64)
    if labels.min() < 1 or labels.max() > len(SVHN.class_names):
        raise UsageError("a label is not one of 1 to 10", where=str(file), do="replace it")
    pixels = np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1), dtype=np.uint8)
    return Decoded(pixels, labels % 10)


def _look(folder: Path) -> Holding:
    parts: tuple[Part, ...] = ("train", "test")
    return holding(folder, {f"svhn/{part}_32x32.mat": _find(part, folder) for part in parts})


SVHN = DataSet(
    name="svhn",
    channels=3,
    height=_SIZE,
    width=_SIZE,
    class_names=tuple("0123456789"),
    validation_per_class=500,
    augmentation="none",
    read=read_svhn,
    look=_look,
)
