"""Find the records of a torch zip from its bytes, before torch or a pickle reader sees them.

Afterwards every record is known to be stored as it is, apart from the others and inside the file, so that reading
all of them takes no more memory than the file is long.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from qcaps.errors import ArtifactError, quoted


@dataclass(frozen=True)
class Limits:
    """What a file may hold at most; honest files stay far below.

    Parameters
    ----------
    file_bytes
        Size of the file on disk.
    tensors, rank
        Number of tensors, and dimensions of each.
    header_bytes, header_depth
        Length of the JSON header, and nesting of its objects and lists.
    """

    file_bytes: int = 2 * 1024**3
    tensors: int = 4096
    rank: int = 8
    header_bytes: int = 4 * 1024**2
    header_depth: int = 32


@dataclass(frozen=True)
class Record:
    """One stored entry of a torch zip: its bytes, still unread, and the checksum that the directory gives them."""

    name: str
    content: memoryview
    checksum: int

    def read(self) -> bytes:
        """Copy the bytes.

        Raises
        ------
        zipfile.BadZipFile
            If they are not the ones that were written.
        """
        self.verify()
        return bytes(self.content)

    def verify(self) -> None:
        """Compare the bytes with their checksum, as :meth:`read` does, without a copy."""
        if zlib.crc32(self.content) != self.checksum:
            raise zipfile.BadZipFile(f"the bytes of {self.name} have another checksum")


def stored_records(data: bytes, limits: Limits, where: str) -> dict[str, Record]:
    """Find every record of a torch zip by its name below the root folder, ``data.pkl`` among them.

    Raises
    ------
    ArtifactError
        If the bytes are not a zip of stored entries as torch writes it, before anything larger than the
        directory is allocated.
    """
    count = _check_trailer(data, limits, where)
    with parsing("is not a zip file as torch writes it", where):
        archive = zipfile.ZipFile(io.BytesIO(data))
        records = _checked_records(data, archive, limits, where)
        if len(records) != count:
            raise refusal("has a zip directory that contradicts itself", where)
        if "byteorder" in records and records["byteorder"].read() != b"little":
            raise refusal("was written on a big-endian machine", where)
    return records


def refusal(what: str, where: str) -> ArtifactError:
    """Say why a file is refused."""
    return ArtifactError(f"the file {what}", where=where, do="restore a good copy or write it again with qcaps")


@contextmanager
def parsing(what: str, where: str) -> Iterator[None]:
    """Turn whatever a parser raises on hostile bytes inside the block into one refusal."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        raise refusal(what, where) from error


_END_BYTES = 22
# torch ends every archive with the 64-bit form of the end record, a locator of that, and the end record.
_WIDE_END_BYTES = 56 + 20 + _END_BYTES


def _check_trailer(data: bytes, limits: Limits, where: str) -> int:
    """Count the directory's entries; it must lie where Python's and torch's zip readers both see it."""
    if data[:4] != b"PK\3\4" or len(data) < _END_BYTES:
        raise refusal("is not a zip file as torch writes it", where)
    count: int
    count, size, offset = struct.unpack("<HLL", data[-12:-2])
    trailer_bytes = len(data) - offset - size
    expected = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)
    if trailer_bytes == _WIDE_END_BYTES:
        versions = data[offset + size + 12 : offset + size + 16]
        wide = struct.pack("<4sQ4s2L4Q", b"PK\6\6", 44, versions, 0, 0, count, count, size, offset)
        expected = wide + struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1) + expected
    if trailer_bytes != len(expected) or not data.endswith(expected):
        raise refusal("is truncated, or not a zip file as torch writes it", where)
    if count > limits.tensors + len(_SIDE_RECORDS) + 1 or size > 512 * count:
        raise refusal(f"has {count} zip entries in {size} bytes of directory", where)
    return count


# Records beside the pickle and the tensors; all are a few characters long.
_SIDE_RECORDS = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}
_SIDE_RECORD_BYTES = 64
# The first torch with zip files numbered its records by memory address, twenty digits at most.
TENSOR_RECORD = re.compile(r"data/(0|[1-9][0-9]{0,19})")


def _checked_records(data: bytes, archive: zipfile.ZipFile, limits: Limits, where: str) -> dict[str, Record]:
    """Refuse compressed, foreign, repeated, overlapping or oversized entries; give the others by record."""
    records: dict[str, Record] = {}
    view = memoryview(data)
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    root = entries[0].filename.partition("/")[0]
    end = 0
    for entry in entries:
        folder, _, record = entry.filename.partition("/")
        name = quoted(entry.filename)
        if folder != root or root in {"", ".", ".."} or not _known(record):
            raise refusal(f"has an unexpected zip entry {name}", where)
        if record in records:
            raise refusal(f"has the zip entry {name} twice", where)
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise refusal(f"has a compressed zip entry {name}", where)
        if entry.header_offset < end:
            raise refusal(f"has a zip entry {name} that overlaps another", where)
        start = _start_of(entry, data)
        end = start + entry.file_size
        if end > archive.start_dir:
            raise refusal(f"has a zip entry {name} that does not fit", where)
        if record in _SIDE_RECORDS and entry.file_size > _SIDE_RECORD_BYTES:
            raise refusal(f"has an oversized zip entry {name}", where)
        records[record] = Record(record, view[start:end], entry.CRC)
    if len(records["data.pkl"].content) > limits.header_bytes + 1024 * len(records):
        raise refusal("has an oversized pickle", where)
    return records


def _known(record: str) -> bool:
    """Tell whether torch writes a record of this name."""
    return record == "data.pkl" or record in _SIDE_RECORDS or bool(TENSOR_RECORD.fullmatch(record))


def _start_of(entry: zipfile.ZipInfo, data: bytes) -> int:
    """Find the first of an entry's bytes; its local header may be longer than the directory says, not another one."""
    signature, name_bytes, extra_bytes = struct.unpack_from("<4s22xHH", data, entry.header_offset)
    name_at = entry.header_offset + 30
    name = data[name_at : name_at + name_bytes].decode("utf-8" if entry.flag_bits & _UTF8_NAME else "cp437")
    if signature != b"PK\3\4" or name != entry.orig_filename or entry.flag_bits & _ENCRYPTED:
        raise zipfile.BadZipFile(f"no plain local header of {entry.filename}")
    start: int = name_at + name_bytes + extra_bytes
    return start


# Bits of an entry's flags.
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
