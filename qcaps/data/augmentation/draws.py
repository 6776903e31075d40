"""Random numbers of augmentations, on the device of their generator."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw uniformly from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def integers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Tensor:
    """Draw integers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def flags(shape: tuple[int, ...], probability: float, generator: torch.Generator) -> Tensor:
    """Draw true with a probability."""
    return torch.rand(shape, generator=generator, device=generator.device) < probability


def clipped_normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from the normal distribution of mean 0 and standard deviation 0.33, clipped below 1."""
    return (0.33 * torch.randn(shape, generator=generator, device=generator.device)).clamp(-0.9999, 0.9999)
