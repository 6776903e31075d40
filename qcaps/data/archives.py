"""Files out of a folder, a zip or a tar, one after the other in memory; nothing is ever unpacked onto a disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from qcaps.errors import UsageError, quoted

# How a packed set may end, in the order in which they are looked for.
PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
# Pictures hardly compress: what unpacks to more than this times its size is no set of pictures.
_LARGEST_RATIO = 200
_ALWAYS_ALLOWED_BYTES = 1 << 30
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
    OSError,
)


def folder_or_packed(folder: Path, name: str) -> Path | None:
    """Find the folder `name`, or the same packed; None if there is neither."""
    candidates = [folder / f"{name}{ending}" for ending in PACKED]
    if (folder / name).is_dir():
        return folder / name
    return next((file for file in candidates if file.is_file()), None)


def files(source: Path, wanted: Callable[[str], bool], *, file_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Give name and content of the files that are wanted.

    Parameters
    ----------
    source
        A folder, or a file that ends as one of `PACKED`. Links are not followed.
    wanted
        Told the name inside of the source, parts separated by ``/``.
    file_bytes
        No file may be larger.

    Yields
    ------
    tuple
        Name and content; of a folder and a zip in the order of the names, of a tar as they lie.

    Raises
    ------
    UsageError
        If the source is damaged, leads out of itself, or would unpack to far more than its size.
    """
    with _told(source):
        if source.is_dir():
            yield from _of_folder(source, wanted, file_bytes)
        elif source.name.endswith(".zip"):
            yield from _of_zip(source, wanted, file_bytes)
        else:
            yield from _of_tar(source, wanted, file_bytes)


def count_of(source: Path, wanted: Callable[[str], bool]) -> int | None:
    """Count the wanted files without reading them; None for a tar, which would have to be unpacked."""
    with _told(source):
        if source.is_dir():
            return sum(wanted(name) for name, _ in walk(source))
        if source.name.endswith(".zip"):
            with zipfile.ZipFile(source) as archive:
                return sum(wanted(name) for name in archive.namelist())
    return None


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Give name and properties of every plain file below a folder, in the order of the names."""
    found = []
    for place, _, names in os.walk(folder, onerror=_raise):
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in names]
    for name in sorted(found):
        properties = (folder / name).stat()
        if (folder / name).is_file():
            yield name, properties


def _raise(error: OSError) -> None:
    raise error


def _of_folder(folder: Path, wanted: Callable[[str], bool], file_bytes: int) -> Iterator[tuple[str, bytes]]:
    for name, properties in walk(folder):
        if wanted(name):
            _check_size(folder, name, properties.st_size, file_bytes)
            yield name, (folder / name).read_bytes()


def _of_zip(source: Path, wanted: Callable[[str], bool], file_bytes: int) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        members = {_inside(source, member.filename): member for member in archive.infolist() if not member.is_dir()}
        _check_total(source, sum(member.file_size for member in members.values()))
        for name in sorted(filter(wanted, members)):
            member = members[name]
            if member.flag_bits & 1:
                raise UsageError("the archive is encrypted", where=str(source), do="pack it without a password")
            _check_size(source, name, member.file_size, file_bytes)
            yield name, archive.read(member)


def _of_tar(source: Path, wanted: Callable[[str], bool], file_bytes: int) -> Iterator[tuple[str, bytes]]:
    with _unpacked(source) as stream:
        bounded = cast("IO[bytes]", _Bounded(stream, source, file_bytes))
        yield from _members(source, bounded, wanted, file_bytes)


def _members(
    source: Path, stream: IO[bytes], wanted: Callable[[str], bool], file_bytes: int
) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            name = _inside(source, member.name)
            if not member.isreg():
                continue
            _check_size(source, name, member.size, file_bytes)
            content = archive.extractfile(member)
            if content is not None and wanted(name):
                yield name, content.read()
        # A complete tar ends with two blocks of zeros; Python reads the first and takes their absence for an end.
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("the end is missing")


def _unpacked(source: Path) -> IO[bytes]:
    """Open a tar by what it begins with, whatever its name says."""
    with source.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(source))
    if start.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.open(source))
    if start.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(source))
    return source.open("rb")


class _Bounded:
    """A stream that refuses what only a hostile tar asks for: a header of gigabytes, or endless content."""

    def __init__(self, stream: IO[bytes], source: Path, file_bytes: int) -> None:
        self._stream = stream
        self._source = source
        self._file_bytes = file_bytes

    def read(self, size: int) -> bytes:
        _check_size(self._source, "a header", size, self._file_bytes + tarfile.RECORDSIZE)
        _check_total(self._source, self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        _check_total(self._source, position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()


def _inside(source: Path, name: str) -> str:
    """Give the name of a member without ``./``; refuse one that leads out of the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{quoted(name)} leads out of the archive", where=str(source), do="pack the set again")
    return path.as_posix()


def _check_size(source: Path, name: str, size: int, largest: int) -> None:
    if size > largest:
        what = f"{quoted(name)} has {size:,} bytes, more than {largest:,}"
        raise UsageError(what, where=str(source), do="leave out what is no picture of the set")


def _check_total(source: Path, size: int) -> None:
    if size > max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * source.stat().st_size):
        raise UsageError(
            f"the archive unpacks to more than {_LARGEST_RATIO} times its size", where=str(source), do="replace it"
        )


@contextlib.contextmanager
def _told(source: Path) -> Iterator[None]:
    """Tell of a damaged or unreadable source in one line."""
    try:
        yield
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = f"cannot read the images: {quoted(reason or type(error).__name__)}"
        raise UsageError(what, where=str(source), do="replace it by a complete copy") from error
