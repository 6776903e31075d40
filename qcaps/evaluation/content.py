"""Networks and tensors named by their content, so that no measurement is made twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, spec_to_dict


def network_content(model: ModelSpec, network: CapsuleNetwork) -> tuple[object, ...]:
    """Identify a network by its spec and the sha256 of its numbers, names included."""
    return spec_to_dict(model), tensors_sha256(network.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Identify tensors by their names, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
