"""Read a checkpoint of another system: its tensors and nothing else, whatever the file asks for."""

from __future__ import annotations

import hashlib
import importlib.util
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError, UsageError, quoted
from qcaps.importers.confinement import ConfinedFormat, run_confined
from qcaps.importers.handover import read_contents
from qcaps.importers.torch_zip import read_torch_zip

Format = Literal["pytorch-zip"] | ConfinedFormat


@dataclass(frozen=True, eq=False)
class Foreign:
    """A foreign checkpoint, read whole.

    Parameters
    ----------
    path, format, sha256
        The file, what kind it is, and the hash of its bytes in hex.
    tensors
        By name, in the order of the file: float32 (counters int64), finite, contiguous, on the CPU. The names of
        Keras weights begin with their layer and a slash.
    groups
        Names of the tensors of each Keras layer that has any, in order; empty for PyTorch.
    numbers
        Whole numbers that lie beside the state dict of PyTorch, such as an epoch.
    config
        The JSON description of a whole Keras model, empty if there is none.
    """

    path: Path
    format: Format
    sha256: str
    tensors: dict[str, Tensor]
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    config: str = ""


def read_foreign(path: Path, limits: Limits | None = None) -> Foreign:
    """Read a checkpoint that PyTorch (``.pt``, ``.pth``) or Keras 2 (``.h5``) wrote.

    No code of the file runs, and memory stays below twice its size and 200 MB.

    Raises
    ------
    ArtifactError
        If the file is unreadable, damaged or hostile, of another kind, or holds NaN or infinity.
    UsageError
        If it is a Keras file and h5py is not installed.
    """
    limits = limits or Limits()
    try:
        foreign = _read(path, limits)
    except ArtifactError as error:
        # The rooms below advise to write the file again with qcaps, which did not write this one.
        do = "import takes a file of plain tensors: torch.save(model.state_dict(), path) or Keras' save_weights"
        raise ArtifactError(error.what, where=str(path), do=do) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"cannot read the file: {reason}", where=str(path)) from error
    for name, tensor in foreign.tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise ArtifactError(f"the file holds NaN or infinity in tensor {quoted(name)}", where=str(path))
    return foreign


def _read(path: Path, limits: Limits) -> Foreign:
    """Tell the kind of a file by its first bytes, and read it."""
    start = _first_bytes(path, limits)
    if start.startswith(b"PK\3\4"):
        with path.open("rb") as stream:
            data = stream.read(limits.file_bytes)
        tensors, numbers = read_torch_zip(data, limits, str(path))
        return Foreign(path, "pytorch-zip", hashlib.sha256(data).hexdigest(), tensors, numbers=numbers)
    for magic, found in _CONFINED.items():
        if start.startswith(magic):
            return _read_confined(path, found, limits)
    raise ArtifactError("the file is neither a PyTorch nor a Keras checkpoint")


_CONFINED: dict[bytes, ConfinedFormat] = {
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "pytorch-legacy",
    b"\x89HDF\r\n\x1a\n": "keras-h5",
}


def _first_bytes(path: Path, limits: Limits) -> bytes:
    """Read the beginning of a regular file of bounded size."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError("the file is not a regular file")
    if status.st_size > limits.file_bytes:
        raise ArtifactError(f"the file has {status.st_size} bytes; {limits.file_bytes} is the limit")
    with path.open("rb") as stream:
        return stream.read(16)


def _read_confined(path: Path, found: ConfinedFormat, limits: Limits) -> Foreign:
    """Read a file in a process of its own."""
    if found == "keras-h5" and importlib.util.find_spec("h5py") is None:
        raise UsageError("Keras files need h5py", where=str(path), do="pip install 'qcaps[h5]'")
    with tempfile.TemporaryDirectory(prefix="qcaps-import-") as folder:
        try:
            run_confined(path, found, Path(folder))
        except subprocess.TimeoutExpired as error:
            raise ArtifactError("the file takes far too long to read") from error
        contents = read_contents(Path(folder), limits, str(path))
        tensors: dict[str, Tensor] = {}
        groups: dict[str, tuple[str, ...]] = {}
        for piece in contents.pieces:
            name = f"{piece.group}/{piece.name}" if piece.group else piece.name
            tensors[name] = torch.from_numpy(piece.values)
            if piece.group:
                groups[piece.group] = (*groups.get(piece.group, ()), name)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Foreign(path, found, digest, tensors, groups, contents.numbers, contents.config)
