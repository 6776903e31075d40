"""EM routing: fit one Gaussian to the votes for each upper matrix capsule, and share the lower capsules among them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import at_least_float32, full_precision

# An upper capsule with a smaller sum of assignments has no voters; its mean goes to the middle of its votes, not 0/0.
LEAST_SHARE = 1e-8


@dataclass(frozen=True)
class Patches:
    """Which lower positions each upper position sees; no padding.

    Parameters
    ----------
    rows, columns
        Of the lower grid.
    kernel
        Rows and columns that an upper position sees.
    stride
        Lower positions from one upper position to the next, in both directions.
    """

    rows: int
    columns: int
    kernel: tuple[int, int]
    stride: int

    @property
    def grid(self) -> tuple[int, int]:
        """Give the rows and columns of the upper grid."""
        return (self.rows - self.kernel[0]) // self.stride + 1, (self.columns - self.kernel[1]) // self.stride + 1

    @cached_property
    def seen(self) -> list[int]:
        """The lower position (row · columns + column) at every place.

        A place is a kernel cell of an upper position: place = upper position · cells + cell, both row by row.
        """
        return [
            (row * self.stride + i) * self.columns + column * self.stride + j
            for row in range(self.grid[0])
            for column in range(self.grid[1])
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
        ]

    @cached_property
    def places(self) -> list[list[int]]:
        """The places of every lower position, filled up to one length with a place that does not exist."""
        found: list[list[int]] = [[] for _ in range(self.rows * self.columns)]
        for place, position in enumerate(self.seen):
            found[position].append(place)
        most = max(map(len, found))
        return [places + [len(self.seen)] * (most - len(places)) for places in found]

    def look(self, lower: Tensor) -> Tensor:
        """Gather what is seen: ``(batch, rows, columns, types, ...)`` → ``(batch, positions, cells · types, ...)``."""
        windows = lower.unfold(1, self.kernel[0], self.stride).unfold(2, self.kernel[1], self.stride)
        return windows.movedim((-2, -1), (3, 4)).flatten(3, 5).flatten(1, 2)


@dataclass(frozen=True)
class EMRoutingSpec:
    """Every number of EM routing.

    Parameters
    ----------
    kind
        ``uniform`` leaves the assignment where it starts, the ablation.
    iterations
        M-steps, at least 1; an E-step lies between two of them.
    lambda_limit, lambda_decay
        Inverse temperature of pass t = 1, 2, …: limit · (1 − decay^t).
    variance_floor
        Added to every variance, so that a capsule with a single voter keeps a finite likelihood.
    absent
        Upper capsule types that were pruned away: they keep the even share that routing starts from, and get no other.
    """

    kind: Literal["em", "uniform"] = "em"
    iterations: int = 3
    lambda_limit: float = 0.01
    lambda_decay: float = 0.95
    variance_floor: float = 1e-6
    absent: int = 0

    @property
    def lambdas(self) -> list[float]:
        """Give λ of every pass that is made."""
        every = [self.lambda_limit * (1 - self.lambda_decay**t) for t in range(1, self.iterations + 1)]
        return every if self.kind == "em" else every[-1:]


class MatrixCapsules(NamedTuple):
    """Poses ``(..., pose)`` and activations in [0, 1], shape ``(...)``, of the same capsules."""

    poses: Tensor
    activations: Tensor


class CapsuleActivation(nn.Module):
    """Activate a capsule by how little it costs to describe its votes.

    Parameters
    ----------
    n_out
        Capsule types. β_u, the price of a vote, and β_a, what a capsule may cost, have shape ``(n_out,)``; they are
        the weight and the bias of this layer.
    """

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.beta_u = nn.Parameter(torch.empty(n_out))
        self.beta_a = nn.Parameter(torch.empty(n_out))
        self.sites = Sites("out", weights={"weight": "beta_u", "bias": "beta_a"})

    def forward(self, share: Tensor, variance: Tensor, inverse_temperature: float) -> Tensor:
        """Give the log-odds of the activations.

        Parameters
        ----------
        share
            Sum of the assignments of each upper capsule, shape ``(batch, positions, n_out)``.
        variance
            Of its votes, shape ``(batch, positions, n_out, pose)``.
        inverse_temperature
            λ.
        """
        log_deviation = variance.log().sum(-1) / 2
        cost = (variance.shape[-1] * self.beta_u + log_deviation) * share
        return inverse_temperature * (self.beta_a - cost)


class EMRouting(nn.Module):
    """Routing by expectation and maximisation.

    Parameters
    ----------
    spec
        Every number.
    patches
        Who sees whom. All upper capsules that see a lower one, of every type and at every position, compete for it.
    n_out
        Upper capsule types.

    Notes
    -----
    Squared distances are multiplied out, v² − 2vμ + μ², so that every pass consists of matrix products. Before that
    the votes for a capsule are moved to have their middle at zero: then little cancels in the difference.

    Where the paper leaves room: the assignment starts at one over the number of upper capsules that see the lower
    one, positions times types. A capsule costs Σ_h (β_u + log σ_h) · Σr, the sum over its pose entries h, and its
    activation is logistic(λ · (β_a − cost)), λ = 0.01 · (1 − 0.95^t) in pass t = 1, 2, 3. Nobody reads the assignment
    after the last M-step; it is not computed. With an assignment that never changes all M-steps are the same:
    uniform routing makes one, with the λ of the last.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 3 and procedure 1.
    """

    def __init__(self, spec: EMRoutingSpec, patches: Patches, n_out: int) -> None:
        super().__init__()
        self.spec, self.patches = spec, patches
        self.arrays = ("coupling", "sum", "logits") if len(spec.lambdas) > 1 else ("coupling", "sum")
        self.activation = CapsuleActivation(n_out)

    def forward(self, votes: Tensor, activations: Tensor, sites: Sites) -> MatrixCapsules:
        """Route votes to the upper capsules.

        Parameters
        ----------
        votes
            Shape ``(batch, positions, n_out, n_in, pose)``; n_in are the lower capsules that an upper position sees,
            index = kernel cell · types + type.
        activations
            Of these lower capsules, in [0, 1], shape ``(batch, positions, n_in)``.
        sites
            Of the layer; means are its ``sum``.

        Returns
        -------
        MatrixCapsules
            Shapes ``(batch, positions, n_out, pose)`` and ``(batch, positions, n_out)``.
        """
        with full_precision(votes):
            votes, activations = at_least_float32(votes), at_least_float32(activations)
            centre = votes.detach().mean(3)  # (batch, positions, out, pose)
            offsets = votes - centre.unsqueeze(3)
            squares = offsets.square()
            coupling = even_coupling(votes, self.patches, self.spec.absent)
            for t, inverse_temperature in enumerate(self.spec.lambdas, start=1):
                weights = sites("coupling", coupling, t) * activations.unsqueeze(2)  # (batch, positions, out, in)
                share = weights.sum(3)  # (batch, positions, out)
                weights = weights / share.clamp_min(LEAST_SHARE).unsqueeze(3)
                first, second = weighted_sum(weights, offsets), weighted_sum(weights, squares)
                means = sites("sum", centre + first, t)  # (batch, positions, out, pose)
                shift = means - centre
                variance = (second - shift * (2 * first - shift)).clamp_min(0) + self.spec.variance_floor
                log_odds = self.activation(share, variance, inverse_temperature)
                if t < len(self.spec.lambdas):
                    log_density = gaussian_log_density(offsets, squares, shift, variance)
                    logits = sites("logits", log_density + logsigmoid(log_odds).unsqueeze(3), t)
                    coupling = compete(logits, self.patches)
            return MatrixCapsules(means, self.activation.sites("out", torch.sigmoid(log_odds)))


def even_coupling(votes: Tensor, patches: Patches, absent: int = 0) -> Tensor:
    """Share every lower capsule evenly among the upper ones that see it.

    Votes ``(batch, positions, n_out, n_in, pose)`` → ``(batch, positions, n_out, n_in)``, the sum over all upper
    capsules that see a lower one, those of `absent` more types included, is 1.
    """
    upper = Counter(patches.seen)
    competing = votes.shape[2] + absent
    shares = votes.new_tensor([1 / (competing * upper[position]) for position in patches.seen])
    by_place = shares.view(votes.shape[1], 1, -1, 1)  # (positions, 1, cells, 1)
    types = votes.shape[3] // by_place.shape[2]
    return by_place.expand(len(votes), -1, votes.shape[2], -1, types).flatten(3)


def weighted_sum(weights: Tensor, vectors: Tensor) -> Tensor:
    """Sum vectors by their weights: ``(…, in)`` and ``(…, in, pose)`` → ``(…, pose)``."""
    return torch.matmul(weights.unsqueeze(-2), vectors).squeeze(-2)


def products(vector: Tensor, vectors: Tensor) -> Tensor:
    """Multiply one vector with each of many: ``(…, pose)`` and ``(…, in, pose)`` → ``(…, in)``."""
    return torch.matmul(vector.unsqueeze(-2), vectors.transpose(-1, -2)).squeeze(-2)


def gaussian_log_density(offsets: Tensor, squares: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Give the log of Π_h N(offset; mean, variance), the squared distances multiplied out.

    `offsets` and their `squares` have shape ``(batch, positions, out, in, pose)``, `mean` and `variance` lack ``in``,
    the result lacks ``pose``.
    """
    precision = variance.reciprocal()
    distance = products(precision, squares) - 2 * products(mean * precision, offsets)  # (batch, positions, out, in)
    constant = (mean.square() * precision + (2 * math.pi * variance).log()).sum(-1, keepdim=True)
    return -(distance + constant) / 2


def compete(logits: Tensor, patches: Patches) -> Tensor:
    """Share every lower capsule among all upper ones that see it, the E-step.

    Parameters
    ----------
    logits
        Log of activation times likelihood, shape ``(batch, positions, n_out, n_in)``.
    patches
        Who sees whom.

    Returns
    -------
    Tensor
        Same shape; the sum over all upper capsules that see a lower one is 1.
    """
    batch, positions, _, n_in = logits.shape
    types = n_in // (patches.kernel[0] * patches.kernel[1])
    by_place = logits.logsumexp(2).view(batch, -1, types)
    # The last is the place that does not exist; a finite value, for a position that nobody sees would divide 0 by 0.
    padded = pad(by_place, (0, 0, 0, 1), value=torch.finfo(logits.dtype).min)
    places = torch.tensor(patches.places, device=logits.device)
    by_position = padded[:, places].logsumexp(2)  # (batch, lower positions, types)
    total = patches.look(by_position.view(batch, patches.rows, patches.columns, types))
    return torch.exp(logits - total.view(batch, positions, 1, n_in))
