"""The one kind of file that qcaps reads: a torch zip with a JSON header and plain tensors.

``torch.load(path, weights_only=True)`` alone opens it: ``{"header": str, "tensors": {str: Tensor}}``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcaps.artifacts.archive import check_archive, unexpected_content
from qcaps.artifacts.records import Limits as Limits
from qcaps.artifacts.records import parsing, refusal
from qcaps.artifacts.writing import atomic_write
from qcaps.errors import ArtifactError, QcapsError, quoted

DTYPES = {torch.float32: "float32", torch.uint8: "uint8", torch.int64: "int64"}
VERSION = 1
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, eq=False)
class Container:
    """One file, loaded whole and verified.

    Parameters
    ----------
    path
        Where it was read.
    schema
        Family of the file without its version, for example ``qcaps.checkpoint``.
    header
        The JSON header without the manifest of the tensors.
    tensors
        Contiguous CPU tensors by name, sorted; each owns its memory.
    sha256, file_bytes
        Hash, in hex, and size of the whole file.
    """

    path: Path
    schema: str
    header: dict[str, object]
    tensors: dict[str, Tensor]
    sha256: str
    file_bytes: int


def container_bytes(header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise a header and tensors; the same content gives the same bytes.

    Parameters
    ----------
    header
        Plain JSON data with a ``schema`` such as ``qcaps.checkpoint/1``. A manifest of the tensors (shape,
        dtype, sha256) is added as ``tensors``.
    tensors
        float32, uint8 or int64, any device and strides; float values must be finite.

    Raises
    ------
    ValueError
        If the header has no valid schema, has ``tensors`` already or holds NaN, or a dtype is another one.
    QcapsError
        If a tensor holds NaN or infinity.
    """
    if not _SCHEMA.fullmatch(str(header.get("schema"))) or "tensors" in header:
        raise ValueError("a header needs a schema such as 'qcaps.checkpoint/1', and no 'tensors'")
    # A clone owns exactly its elements: a view would drag the whole storage behind it into the file.
    plain = {
        name: tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(tensors)
    }
    for name, tensor in plain.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} is {tensor.dtype}, not one of {sorted(DTYPES.values())}")
        if not _finite(tensor):
            raise QcapsError(f"tensor {quoted(name)} holds NaN or infinity", do="find the step that made them")
    text = json.dumps({**header, "tensors": _manifest(plain)}, sort_keys=True, allow_nan=False, separators=(",", ":"))
    # Saving to a path would put the file's own name into the bytes.
    buffer = io.BytesIO()
    torch.save({"header": text, "tensors": plain}, buffer)
    return buffer.getvalue()


def write_container(path: Path, header: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Write a container atomically and give the sha256 of the file, in hex.

    Raises
    ------
    UsageError
        If the file cannot be written; see also :func:`container_bytes`.
    """
    data = container_bytes(header, tensors)
    atomic_write(path, data)
    return hashlib.sha256(data).hexdigest()


def read_container(path: Path, *, schema: str | tuple[str, ...], limits: Limits = DEFAULT_LIMITS) -> Container:
    """Read and verify a container of the family, or one of the families, `schema`.

    The file is read once: what was checked is what is loaded. Whatever a file declares, memory stays below
    twice its size and 200 MB.

    Raises
    ------
    ArtifactError
        If the file is unreadable, damaged, hostile, of another family or of an unknown version.

    References
    ----------
    PyTorch CVE-2025-32434 and CVE-2026-24747: why weights-only loading alone is not trusted.
    """
    where = str(path)
    data = _file_bytes(path, limits)
    check_archive(data, limits, where)
    with parsing("cannot be loaded by torch", where):
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)
    text, tensors = _parts(loaded, where)
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, limits, where)
    header = _header(text, limits, where)
    family = _family(header, schema, where)
    _check_manifest(header.pop("tensors", None), tensors, where)
    return Container(path, family, header, tensors, hashlib.sha256(data).hexdigest(), len(data))


_SCHEMA = re.compile(r"[a-z][a-z.-]{0,60}/[0-9]{1,4}")


def _finite(tensor: Tensor) -> bool:
    """Tell whether no value is NaN or infinite, without a temporary as large as the tensor."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def _manifest(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Describe every tensor by shape, dtype and hash of its bytes."""
    return {
        name: {
            "shape": list(tensor.shape),
            "dtype": DTYPES[tensor.dtype],
            "sha256": hashlib.sha256(tensor.reshape(-1).numpy().data).hexdigest(),
        }
        for name, tensor in tensors.items()
    }


def _file_bytes(path: Path, limits: Limits) -> bytes:
    """Read a regular file of bounded size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise refusal("is not a regular file", str(path))
        if status.st_size > limits.file_bytes:
            raise refusal(f"has {status.st_size} bytes; {limits.file_bytes} is the limit", str(path))
        with path.open("rb") as stream:
            return stream.read(status.st_size)
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise ArtifactError(
            f"cannot read the file: {reason}", where=str(path), do="check the path and its permissions"
        ) from error


def _parts(loaded: object, where: str) -> tuple[str, dict[str, Tensor]]:
    """Take header and tensors out of what torch loaded, by exact type."""
    if type(loaded) is dict and loaded.keys() == {"header", "tensors"}:
        text, tensors = loaded["header"], loaded["tensors"]
        if type(text) is str and type(tensors) is dict and all(type(name) is str for name in tensors):
            return text, dict(sorted(tensors.items()))
    raise unexpected_content(where)


def _check_tensor(name: str, tensor: object, limits: Limits, where: str) -> None:
    """Refuse everything but a finite dense tensor that fills its storage exactly."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        raise refusal(f"holds {quoted(name)}, which is not a plain tensor", where)
    stored = tensor.untyped_storage().nbytes()
    if not tensor.is_contiguous() or stored != tensor.numel() * tensor.itemsize:
        raise refusal(f"stores {stored} bytes for tensor {quoted(name)}, not all its elements in order", where)
    if tensor.dim() > limits.rank:
        raise refusal(f"holds tensor {quoted(name)} with {tensor.dim()} dimensions", where)
    if not _finite(tensor):
        raise refusal(f"holds NaN or infinity in tensor {quoted(name)}", where)


def _header(text: str, limits: Limits, where: str) -> dict[str, object]:
    """Parse the JSON header: bounded, no repeated keys, finite numbers, text that can be printed."""
    if len(text) > limits.header_bytes:
        raise refusal(f"has a header of {len(text)} characters", where)
    with parsing("has a header that is not valid JSON", where):
        header = json.loads(text, object_pairs_hook=_without_repeats)
        json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    if type(header) is not dict or _depth(header) > limits.header_depth:
        raise refusal(f"has a header that is no object or nested deeper than {limits.header_depth}", where)
    return header


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse a JSON object that says one key twice."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values


def _depth(header: object) -> int:
    """Count the levels of nested objects and lists."""
    level: list[Any] = [header]
    depth = 0
    while level:
        depth += 1
        parents = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for parent in parents for child in parent if isinstance(child, dict | list)]
    return depth


def _family(header: dict[str, object], schema: str | tuple[str, ...], where: str) -> str:
    """Give the family of the file if it is an expected one of a known version."""
    found = header.get("schema")
    families = (schema,) if isinstance(schema, str) else schema
    if not isinstance(found, str) or not _SCHEMA.fullmatch(found):
        raise refusal(f"has no valid schema in its header: {quoted(found)}", where)
    family, _, version = found.partition("/")
    if family not in families:
        raise ArtifactError(
            f"the file is a {found}, not a {' or a '.join(families)}", where=where, do="give another file"
        )
    if version != str(VERSION):
        raise ArtifactError(
            f"the file is a {found}; this qcaps reads version {VERSION}", where=where, do="update qcaps"
        )
    return family


def _check_manifest(manifest: object, tensors: Mapping[str, Tensor], where: str) -> None:
    """Compare every tensor with what the header says about it, both ways."""
    if not isinstance(manifest, dict):
        raise refusal("has a header without the manifest of its tensors", where)
    found = _manifest(tensors)
    for name in sorted(manifest.keys() | found.keys()):
        if name not in found:
            raise refusal(f"lacks tensor {quoted(name)}", where)
        if name not in manifest:
            raise refusal(f"holds tensor {quoted(name)}, which its header does not name", where)
        if found[name] != manifest[name]:
            raise refusal(
                f"holds tensor {quoted(name)} with another shape, dtype or sha256 than its header says", where
            )
