"""Read a foreign checkpoint from before PyTorch 1.6, a row of pickles; only inside the confined process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from qcaps.artifacts.records import refusal
from qcaps.errors import quoted
from qcaps.importers.handover import Contents, Piece
from qcaps.importers.state_dict import numbers_beside, state_dict_of


def read_torch_legacy(path: Path) -> Contents:
    """Read the tensors of a state dict with torch's weights-only reader, all on the CPU.

    Raises
    ------
    ArtifactError
        If the file holds something else than a state dict, or tensors larger than itself.
    Exception
        Of any kind, if torch refuses it.
    """
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    tensors = state_dict_of(loaded, Tensor, str(path))
    _check_sizes(tensors, path)
    return Contents(_pieces(tensors), numbers=numbers_beside(loaded))


def _check_sizes(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim more numbers than the file holds; a copy would allocate them."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.int64):
            raise refusal(f"holds tensor {quoted(name)} in another precision than float32", str(path))
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise refusal(f"does not hold all elements of tensor {quoted(name)}", str(path))
    if sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()) > path.stat().st_size:
        raise refusal("holds tensors that share their numbers", str(path))


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[Piece]:
    for name, tensor in tensors.items():
        yield Piece("", name, tensor.detach().numpy())
