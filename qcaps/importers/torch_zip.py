"""Read a foreign checkpoint that PyTorch 1.6 or newer wrote: a zip of one pickle and the numbers of each tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from qcaps.artifacts.records import Limits, Record, parsing, refusal, stored_records
from qcaps.errors import quoted
from qcaps.importers.foreign_pickle import StoredTensor, read_pickle
from qcaps.importers.state_dict import numbers_beside, state_dict_of

# Kinds of storage whose tensors are read; optimizer states and the like may lie beside them in other kinds.
_DTYPES: dict[str, np.dtype[np.float32] | np.dtype[np.int64]] = {"Float": np.dtype("<f4"), "Long": np.dtype("<i8")}


def read_torch_zip(data: bytes, limits: Limits, where: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read the tensors of a state dict, and the whole numbers beside it.

    The tensors are float32 and int64, contiguous, in the order of the file.

    Nothing is called or imported on behalf of the file, and all tensors together take no more bytes than it has.

    Raises
    ------
    ArtifactError
        If the file is damaged or hostile, or holds something else than a state dict.
    """
    records = stored_records(data, limits, where)
    with parsing("holds a damaged pickle", where):
        loaded = read_pickle(records["data.pkl"].read(), where)
        stored = state_dict_of(loaded, StoredTensor, where)
    _check_sizes(stored, records, limits, where)
    with parsing("holds a damaged tensor", where):
        for key in {tensor.storage.key for tensor in stored.values()}:
            records[f"data/{key}"].verify()
        return {name: _tensor(tensor, records) for name, tensor in stored.items()}, numbers_beside(loaded)


def _check_sizes(stored: Mapping[str, StoredTensor], records: Mapping[str, Record], limits: Limits, where: str) -> None:
    """Refuse tensors that claim more than the file holds, before any is allocated."""
    total = 0
    for name, tensor in stored.items():
        storage = tensor.storage
        if storage.kind not in _DTYPES:
            raise refusal(f"holds tensor {quoted(name)} in another precision than float32: {storage.kind}", where)
        record = records.get(f"data/{storage.key}")
        if record is None or len(record.content) != storage.elements * _DTYPES[storage.kind].itemsize:
            raise refusal(f"has another number of bytes for tensor {quoted(name)} than it says", where)
        if len(tensor.shape) > limits.rank:
            raise refusal(f"holds tensor {quoted(name)} with {len(tensor.shape)} dimensions", where)
        elements = math.prod(tensor.shape)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
        repeated = any(n > 1 and step == 0 for n, step in zip(tensor.shape, tensor.stride, strict=True))
        if repeated or elements > storage.elements or (elements and last >= storage.elements):
            raise refusal(f"does not hold all elements of tensor {quoted(name)}", where)
        total += elements * _DTYPES[storage.kind].itemsize
    if total > sum(len(record.content) for record in records.values()):
        raise refusal("holds tensors that share their numbers", where)


def _tensor(tensor: StoredTensor, records: Mapping[str, Record]) -> Tensor:
    """Copy the numbers of a checked tensor out of its record, first index slowest."""
    dtype = _DTYPES[tensor.storage.kind]
    strides = [step * dtype.itemsize for step in tensor.stride]
    content = records[f"data/{tensor.storage.key}"].content
    # numpy views no empty buffer, not even as no elements.
    view = np.ndarray(tensor.shape, dtype, content or bytes(8), tensor.offset * dtype.itemsize, strides)
    return torch.from_numpy(np.array(view, order="C", copy=True))
