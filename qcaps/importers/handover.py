"""What the confined process leaves for its parent: an index, the numbers of all tensors in a row, or a refusal.

The parent trusts none of it: a bug in a parser may have made the process a stranger's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError, shortened

Count = Annotated[int, Field(strict=True, ge=0)]
Dtype = Literal["<f4", "<i8"]


@dataclass(frozen=True, eq=False)
class Piece:
    """One tensor of the file, in numpy's hands; `group` is the Keras layer it belongs to, empty for PyTorch."""

    group: str
    name: str
    values: NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a foreign file holds.

    Parameters
    ----------
    pieces
        Its tensors, in order.
    numbers
        Whole numbers beside the state dict of PyTorch.
    config
        The JSON description of a whole Keras model, empty if there is none.
    """

    pieces: Iterable[Piece]
    numbers: Mapping[str, int] = field(default_factory=dict)
    config: str = ""


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class _Entry:
    group: str
    name: str
    dtype: Dtype
    shape: list[Count]


@checked_dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class _Index:
    numbers: dict[str, int]
    config: str
    entries: list[_Entry]


def write_contents(folder: Path, contents: Contents) -> None:
    """Write the index and the numbers; only one tensor is in memory at a time if `contents` gives one at a time."""
    entries = []
    with (folder / "values").open("wb") as stream:
        for piece in contents.pieces:
            dtype: Dtype = "<f4" if piece.values.dtype == np.float32 else "<i8"
            np.ascontiguousarray(piece.values, dtype).tofile(stream)
            entries.append(_Entry(piece.group, piece.name, dtype, list(piece.values.shape)))
    (folder / "index").write_text(json.dumps(asdict(_Index(dict(contents.numbers), contents.config, entries))))


def write_refusal(folder: Path, what: str) -> None:
    """Write why the file is refused."""
    (folder / "refusal").write_text(shortened(what))


def read_contents(folder: Path, limits: Limits, where: str) -> Contents:
    """Read what :func:`write_contents` wrote; the numbers of each tensor when it is asked for.

    Raises
    ------
    ArtifactError
        If there is a refusal instead, or the pieces do not fit together.
    """
    if (folder / "refusal").exists():
        raise ArtifactError(shortened(_text(folder / "refusal", 1000, where)), where=where)
    try:
        index = TypeAdapter(_Index).validate_json(_text(folder / "index", limits.header_bytes, where))
    except ValidationError as error:
        raise _unreadable(where) from error
    entries = index.entries
    names = {(entry.group, entry.name) for entry in entries}
    if len(names) < len(entries) or len(entries) > limits.tensors or any(len(e.shape) > limits.rank for e in entries):
        raise _unreadable(where)
    if sum(_bytes_of(entry) for entry in entries) != (folder / "values").stat().st_size:
        raise _unreadable(where)
    return Contents(_pieces(folder / "values", entries), index.numbers, index.config)


def _text(path: Path, most: int, where: str) -> str:
    """Read a short text file."""
    try:
        if path.stat().st_size > most:
            raise _unreadable(where)
        return path.read_text()
    except (OSError, ValueError) as error:
        raise _unreadable(where) from error


def _unreadable(where: str) -> ArtifactError:
    """Say that the confined process did not come to a sane end."""
    return ArtifactError("the file cannot be read within the limits of its size", where=where, do="get a good copy")


def _bytes_of(entry: _Entry) -> int:
    return math.prod(entry.shape) * np.dtype(entry.dtype).itemsize


def _pieces(path: Path, entries: list[_Entry]) -> Iterator[Piece]:
    """Read the numbers of one tensor after the other."""
    with path.open("rb") as stream:
        for entry in entries:
            values = np.fromfile(stream, entry.dtype, math.prod(entry.shape))
            yield Piece(entry.group, entry.name, values.reshape(entry.shape))
