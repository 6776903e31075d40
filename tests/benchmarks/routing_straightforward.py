"""The class-capsule layer written straight from its formula. FROZEN: the baseline of `bench_routing.py`.

Speed is compared with this form, so it is never made faster. Every product is spelled out as broadcast and
sum, coupling × votes exists in memory, and the loop ends with the published logit update that nothing reads.
The squash is Q-CapsNets' s·n/(1+n²).
"""

from __future__ import annotations

import torch
from torch import Tensor


def straightforward_class_capsules(lower: Tensor, weight: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Map capsules ``(batch, n_in, d_in)`` to ``(batch, n_out, d_out)``, weight ``(n_in, n_out, d_in, d_out)``."""
    votes = (lower[:, :, None, :, None] * weight).sum(3)  # (batch, in, out, dim)
    return straightforward_routing(votes, bias, iterations)


def straightforward_routing(votes: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Route votes ``(batch, n_in, n_out, d_out)`` with a bias ``(n_out, d_out)`` in every pass."""
    logits = torch.zeros_like(votes[..., 0])  # (batch, in, out)
    for _ in range(iterations):
        coupling = torch.softmax(logits, dim=2)
        s = (coupling[..., None] * votes).sum(1) + bias  # (batch, out, dim)
        norm = s.norm(dim=2, keepdim=True)
        capsules = s * norm / (1 + norm**2)
        logits = logits + (votes * capsules[:, None]).sum(3)
    return capsules
