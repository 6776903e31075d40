"""Routing: from the votes of the lower capsules to the upper ones.

Each routing is a module with the same call, ``routing(votes, sites)``, and declares the arrays and weights
of its own that a bit plan may round, so that any layer of vector capsules can be built with any of them. Matrix
capsules need activations beside votes; their routing is in :mod:`qcaps.capsules.em_routing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, at_least_float32, full_precision, squash
from qcaps.errors import UsageError

# Published networks run three or four passes; a file that asks for very many would never be done.
MOST_PASSES = 100

VectorRouting = Literal["dynamic", "attention", "uniform"]
# Added to the sum in every pass before the squash, or to the coupling coefficients.
BiasPosition = Literal["none", "in_loop", "after_softmax"]
# Who competes in the softmax: the upper capsules for each lower one, or the lower ones for each upper one.
SoftmaxAxis = Literal["classes", "inputs"]


class Routing(Protocol):
    """What a capsule layer needs to know of its routing."""

    arrays: tuple[str, ...]
    weights: Mapping[str, str]
    bias: nn.Parameter | None

    def __call__(self, votes: Tensor, sites: Sites) -> Tensor:
        """Combine votes ``(batch, n_in, n_out, d_out)`` into capsules ``(batch, n_out, d_out)``."""


@dataclass(frozen=True)
class RoutingSpec:
    """Every number of a routing of vector capsules.

    Parameters
    ----------
    kind
        Registry name.
    iterations
        Passes of dynamic routing, at least 1; the others make one.
    bias
        Where a bias is added; ``in_loop`` one vector per upper capsule type, ``after_softmax`` one number per pair.
    scale, temperature
        Divisors of the agreement of self-attention, and of what enters its softmax.
    prior_logits
        Whether the logits of dynamic routing start from a table learned with the weights.
    softmax_axis
        ``classes``: the couplings of each lower capsule sum to one. ``inputs``: those of each upper capsule do, as in
        the code of Towards Efficient Capsule Networks.
    absent
        Upper capsules that were pruned away: silent ones cast no agreement, so each keeps the share of a zero logit.
    detach
        Whether gradients flow into the votes through the last pass of dynamic routing alone.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.
    """

    kind: VectorRouting
    squash_variant: SquashVariant
    squash_eps: float
    iterations: int = 3
    bias: BiasPosition = "none"
    scale: float = 1.0
    temperature: float = 1.0
    prior_logits: bool = False
    detach: bool = False
    softmax_axis: SoftmaxAxis = "classes"
    absent: int = 0


def build_routing(
    spec: RoutingSpec, n_in: int, n_out: int, d_out: int, *, positions: int = 1
) -> DynamicRouting | SelfAttentionRouting | UniformRouting:
    """Build a routing of vector capsules.

    Parameters
    ----------
    spec
        Every number.
    n_in
        Lower capsules.
    n_out, d_out
        Upper capsules, index = type · positions + position, and their dimension.
    positions
        Upper capsules of one type in convolutional layers; they share a bias and compete with all others in one
        softmax.

    Raises
    ------
    UsageError
        If the routing would run more than 100 passes, or divide by zero.
    """
    if not spec.scale or not spec.temperature:
        raise UsageError("attention_scale and attention_temperature divide: they are more than 0")
    if spec.iterations > MOST_PASSES:
        raise UsageError(f"routing_passes is {spec.iterations}", do=f"at most {MOST_PASSES}")
    if spec.kind == "dynamic":
        return DynamicRouting(spec, n_in, n_out, d_out, positions=positions)
    if spec.kind == "attention":
        return SelfAttentionRouting(spec, n_in, n_out, d_out, positions=positions)
    return UniformRouting(spec, n_in, n_out, d_out, positions=positions)


class DynamicRouting(nn.Module):
    """Routing by agreement; arguments as for :func:`build_routing`.

    Notes
    -----
    The published loop ends with a logit update that nothing reads; it is skipped.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, procedure 1. With the softmax over types and
    positions: Rajasegaran et al., "DeepCaps: Going Deeper with Capsule Networks", 2019, section 3.1.
    """

    arrays = ("coupling", "sum", "out", "logits")

    def __init__(self, spec: RoutingSpec, n_in: int, n_out: int, d_out: int, *, positions: int = 1) -> None:
        super().__init__()
        self.spec, self.positions = spec, positions
        self.bias = _bias(spec.bias, n_in, n_out // positions, d_out)
        self.prior = nn.Parameter(torch.empty(n_in, n_out)) if spec.prior_logits else None
        self.weights = _weights(self.bias, self.prior)

    def forward(self, votes: Tensor, sites: Sites) -> Tensor:
        """Route votes ``(batch, n_in, n_out, d_out)`` to capsules ``(batch, n_out, d_out)``."""
        with full_precision(votes):
            votes = at_least_float32(votes)
            heard = votes.detach() if self.spec.detach else votes
            logits = torch.zeros_like(votes[..., 0])  # (batch, in, out)
            if self.prior is not None:
                logits = logits + self.prior
            for t in range(1, self.spec.iterations):
                capsules = self._one_pass(heard, logits, t, sites)
                logits = sites("logits", logits + agreement(heard, capsules), t)
            return self._one_pass(votes, logits, self.spec.iterations, sites)

    def _one_pass(self, votes: Tensor, logits: Tensor, t: int, sites: Sites) -> Tensor:
        coupling = _biased_coupling(compete(logits, self.spec), self)
        coupling = sites("coupling", coupling, t)  # (batch, in, out)
        total = sites("sum", _biased_sum(weighted_sum(coupling, votes), self), t)  # (batch, out, dim)
        return sites("out", squash(total, self.spec.squash_variant, self.spec.squash_eps), t)


class SelfAttentionRouting(nn.Module):
    """Route once, by the agreement of each vote with the sum of all votes; arguments as for :func:`build_routing`.

    Notes
    -----
    The published bias is added after the softmax, so couplings may be negative and need not sum to one. The paper
    divides by the root of the lower dimension, √8; the authors' code by the root of the upper one, √16: the scale holds
    either. The agreement of a vote with every other, summed, is its product with their sum, which is cheaper.

    References
    ----------
    Mazzia, Salvetti and Chiaberge, "Efficient-CapsNet: Capsule Network with Self-Attention Routing", 2021,
    eq. 4 to 6.
    """

    arrays = ("logits", "coupling", "sum", "out")

    def __init__(self, spec: RoutingSpec, n_in: int, n_out: int, d_out: int, *, positions: int = 1) -> None:
        super().__init__()
        self.spec, self.positions = spec, positions
        self.bias = _bias(spec.bias, n_in, n_out // positions, d_out)
        self.weights = _weights(self.bias)

    def forward(self, votes: Tensor, sites: Sites) -> Tensor:
        """Route votes ``(batch, n_in, n_out, d_out)`` to capsules ``(batch, n_out, d_out)``."""
        with full_precision(votes):
            votes = at_least_float32(votes)
            logits = sites("logits", agreement(votes, votes.sum(1)) / self.spec.scale)  # (batch, in, out)
            coupling = compete(logits / self.spec.temperature, self.spec)
            coupling = _biased_coupling(coupling, self)
            total = _biased_sum(weighted_sum(sites("coupling", coupling), votes), self)  # (batch, out, dim)
            return sites("out", squash(sites("sum", total), self.spec.squash_variant, self.spec.squash_eps))


class UniformRouting(nn.Module):
    """Couple every pair equally, the ablation of every routing; arguments as for :func:`build_routing`.

    It has the tensors of the routing it stands in for: biases stay in use, a table of prior logits does not.
    """

    arrays = ("coupling", "sum", "out")

    def __init__(self, spec: RoutingSpec, n_in: int, n_out: int, d_out: int, *, positions: int = 1) -> None:
        super().__init__()
        self.spec, self.positions = spec, positions
        self.bias = _bias(spec.bias, n_in, n_out // positions, d_out)
        self.prior = nn.Parameter(torch.empty(n_in, n_out)) if spec.prior_logits else None
        self.weights = _weights(self.bias, self.prior)

    def forward(self, votes: Tensor, sites: Sites) -> Tensor:
        """Combine votes ``(batch, n_in, n_out, d_out)`` into capsules ``(batch, n_out, d_out)``."""
        with full_precision(votes):
            votes = at_least_float32(votes)
            _, n_in, n_out, _ = votes.shape
            competing = n_in if self.spec.softmax_axis == "inputs" else n_out + self.spec.absent
            coupling = _biased_coupling(votes.new_full(votes.shape[:3], 1 / competing), self)
            total = _biased_sum(weighted_sum(sites("coupling", coupling), votes), self)  # (batch, out, dim)
            return sites("out", squash(sites("sum", total), self.spec.squash_variant, self.spec.squash_eps))


def _bias(position: BiasPosition, n_in: int, types: int, d_out: int) -> nn.Parameter | None:
    if position == "none":
        return None
    shape = (types, d_out) if position == "in_loop" else (n_in, types, 1)
    return nn.Parameter(torch.empty(shape))


def _weights(bias: nn.Parameter | None, prior: nn.Parameter | None = None) -> Mapping[str, str]:
    """Name the weight sites: role → parameter."""
    return {**({} if bias is None else {"bias": "bias"}), **({} if prior is None else {"prior": "prior"})}


def _biased_coupling(coupling: Tensor, routing: DynamicRouting | SelfAttentionRouting | UniformRouting) -> Tensor:
    """Add the bias of the pairs, if there is one: ``(batch, in, out)``."""
    if routing.bias is None or routing.spec.bias != "after_softmax":
        return coupling
    return coupling + routing.bias.squeeze(2).repeat_interleave(routing.positions, 1)


def _biased_sum(total: Tensor, routing: DynamicRouting | SelfAttentionRouting | UniformRouting) -> Tensor:
    """Add the bias of the upper capsules, if there is one: ``(batch, out, dim)``."""
    if routing.bias is None or routing.spec.bias != "in_loop":
        return total
    return total + routing.bias.repeat_interleave(routing.positions, 0)


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


def compete(logits: Tensor, spec: RoutingSpec) -> Tensor:
    """Turn logits into coupling coefficients, ``(batch, in, out)`` each.

    Among the classes the softmax is taken along the middle axis of the memory that votes and logits share, which is 20
    times faster than along the last one. Absent classes take the share of a zero logit.
    """
    by_class = logits.transpose(1, 2)  # (batch, out, in)
    if spec.softmax_axis == "inputs":
        return torch.softmax(by_class, dim=2).transpose(1, 2)
    if spec.absent == 0:
        return torch.softmax(by_class, dim=1).transpose(1, 2)
    total = torch.logaddexp(by_class.logsumexp(1, keepdim=True), by_class.new_tensor(math.log(spec.absent)))
    return (by_class - total).exp().transpose(1, 2)


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
