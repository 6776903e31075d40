"""Decoded images on disk, so that a packed set is unpacked once and not on every run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qcaps.data.archives import walk
from qcaps.errors import QcapsWarning, UsageError, shortened

# Another number for another way of decoding or storing: files of an older way are then no longer read.
_WAY = 1
_DAMAGE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class Decoded:
    """One part of a data set, as plain arrays.

    Parameters
    ----------
    pixels
        uint8, shape ``(n, channels, height, width)``.
    labels
        Class of every image, int64, shape ``(n,)``.
    note
        What is to be said beside every result on these files, for example ``JPEG q75``.
    groups
        The object that every image shows, int64, shape ``(n,)``, where several images show the same one.
    class_names
        Names of the classes by label, where they come out of the files.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    note: str = ""
    groups: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()


def cache_folder() -> Path:
    """Give QCAPS_CACHE, which is ``~/.cache/qcaps`` by default."""
    return Path(os.environ.get("QCAPS_CACHE") or "~/.cache/qcaps").expanduser()


def decoded_once(source: Path, way: str, make: Callable[[], Decoded]) -> Decoded:
    """Give what was decoded before, or decode and keep it in the folder ``images`` of the cache.

    Parameters
    ----------
    source
        The folder or packed file; the cache is keyed by its content.
    way
        What else the result depends on: the set, its part, the size of the images.
    make
        Decodes the source.

    Raises
    ------
    UsageError
        If the source cannot be read.

    Notes
    -----
    A damaged cache is made again. A cache is written whole or not at all, so any number of processes may do so at
    once. One that cannot be written costs a warning, not the run.
    """
    try:
        path = cache_folder() / "images" / f"{_key(source, way)}.npz"
    except OSError as error:
        raise UsageError(f"cannot read the images: {error.strerror}", where=str(source)) from error
    found = _read(path)
    if found is None:
        found = make()
        try:
            _write(path, found)
        except OSError as error:
            reason = shortened(error.strerror or str(error))
            warnings.warn(f"decoded images are not kept in {path.parent}: {reason}", QcapsWarning, stacklevel=2)
    return found


def _key(source: Path, way: str) -> str:
    """Identify a source and a way.

    A packed file counts by its bytes: tens of MB are hashed in a fraction of a second. A folder counts by names,
    sizes and times of change: opening 100,000 files would take as long as decoding them.
    """
    digest = hashlib.sha256(repr((_WAY, way)).encode())
    if source.is_dir():
        digest.update(repr([(name, of.st_size, of.st_mtime_ns) for name, of in walk(source)]).encode())
    else:
        with source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read(path: Path) -> Decoded | None:
    """Read a cache, whose zip format finds every changed byte; None if there is none or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(map(str, arrays["class_names"]))
            return Decoded(arrays["pixels"], arrays["labels"], str(arrays["note"]), arrays.get("groups"), names)
    except _DAMAGE:
        return None


def _write(path: Path, decoded: Decoded) -> None:
    """Write a cache beside its place and move it there."""
    arrays: Mapping[str, npt.NDArray[np.generic]] = {
        "pixels": decoded.pixels,
        "labels": decoded.labels,
        "note": np.array(decoded.note),
        "class_names": np.array(decoded.class_names, dtype=np.str_),
        **({} if decoded.groups is None else {"groups": decoded.groups}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
