"""``qcaps verify``: whether checkpoints and artifacts are whole; needs no data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.config import format_size
from qcaps.errors import UsageError
from qcaps.quantization.loading import SelfTest, load
from qcaps.verbs.outcome import Outcome


@dataclass(frozen=True)
class Verified:
    """A file that is whole.

    Parameters
    ----------
    file, sha256, kind, model, file_bytes
        The file, whether it is a ``checkpoint`` or an ``artifact``, its architecture, and its size on disk.
    tensors, tensor_bytes, self_test
        See :class:`~qcaps.quantization.loading.Checks`.
    """

    file: str
    sha256: str
    kind: str
    model: str
    file_bytes: int
    tensors: int
    tensor_bytes: int
    self_test: SelfTest | None


def verify(*files: Path | str) -> Outcome:
    """Check everything that loading checks: zip, checksums, spec, bit plan, packed codes, self-test.

    Padding and dates inside the zip, which no reader uses, have no checksum.

    Parameters
    ----------
    files
        At least one file, or name of a shipped one.

    Returns
    -------
    Outcome
        Its document has one entry per file: its kind, and figures of what was checked.

    Raises
    ------
    UsageError
        If there is no such file, or none is given.
    ArtifactError
        If a file is damaged or hostile: the first of them.
    """
    if not files:
        raise UsageError("there is no file to verify", do="name at least one")
    paths = [find_checkpoint(Path(file)) for file in files]
    found = [_verified(path) for path in paths]
    document = {"schema": "qcaps.verify/1", "files": [dataclasses.asdict(one) for one in found]}
    return Outcome(0, (), document, tuple(line for one in found for line in _lines(one)))


def _verified(path: Path) -> Verified:
    """Load a file and keep only the figures, so that one network at a time takes memory."""
    loaded = load(path)
    kind = "checkpoint" if loaded.artifact is None else "artifact"
    file = str(loaded.path), loaded.sha256, kind, loaded.model.architecture, loaded.file_bytes
    return Verified(*file, loaded.checks.tensors, loaded.checks.tensor_bytes, loaded.checks.self_test)


def _lines(v: Verified) -> list[str]:
    lines = [
        f"{v.file}: whole {v.kind}, {v.model}",
        f"  file         {format_size(v.file_bytes)}",
        f"  checksums    of {v.tensors} tensors match",
    ]
    test = v.self_test
    if test is None:
        lines.append(f"  weights      {format_size(v.tensor_bytes)} in float")
    else:
        lines += [
            f"  weights      {format_size(v.tensor_bytes)} packed, as the bit plan says",
            f"  self-test    {test.images} images replayed, scores differ by {test.largest_difference:.2g} at most",
        ]
    return [*lines, f"  sha256       {v.sha256}"]
