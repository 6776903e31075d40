"""Capsule layers: primary capsules from feature maps, class capsules from primary capsules."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from qcaps.capsules.routing import RoutingSpec, build_routing, cast_votes
from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, squash

# How the outputs of a convolution become capsules; see `as_capsules`.
ReshapeOrder = Literal["type_hw", "hw_type", "stacked_raw"]


class PrimaryCapsules(nn.Module):
    """Capsules cut from the channels of a convolution without padding.

    Parameters
    ----------
    channels_in, kernel_size, stride
        Of the convolution.
    types, dim
        Capsule types and the dimension of each capsule; the convolution has types · dim output channels.
    depthwise
        One filter per channel, as Efficient-CapsNet has it; then `channels_in` equals types · dim.
    order
        See :func:`as_capsules`.
    with_norm
        Batch norm of the convolution's outputs.
    positions
        Cells of the map that make capsules, if not all do; see :func:`at_positions`.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        types: int,
        dim: int,
        kernel_size: tuple[int, int],
        stride: int,
        depthwise: bool = False,
        order: ReshapeOrder = "type_hw",
        with_norm: bool = False,
        positions: int | None = None,
        squash_variant: SquashVariant,
        squash_eps: float,
    ) -> None:
        super().__init__()
        channels = types * dim
        self.types, self.dim, self.order = types, dim, order
        self.squash_variant, self.squash_eps = squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, channels, kernel_size, stride, groups=channels if depthwise else 1)
        self.norm = nn.BatchNorm2d(channels) if with_norm else None
        self.positions = position_list(positions)
        self.sites = Sites("presquash", "out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(batch, channels, h, w)`` to capsules ``(batch, types·positions, dim)``."""
        maps = self.conv(x)
        if self.norm is not None:
            maps = self.norm(maps)
        maps = at_positions(maps, self.positions)
        s = self.sites("presquash", as_capsules(maps, self.types, self.dim, self.order))
        return self.sites("out", squash(s, self.squash_variant, self.squash_eps))


class RoutedPrimaryCapsules(nn.Module):
    """Primary capsules as Q-CapsNets makes them: one routing pass with constant coupling.

    The convolution has no bias; its single input type is routed to all types with a constant coupling coefficient,
    then a bias per type and dimension is added.

    Parameters
    ----------
    channels_in, types, dim, kernel_size, stride, order, positions, squash_variant, squash_eps
        As for :class:`PrimaryCapsules`.
    coupling
        1/32 in the published networks. A number of its own, since it stays when types are pruned.

    References
    ----------
    Sabour, Frosst and Hinton's released code; specification of Q-CapsNets, Marchisio et al., 2020.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        types: int,
        dim: int,
        kernel_size: int,
        stride: int,
        coupling: float,
        order: ReshapeOrder = "type_hw",
        positions: int | None = None,
        squash_variant: SquashVariant,
        squash_eps: float,
    ) -> None:
        super().__init__()
        self.types, self.dim, self.order, self.coupling = types, dim, order, coupling
        self.squash_variant, self.squash_eps = squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, types * dim, kernel_size, stride, bias=False)
        self.bias = nn.Parameter(torch.empty(types, dim, 1, 1))
        self.positions = position_list(positions)
        weights = {"weight": "conv.weight", "bias": "bias"}
        self.sites = Sites("votes", "coupling", "sum", "out", weights=weights, weight_gain=coupling)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(batch, channels, h, w)`` to capsules ``(batch, types·positions, dim)``."""
        votes = self.sites("votes", self.conv(x))  # (batch, types * dim, h, w)
        coupling = self.sites("coupling", votes.new_full((len(x), 1), self.coupling))
        total = self.sites("sum", votes * coupling.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1))
        s = as_capsules(at_positions(total, self.positions), self.types, self.dim, self.order)
        return self.sites("out", squash(s, self.squash_variant, self.squash_eps))


class ClassCapsules(nn.Module):
    """Class capsules: votes from every lower capsule, combined by a routing.

    Parameters
    ----------
    n_in, d_in
        Number and dimension of the lower capsules.
    n_out, d_out
        Number of classes and dimension of their capsules.
    routing
        Every number of the routing.
    """

    def __init__(self, n_in: int, d_in: int, n_out: int, d_out: int, routing: RoutingSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, d_in, d_out))
        self.routing = build_routing(routing, n_in, n_out, d_out)
        weights = {role: f"routing.{name}" for role, name in self.routing.weights.items()}
        self.sites = Sites("votes", *self.routing.arrays, weights={"weight": "weight", **weights})

    def forward(self, lower: Tensor) -> Tensor:
        """Map capsules ``(batch, n_in, d_in)`` to ``(batch, n_out, d_out)``."""
        votes = self.sites("votes", cast_votes(lower, self.weight))
        capsules: Tensor = self.routing(votes, self.sites)
        return capsules


def as_capsules(maps: Tensor, types: int, dim: int, order: ReshapeOrder) -> Tensor:
    """Read channels as capsules.

    Parameters
    ----------
    maps
        Outputs of a convolution, shape ``(batch, types·dim, h, w)``, channel = type · dim + position in the vector.
    types, dim
        Capsule types, and the dimension of a capsule.
    order
        Capsule index: ``type_hw`` (type · h + row) · w + column; ``hw_type`` (row · w + column) · types + type.
        ``stacked_raw`` cuts the memory of (position in the vector, type, row, column) into runs of `dim`: what the
        reproduction ``ethanleet/CapsNet`` does, where a capsule is a run of neighbouring cells. It exists to read its
        checkpoints.

    Returns
    -------
    Tensor
        Shape ``(batch, types·h·w, dim)``.
    """
    batch, _, height, width = maps.shape
    by_type = maps.reshape(batch, types, dim, height, width)
    if order == "hw_type":
        return by_type.permute(0, 3, 4, 1, 2).reshape(batch, -1, dim)
    if order == "stacked_raw":
        return by_type.transpose(1, 2).reshape(batch, -1, dim)
    return by_type.permute(0, 1, 3, 4, 2).reshape(batch, -1, dim)


def position_list(count: int | None) -> nn.Buffer | None:
    """Make room for the list of `count` positions of a map; None for no list."""
    return None if count is None else nn.Buffer(torch.empty(count, dtype=torch.int64))


def at_positions(maps: Tensor, positions: Tensor | None) -> Tensor:
    """Keep some cells of feature maps.

    Parameters
    ----------
    maps
        Shape ``(batch, channels, h, w)``.
    positions
        Cells that are left, row · w + column, ascending, shape ``(n,)``; None for all.

    Returns
    -------
    Tensor
        Shape ``(batch, channels, n, 1)``, or the maps themselves.
    """
    return maps if positions is None else maps.flatten(2).index_select(2, positions).unsqueeze(3)
