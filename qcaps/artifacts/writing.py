"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from qcaps.errors import UsageError


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file by `data` so that every reader sees the old file or the new one.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name.

    Raises
    ------
    UsageError
        If the folder is missing or read-only or the disk is full; the old file is whole and no temporary
        file is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with open(temporary, "xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    _sync_folder(path.parent)


def unwritable(path: Path, error: OSError) -> UsageError:
    """Say that a file cannot be written, and why."""
    return UsageError(
        f"cannot write the file: {error.strerror}",
        where=str(path),
        do="choose a folder that exists, can be written and has space",
    )


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk; some file systems cannot, and the file itself is already safe."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
