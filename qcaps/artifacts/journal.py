"""Measurements that outlive the run: the predictions of every candidate, cached by content.

One line per finished range of images, flushed as it is written, so that an interrupted search continues where
it stopped and a changed tolerance reuses everything.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from qcaps.artifacts.writing import unwritable
from qcaps.errors import ArtifactError, UsageError

MAX_FILE_BYTES = 256 * 1024**2
MAX_PREDICTION = 2**16 - 1


def content_key(*parts: object) -> str:
    """Name plain JSON data by its content: the sha256, in hex, of its canonical JSON.

    Raises
    ------
    ValueError
        If a part holds NaN or infinity.
    TypeError
        If a part is not plain data.
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The predictions of each candidate for its first images, in memory and in an append-only file.

    Opened by :meth:`open`.

    Parameters
    ----------
    path
        The file ``journal.jsonl``, for messages.
    stream
        That file, unbuffered, open for reading and appending.
    """

    def __init__(self, path: Path, stream: io.FileIO) -> None:
        self.path = path
        self._stream = stream
        self._codes: dict[str, bytearray] = {}  # two bytes per prediction, little endian
        self._read()

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, fresh: bool = False) -> Iterator[Self]:
        """Open or create a journal, and keep other runs out of it inside the block.

        Parameters
        ----------
        path
            The journal; its lock file lies beside it.
        fresh
            Forget what the file holds.

        Raises
        ------
        UsageError
            If another run holds the journal, or it cannot be written.
        ArtifactError
            If it is no journal, or a line other than a torn last one is damaged.
        """
        with _locked(path), _opened(path) as stream:
            if fresh:
                stream.truncate(0)
            yield cls(path, stream)

    def get(self, key: str) -> tuple[int, ...] | None:
        """Give the predictions for the first images of a candidate, in the order of the key."""
        codes = self._codes.get(key)
        return None if codes is None else struct.unpack(f"<{len(codes) // 2}H", codes)

    def append(self, key: str, first: int, predictions: Sequence[int]) -> None:
        """Add the predictions for the next images of a candidate; they are on disk when this returns.

        Parameters
        ----------
        key
            Content key of the candidate and its images.
        first
            Index of the first of these images: the number of predictions known so far.
        predictions
            One class per image, 0 to 65,535.

        Raises
        ------
        ValueError
            If the range does not continue the known one, or an argument is out of its range.
        UsageError
            If the line cannot be written; the journal stays as it was.
        """
        known = len(self._codes.get(key, b"")) // 2
        if first != known:
            raise ValueError(f"images from {first} on do not continue the {known} known ones")
        if not predictions or min(predictions) < 0 or max(predictions) > MAX_PREDICTION:
            raise ValueError(f"predictions must be classes from 0 to {MAX_PREDICTION}")
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not a content key")
        codes = struct.pack(f"<{len(predictions)}H", *predictions)
        self._write(_line(key, first, codes))
        self._codes.setdefault(key, bytearray()).extend(codes)

    def _read(self) -> None:
        """Take every line in, and cut off a last one that a killed run left torn."""
        self._stream.seek(0)
        data = self._stream.readall()
        whole = 0
        for number, line in enumerate(io.BytesIO(data), 1):
            if not line.endswith(b"\n") and (number > 1 or _FIRST_LINE.startswith(line)):
                break
            if number == 1 and line != _FIRST_LINE:
                raise self._damaged("the file is not a qcaps journal of version 1", number)
            if number > 1:
                self._take(line, number)
            whole += len(line)
        self._stream.truncate(whole)
        if whole == 0:
            self._write(_FIRST_LINE)

    def _take(self, line: bytes, number: int) -> None:
        """Add what one line says."""
        match = _LINE.fullmatch(line)
        if match is None or int(match["crc"]) != zlib.crc32(match["body"]):
            raise self._damaged("the journal has a damaged line", number)
        key = match["key"].decode()
        codes = base64.b64decode(match["predictions"])
        known = self._codes.setdefault(key, bytearray())
        if len(codes) % 2 or 2 * int(match["first"]) != len(known):
            raise self._damaged("the journal has a line that does not continue its candidate", number)
        known.extend(codes)

    def _damaged(self, what: str, number: int) -> ArtifactError:
        return ArtifactError(what, where=f"{self.path}:{number}", do="start over with --fresh")

    def _write(self, line: bytes) -> None:
        """Append one line and bring it to the disk."""
        end = self._stream.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._stream.write(line[written:])
            os.fsync(self._stream.fileno())
        except OSError as error:
            # Half a line must not stand in front of the next one.
            with suppress(OSError):
                self._stream.truncate(end)
            raise unwritable(self.path, error) from error


_KEY = re.compile(r"[0-9A-Za-z._-]{1,128}")
_FIRST_LINE = b'{"schema": "qcaps.journal/1"}\n'
# Lines are read in exactly the form they are written in, so no stranger's JSON is ever parsed.
_LINE = re.compile(
    rb'\{"crc": (?P<crc>[0-9]{1,10}), '
    rb'(?P<body>"first": (?P<first>[0-9]{1,9}), "key": "(?P<key>[0-9A-Za-z._-]{1,128})", '
    rb'"predictions": "(?P<predictions>(?:[0-9A-Za-z+/]{4})*(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?)")\}\n'
)


def _line(key: str, first: int, codes: bytes) -> bytes:
    """Write one range as a line of JSON whose checksum covers the rest."""
    predictions = base64.b64encode(codes).decode()
    body = f'"first": {first}, "key": "{key}", "predictions": "{predictions}"'.encode()
    return b'{"crc": %d, %b}\n' % (zlib.crc32(body), body)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside a journal; it stays behind, because removing it would race."""
    try:
        lock = io.FileIO(path.with_name(f"{path.name}.lock"), "a")
    except OSError as error:
        raise unwritable(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "another run is using this folder",
                where=str(path.parent),
                do="wait for it or choose another --out",
            ) from error
        yield


@contextmanager
def _opened(path: Path) -> Iterator[io.FileIO]:
    """Open a regular file of bounded size for reading and appending."""
    try:
        stream = io.FileIO(path, "a+")
    except OSError as error:
        raise unwritable(path, error) from error
    with stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise ArtifactError(
                f"the journal is not a regular file below {MAX_FILE_BYTES} bytes",
                where=str(path),
                do="remove it",
            )
        yield stream
