"""Steps that are finished: what they were made of and what they left, so that none is repeated in vain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcaps.artifacts.writing import atomic_write
from qcaps.recipe.resolved import file_sha256
from qcaps.reports.documents import json_text
from qcaps.verbs.outcome import Outcome

RECORD, SCHEMA = "step.json", "qcaps.step/1"
LARGEST_RECORD = 1 << 20
DOCUMENTS = ("report.json", "evaluation.json")


@dataclass(frozen=True)
class Finished:
    """The record of a step.

    Parameters
    ----------
    exit_code
        As it was.
    files
        What was written, the main file first, each as it still lies there.
    document
        What its report says.
    """

    exit_code: int
    files: tuple[Path, ...]
    document: Mapping[str, object]


def finished(folder: Path, key: str) -> Finished | None:
    """Read the record of a step; None if the step is another one, or something it left is not as it was."""
    told = _read(folder / RECORD)
    files, code = told.get("files"), told.get("exit_code")
    if told.get("schema") != SCHEMA or told.get("key") != key or not isinstance(files, list) or code not in {0, 1}:
        return None
    paths = []
    for one in files:
        name, sha256 = (one.get("name"), one.get("sha256")) if isinstance(one, dict) else (None, None)
        path = folder / Path(str(name)).name
        if not path.is_file() or file_sha256(path) != sha256:
            return None
        paths.append(path)
    document = next((_read(path) for path in paths if path.name in DOCUMENTS), {})
    return Finished(int(code), tuple(paths), document)


def record(folder: Path, key: str, outcome: Outcome) -> None:
    """Note that a step is finished."""
    files = [{"name": file.name, "sha256": file_sha256(file)} for file in outcome.files]
    document = {"schema": SCHEMA, "key": key, "exit_code": outcome.exit_code, "files": files}
    atomic_write(folder / RECORD, json_text(document).encode())


def forget(folder: Path) -> None:
    """Drop the record of a step that is to be made anew."""
    (folder / RECORD).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, object]:
    """Read a JSON document that was written here; nothing if it is none."""
    try:
        with path.open("rb") as stream:
            told = json.loads(stream.read(64 * LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
