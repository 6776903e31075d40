"""The original binary files of smallNORB, as New York University distributes them.

Source of the format: the page of the data set, https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/: a matrix is a magic
number for its type, the number of dimensions, at least three dimensions, and the values, all little-endian.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from qcaps.data.dataset import Part
from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.errors import UsageError

Kind = Literal["dat", "cat", "info"]

# Pictures, categories, and what is known of every pair: instance, elevation, azimuth, lighting.
KINDS: tuple[Kind, ...] = ("dat", "cat", "info")
_STARTS: dict[Part, str] = {
    "train": "smallnorb-5x46789x9x18x6x2x96x96-training",
    "test": "smallnorb-5x01235x9x18x6x2x96x96-testing",
}
_BYTES, _INTEGERS = 0x1E3D4C55, 0x1E3D4C54
_PICTURE = (2, 96, 96)


def binary_file(folder: Path, part: Part, kind: Kind) -> Path | None:
    """Find one of the files of a part, unpacked or not; None if it is not there."""
    start = f"{_STARTS[part]}-{kind}.mat"
    return next((folder / name for name in (start, f"{start}.gz") if (folder / name).is_file()), None)


def read_binary(part: Part, folder: Path, pairs: int, classes: int) -> Decoded:
    """Read one part from its three files; pictures that are packed, through the cache.

    Parameters
    ----------
    part, folder
        The part, and where its files lie.
    pairs, classes
        How many there must be.

    Raises
    ------
    UsageError
        If a file is missing, damaged, or of another shape.
    """
    labels = _matrix(_file(folder, part, "cat"), _INTEGERS, (pairs,))
    instances = _matrix(_file(folder, part, "info"), _INTEGERS, (pairs, 4))[:, 0]
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"a category is not one of 0 to {classes - 1}", where=str(folder), do="replace the files")
    pictures = _file(folder, part, "dat")

    def unpack() -> Decoded:
        pixels = _matrix(pictures, _BYTES, (pairs, *_PICTURE)).astype(np.uint8)
        return Decoded(pixels, labels.astype(np.int64), groups=instances.astype(np.int64))

    if pictures.suffix != ".gz":
        return unpack()
    # The two small files are part of the key.
    way = hashlib.sha256(labels.tobytes() + instances.tobytes()).hexdigest()
    return decoded_once(pictures, f"smallnorb {way}", unpack)


def _file(folder: Path, part: Part, kind: Kind) -> Path:
    """Find a file that must be there."""
    file = binary_file(folder, part, kind)
    if file is None:
        name = f"{_STARTS[part]}-{kind}.mat"
        raise UsageError(
            f"{name} of smallNORB is missing", where=str(folder / name), do="put it there, packed as .gz or not"
        )
    return file


def _matrix(file: Path, magic: int, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    """Read a matrix that must have exactly this type and shape; the array is read-only."""
    dtype = np.dtype(np.uint8 if magic == _BYTES else "<i4")
    header = struct.pack("<2i3i", magic, len(shape), *shape[:3], *[1] * (3 - len(shape)))
    header += struct.pack(f"<{len(shape[3:])}i", *shape[3:])
    expected = len(header) + dtype.itemsize * int(np.prod(shape))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot read the file: {error}", where=str(file), do="replace it") from error
    if len(content) != expected or not content.startswith(header):
        what = f"not a matrix of {' x '.join(map(str, shape))} values in {expected:,} bytes"
        raise UsageError(what, where=str(file), do="replace it by the complete file")
    return np.frombuffer(content, dtype, offset=len(header)).reshape(shape)
