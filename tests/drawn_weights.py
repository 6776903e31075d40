"""Random numbers of a size that keeps capsules neither near 0 nor near 1, through layers of any width."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kernel(n_out: int, n_in: int, *size: int) -> Tensor:
    """Draw weights ``(out, in, ...)`` that keep the size of what they are applied to."""
    return torch.randn(n_out, n_in, *size) / math.sqrt(n_in * math.prod(size) / 2)


def keras_kernel(*shape: int) -> Tensor:
    """Draw weights ``(..., in, out)`` that keep the size of what they are applied to."""
    return torch.randn(shape) / math.sqrt(math.prod(shape[:-1]) / 2)


def bias(*shape: int) -> Tensor:
    """Draw small numbers."""
    return 0.1 * torch.randn(shape)


def class_weight(lower: int, classes: int, class_dim: int, *shape: int) -> Tensor:
    """Draw class weights that give class capsules of middling lengths."""
    return torch.randn(shape) * 1.2 * classes / math.sqrt(lower * class_dim)


def batch_norm(path: str, channels: int) -> dict[str, Tensor]:
    """Make the tensors of PyTorch's batch norm, far from the identity."""
    return {
        f"{path}.weight": 1 + bias(channels),
        f"{path}.bias": bias(channels),
        f"{path}.running_mean": bias(channels),
        f"{path}.running_var": 0.5 + torch.rand(channels),
        f"{path}.num_batches_tracked": torch.tensor(7),
    }
