"""Prove from the bytes of a torch zip that it holds one header and plain tensors, before torch opens it.

torch's weights-only loader calls no stranger's function, but a small pickle can still make it copy one
dictionary a million times, load one record again and again, or overflow the stack. So the pickle must be,
operation for operation, what ``torch.save`` writes for ``{"header": str, "tensors": {str: Tensor}}``.
"""

from __future__ import annotations

import pickletools
import re
from typing import Any

from qcaps.artifacts.records import TENSOR_RECORD, parsing, refusal, stored_records
from qcaps.artifacts.records import Limits as Limits
from qcaps.errors import ArtifactError, quoted


def check_archive(data: bytes, limits: Limits, where: str) -> None:
    """Refuse bytes that are not a stored torch zip of one header and plain tensors.

    Afterwards every record is known to lie apart from the others and every tensor to take one whole record
    of its own, so loading allocates about as much as the file is long.

    Raises
    ------
    ArtifactError
        For everything else, before anything larger than the directory and the header is allocated.
    """
    records = stored_records(data, limits, where)
    sizes = {
        name.removeprefix("data/"): len(record.content)
        for name, record in records.items()
        if TENSOR_RECORD.fullmatch(name)
    }
    with parsing("is not a zip file as torch writes it", where):
        pickled = records["data.pkl"].read()
    with parsing("holds a damaged pickle", where):
        _check_pickle(pickled, sizes, where)


def unexpected_content(where: str) -> ArtifactError:
    """Say that a torch file is not one of ours."""
    do = "weights of another project come in with `qcaps import`"
    return ArtifactError("the file holds something else than a qcaps header and plain tensors", where=where, do=do)


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
