"""Squash: shrink a vector below length 1 and keep its direction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SquashVariant = Literal["hinton_ratio", "hinton", "hinton_sqrt", "efficient"]

# Below this squared length a vector counts as zero, so that the root keeps a finite gradient.
TINY = 1e-30


def squash(s: Tensor, variant: SquashVariant, eps: float) -> Tensor:
    """Squash every vector along the last axis.

    Parameters
    ----------
    s
        Vectors before squashing, shape ``(..., dim)``.
    variant
        With n the length of s: ``hinton_ratio`` s·n/(1+n²); ``hinton`` n²/(1+n²)·s/(n+eps); ``hinton_sqrt``
        n²/(1+n²)·s/√(n²+eps); ``efficient`` (1−e⁻ⁿ)·s/(n+eps).
    eps
        Guard of the division; ``hinton_ratio`` has none.

    Returns
    -------
    Tensor
        Same shape, lengths in [0, 1), float32 (float64 for float64 input); zero stays zero, with a finite gradient.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, eq. 1. Mazzia, Salvetti and Chiaberge,
    "Efficient-CapsNet", 2021, eq. 2, where 1 − 1/eⁿ is written here as −expm1(−n) so that no n overflows.
    """
    with full_precision(s):
        s = at_least_float32(s)
        squared = s.square().sum(-1, keepdim=True)
        norm = squared.clamp_min(TINY).sqrt()
        if variant == "hinton_ratio":
            return s * (norm / (1 + squared))
        if variant == "hinton":
            return s * (squared / ((1 + squared) * (norm + eps)))
        if variant == "hinton_sqrt":
            return s * (squared / ((1 + squared) * (squared + max(eps, TINY)).sqrt()))
        return s * (-torch.expm1(-norm) / (norm + eps))


def length(v: Tensor, eps: float = 0.0) -> Tensor:
    """Measure every vector along the last axis: √(Σv² + eps), shape ``(..., dim)`` → ``(...)``.

    The gradient at zero is finite for every `eps`.
    """
    with full_precision(v):
        return at_least_float32(v).square().sum(-1).add(eps).clamp_min(TINY).sqrt()


def full_precision(like: Tensor) -> torch.autocast:
    """Switch autocast off inside the block: half-precision epsilons underflow to 0/0."""
    return torch.autocast(like.device.type if like.device.type != "meta" else "cpu", enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half-precision values to float32 and leave wider ones alone."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
