"""What a verb gives back: files, a document and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcaps.errors import UsageError


@dataclass(frozen=True)
class Outcome:
    """The result of one verb.

    Parameters
    ----------
    exit_code
        0 if every promise asked for is kept, 1 if not.
    files
        What was written, the main file first.
    document
        The result as plain data; ``--json`` prints it.
    lines
        The result for people, a line each.
    """

    exit_code: int
    files: tuple[Path, ...]
    document: Mapping[str, object]
    lines: tuple[str, ...]


def make_folder(out: Path) -> None:
    """Make the output folder of a verb.

    Raises
    ------
    UsageError
        If it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder cannot be made: {error.strerror}", where=str(out)) from error
