"""Prove from the bytes of a torch zip that it holds one header and plain tensors, before torch opens it.

torch's weights-only loader calls no stranger's function, but a small pickle can still make it copy one
dictionary a million times, load one record again and again, or overflow the stack. So the pickle must be,
operation for operation, what ``torch.save`` writes for ``{"header": str, "tensors": {str: Tensor}}``.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


def check_archive(data: bytes, limits: Limits, where: str) -> None:
    """Refuse bytes that are not a stored torch zip of one header and plain tensors.

    Afterwards every record is known to lie apart from the others and every tensor to take one whole record
    of its own, so loading allocates about as much as the file is long.

    Raises
    ------
    ArtifactError
        For everything else, before anything larger than the directory and the header is allocated.
    """
    count = _check_trailer(data, limits, where)
    with parsing("is not a zip file as torch writes it", where):
        archive = zipfile.ZipFile(io.BytesIO(data))
        records = _checked_records(data, archive, limits, where)
        if len(records) != count:
            raise refusal("has a zip directory that contradicts itself", where)
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise refusal("was written on a big-endian machine", where)
        pickled = archive.read(records["data.pkl"])
    tensors = filter(_TENSOR_RECORD.fullmatch, records)
    sizes = {name.removeprefix("data/"): records[name].file_size for name in tensors}
    with parsing("holds a damaged pickle", where):
        _check_pickle(pickled, sizes, where)


def refusal(what: str, where: str) -> ArtifactError:
    """Say why a file is refused."""
    return ArtifactError(f"the file {what}", where=where, do="restore a good copy or write it again with qcaps")


def unexpected_content(where: str) -> ArtifactError:
    """Say that a torch file is not one of ours."""
    return refusal("holds something else than a qcaps header and plain tensors", where)


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
_TENSOR_RECORD = re.compile(r"data/(0|[1-9][0-9]{0,8})")


def _checked_records(data: bytes, archive: zipfile.ZipFile, limits: Limits, where: str) -> dict[str, zipfile.ZipInfo]:
    """Refuse compressed, foreign, repeated, overlapping or oversized entries; give the others by record."""
    records: dict[str, zipfile.ZipInfo] = {}
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
        end = _end_of(entry, data)
        if end > archive.start_dir:
            raise refusal(f"has a zip entry {name} that does not fit", where)
        if record in _SIDE_RECORDS and entry.file_size > _SIDE_RECORD_BYTES:
            raise refusal(f"has an oversized zip entry {name}", where)
        records[record] = entry
    if records["data.pkl"].file_size > limits.header_bytes + 1024 * len(records):
        raise refusal("has an oversized pickle", where)
    return records


def _known(record: str) -> bool:
    """Tell whether torch writes a record of this name."""
    return record == "data.pkl" or record in _SIDE_RECORDS or bool(_TENSOR_RECORD.fullmatch(record))


def _end_of(entry: zipfile.ZipInfo, data: bytes) -> int:
    """Find the end of an entry's bytes; its local header may be longer than the directory says."""
    name_bytes, extra_bytes = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start: int = entry.header_offset + 30 + name_bytes + extra_bytes
    return start + entry.file_size


# One letter per pickle operation that torch.save uses here.
_LETTERS = {
    "PROTO": "P",
    "EMPTY_DICT": "D",
    "MARK": "M",
    "BINUNICODE": "U",
    "BININT": "I",
    "BININT1": "I",
    "BININT2": "I",
    "LONG1": "I",
    "EMPTY_TUPLE": "E",
    "TUPLE1": "1",
    "TUPLE2": "2",
    "TUPLE3": "3",
    "TUPLE": "T",
    "NEWFALSE": "F",
    "BINPERSID": "Q",
    "REDUCE": "R",
    "SETITEM": "s",
    "SETITEMS": "S",
    "STOP": ".",
}
# The storage classes of float32, uint8 and int64, with the bytes of one element.
_ELEMENT_BYTES = {"torch FloatStorage": 4, "torch ByteStorage": 1, "torch LongStorage": 8}
_GLOBALS = {"torch._utils _rebuild_tensor_v2": "B", "collections OrderedDict": "O"} | dict.fromkeys(_ELEMENT_BYTES, "C")
_INTEGERS = "(?:E|I1|II2|III3|MI+T)"
# rebuild(storage("storage", class, key, location, elements), offset, shape, stride, False, OrderedDict())
_TENSOR = re.compile(f"BMMUCUUITQI{_INTEGERS}{_INTEGERS}FOERTR")
_FILE = re.compile(rf"PDMUUUD(?:M(?:U{_TENSOR.pattern})*S|U{_TENSOR.pattern}s)*S\.")
_STEPS_PER_TENSOR = 64


def _check_pickle(pickled: bytes, sizes: dict[str, int], where: str) -> None:
    """Refuse a pickle unless each tensor takes one whole record of its own; `sizes` are bytes by key."""
    letters, values = _spelled(pickled, _STEPS_PER_TENSOR * (len(sizes) + 1), where)
    if not _FILE.fullmatch(letters) or values[0] != 2:
        raise unexpected_content(where)
    unread = dict(sizes)
    for tensor in _TENSOR.finditer(letters):
        _, storage, key, _, elements = values[tensor.start() + 3 : tensor.start() + 8]
        if unread.pop(key, None) != elements * _ELEMENT_BYTES[storage]:
            raise refusal("holds a tensor that does not take one whole record of its own", where)
    if unread:
        raise refusal("holds bytes that belong to no tensor", where)


def _spelled(pickled: bytes, longest: int, where: str) -> tuple[str, list[Any]]:
    """Spell a pickle with one letter per operation, beside the values; a memo read counts as its value."""
    letters: list[str] = []
    values: list[Any] = []
    memo: dict[Any, tuple[str, Any]] = {}
    for steps, (operation, value, _) in enumerate(pickletools.genops(pickled)):
        letter = _LETTERS.get(operation.name, "")
        if operation.name in {"BINPUT", "LONG_BINPUT"}:
            memo[value] = letters[-1], values[-1]
            continue
        if operation.name in {"BINGET", "LONG_BINGET"}:
            letter, value = memo[value]
            letter = letter if letter in "UBOC" else ""
        if operation.name == "GLOBAL":
            letter = _GLOBALS.get(str(value), "")
            if not letter:
                raise refusal(f"asks for {quoted(value)} on loading", where)
        if not letter or steps > longest:
            raise unexpected_content(where)
        letters.append(letter)
        values.append(value)
    return "".join(letters), values
