"""The first checkpoint of a chain: its hits travel with every network made of it, to count losses against."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.errors import ArtifactError

RECORD = "chain"


@dataclass(frozen=True, eq=False)
class First:
    """The network that a chain began with.

    Parameters
    ----------
    file, sha256, model
        Name and hash of its checkpoint, and its architecture.
    hits
        sha256 of some images → whether each was recognised, bool, shape ``(n,)``.
    """

    file: str
    sha256: str
    model: str
    hits: Mapping[str, Tensor]

    def hits_on(self, images: ImageSet) -> Tensor | None:
        """Tell for every image whether it was recognised; None if these are not images that are known of."""
        return self.hits.get(images.sha256())


def first_to_record(first: First) -> dict[str, object]:
    """Write it as plain data for the record of a checkpoint, a bit for every image."""
    hits = {
        images: {"count": len(found), "bits": base64.b64encode(np.packbits(found.numpy()).tobytes()).decode()}
        for images, found in first.hits.items()
    }
    return {"file": first.file, "sha256": first.sha256, "model": first.model, "hits": hits}


def first_of(record: Mapping[str, object], *, where: str) -> First | None:
    """Read it out of the record of a checkpoint; None if that checkpoint is the first itself.

    Raises
    ------
    ArtifactError
        If the record holds something else in its place.
    """
    if RECORD not in record:
        return None
    try:
        told: Mapping[str, object] = dict(record[RECORD])  # type: ignore[call-overload]  # checked by the except below
        hits = {str(images): _unpacked(dict(packed)) for images, packed in dict(told["hits"]).items()}  # type: ignore[call-overload]  # as above
        return First(str(told["file"]), str(told["sha256"]), str(told["model"]), hits)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise ArtifactError("the record of the first checkpoint is damaged", where=where) from error


def _unpacked(packed: Mapping[str, object]) -> Tensor:
    count, bits = packed["count"], packed["bits"]
    if type(count) is not int or type(bits) is not str:
        raise TypeError("neither a count nor bits")
    stored = np.frombuffer(base64.b64decode(bits, validate=True), np.uint8)
    if count < 0 or len(stored) != -(-count // 8):
        raise ValueError(f"{len(stored)} bytes do not hold {count} bits")
    return torch.from_numpy(np.unpackbits(stored, count=count).astype(bool))
