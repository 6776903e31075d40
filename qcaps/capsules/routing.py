"""Routing: from the votes of the lower capsules to the class capsules.

Each routing is a module with the same call, ``routing(votes, sites)``, and declares the arrays and weights
of its own that a bit plan may round, so that any capsule layer can be built with any routing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, at_least_float32, full_precision, squash


class Routing(Protocol):
    """What a capsule layer needs to know of its routing."""

    arrays: tuple[str, ...]
    weights: Mapping[str, str]

    def __call__(self, votes: Tensor, sites: Sites) -> Tensor:
        """Combine votes ``(batch, n_in, n_out, d_out)`` into capsules ``(batch, n_out, d_out)``."""


class DynamicRouting(nn.Module):
    """Routing by agreement.

    Parameters
    ----------
    n_out, d_out
        Number and dimension of the class capsules.
    iterations
        Passes of softmax, weighted sum and squash, at least 1; one pass is uniform routing.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.
    with_bias
        Whether a bias of shape ``(n_out, d_out)`` is added to the sum in every pass, before the squash.

    Notes
    -----
    The published loop ends with a logit update that nothing reads; it is skipped.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, procedure 1.
    """

    arrays = ("coupling", "sum", "out", "logits")

    def __init__(
        self,
        n_out: int,
        d_out: int,
        *,
        iterations: int,
        squash_variant: SquashVariant,
        squash_eps: float,
        with_bias: bool,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.squash_variant = squash_variant
        self.squash_eps = squash_eps
        self.bias = nn.Parameter(torch.empty(n_out, d_out)) if with_bias else None
        self.weights: Mapping[str, str] = {"bias": "bias"} if with_bias else {}

    def forward(self, votes: Tensor, sites: Sites) -> Tensor:
        """Route votes ``(batch, n_in, n_out, d_out)`` to capsules ``(batch, n_out, d_out)``."""
        with full_precision(votes):
            votes = at_least_float32(votes)
            logits = torch.zeros_like(votes[..., 0])  # (batch, in, out)
            capsules = self._one_pass(votes, logits, 1, sites)
            for t in range(1, self.iterations):
                logits = sites("logits", logits + agreement(votes, capsules), t)
                capsules = self._one_pass(votes, logits, t + 1, sites)
            return capsules

    def _one_pass(self, votes: Tensor, logits: Tensor, t: int, sites: Sites) -> Tensor:
        coupling = sites("coupling", softmax_over_classes(logits), t)  # (batch, in, out)
        total = weighted_sum(coupling, votes)  # (batch, out, dim)
        if self.bias is not None:
            total = total + self.bias
        return sites("out", squash(sites("sum", total, t), self.squash_variant, self.squash_eps), t)


class SelfAttentionRouting(nn.Module):
    """Route once, by the agreement of each vote with the sum of all votes for the same class.

    Parameters
    ----------
    n_in, n_out
        Number of lower and of class capsules; the bias has shape ``(n_in, n_out, 1)``.
    scale
        Divisor of the agreement.
    uniform
        Replace the softmax by 1/n_out, the ablation; the bias after it stays.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.

    Notes
    -----
    The bias is added after the softmax, so couplings may be negative and need not sum to one. The paper divides
    by the root of the lower dimension, √8; the authors' code by the root of the upper one, √16: `scale` holds
    either. The agreement of a vote with every other, summed, is its product with their sum, which is cheaper.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, "Efficient-CapsNet: Capsule Network with Self-Attention Routing", 2021,
    eq. 4 to 6.
    """

    arrays = ("logits", "coupling", "sum", "out")
    weights: Mapping[str, str] = {"bias": "bias"}

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        scale: float,
        squash_variant: SquashVariant,
        squash_eps: float,
        uniform: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.uniform = uniform
        self.squash_variant = squash_variant
        self.squash_eps = squash_eps
        self.bias = nn.Parameter(torch.empty(n_in, n_out, 1))

    def forward(self, votes: Tensor, sites: Sites) -> Tensor:
        """Route votes ``(batch, n_in, n_out, d_out)`` to capsules ``(batch, n_out, d_out)``."""
        with full_precision(votes):
            votes = at_least_float32(votes)
            if self.uniform:
                coupling = votes.new_full(votes.shape[:3], 1 / votes.shape[2])  # (batch, in, out)
            else:
                logits = sites("logits", agreement(votes, votes.sum(1)) / self.scale)  # (batch, in, out)
                coupling = softmax_over_classes(logits)
            coupling = sites("coupling", coupling + self.bias.squeeze(-1))
            total = sites("sum", weighted_sum(coupling, votes))  # (batch, out, dim)
            return sites("out", squash(total, self.squash_variant, self.squash_eps))


def cast_votes(lower: Tensor, weight: Tensor) -> Tensor:
    """Predict every class capsule from every lower capsule.

    Parameters
    ----------
    lower
        Lower capsules, shape ``(batch, n_in, d_in)``.
    weight
        One matrix per pair, shape ``(n_in, n_out, d_in, d_out)``.

    Returns
    -------
    Tensor
        Votes, shape ``(batch, n_in, n_out, d_out)``; in memory ``n_out`` comes before ``n_in``, the order in
        which routing reads them.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, eq. 2.
    """
    n_in, n_out, d_in, d_out = weight.shape
    matrices = weight.transpose(1, 2).reshape(n_in, d_in, n_out * d_out)
    votes = torch.bmm(lower.transpose(0, 1), matrices)  # (in, batch, out * dim)
    votes = votes.view(n_in, -1, n_out, d_out).permute(1, 2, 0, 3).contiguous()  # (batch, out, in, dim)
    return votes.transpose(1, 2)  # (batch, in, out, dim)


def softmax_over_classes(logits: Tensor) -> Tensor:
    """Let the classes compete for each lower capsule: ``(batch, in, out)`` → the same, summing to 1 over ``out``.

    Taken along the middle axis of the memory that votes and logits share, which is 20 times faster than along the
    last one.
    """
    return torch.softmax(logits.transpose(1, 2), dim=1).transpose(1, 2)


def weighted_sum(coupling: Tensor, votes: Tensor) -> Tensor:
    """Sum the votes for each class by their coupling coefficients.

    ``(batch, in, out)`` and ``(batch, in, out, dim)`` → ``(batch, out, dim)``, one matrix product per image and
    class, so that coupling × votes never exists in memory.
    """
    by_class = votes.transpose(1, 2)  # (batch, out, in, dim)
    return torch.matmul(coupling.transpose(1, 2).unsqueeze(2), by_class).squeeze(2)


def agreement(votes: Tensor, capsules: Tensor) -> Tensor:
    """Multiply each vote with the capsule of its class.

    ``(batch, in, out, dim)`` and ``(batch, out, dim)`` → ``(batch, in, out)``.
    """
    by_class = votes.transpose(1, 2)  # (batch, out, in, dim)
    # Row times matrix: matrix times column is three times slower.
    return torch.matmul(capsules.unsqueeze(2), by_class.transpose(2, 3)).squeeze(2).transpose(1, 2)
