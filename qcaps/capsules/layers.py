"""Capsule layers: primary capsules from feature maps, class capsules from primary capsules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcaps.capsules.routing import DynamicRouting, SelfAttentionRouting, cast_votes
from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, squash


class FeatureConv(nn.Module):
    """A convolution without padding, ReLU and, if asked, batch norm after the ReLU.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride
        Of the convolution.
    norm_eps, norm_momentum
        Of the batch norm, momentum in PyTorch's sense.
    with_norm
        False once the norm is folded into the next layer.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int = 1,
        with_norm: bool = False,
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, stride)
        self.norm = nn.BatchNorm2d(channels_out, norm_eps, norm_momentum) if with_norm else None
        self.sites = Sites("out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h', w')``."""
        x = torch.relu(self.conv(x))
        if self.norm is not None:
            x = self.norm(x)
        return self.sites("out", x)


class PrimaryCapsules(nn.Module):
    """Capsules cut from the channels of a convolution, channel = type · dim + position in the vector.

    Parameters
    ----------
    channels_in, kernel_size, stride
        Of the convolution, which has no padding.
    types, dim
        Capsule types and the dimension of each capsule; the convolution has types · dim output channels.
    depthwise
        One filter per channel, as Efficient-CapsNet has it; then `channels_in` equals types · dim.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.

    Notes
    -----
    Capsule index = (type · rows + row) · columns + column.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        types: int,
        dim: int,
        kernel_size: tuple[int, int],
        stride: int,
        depthwise: bool,
        squash_variant: SquashVariant,
        squash_eps: float,
    ) -> None:
        super().__init__()
        channels = types * dim
        self.types, self.dim = types, dim
        self.squash_variant, self.squash_eps = squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, channels, kernel_size, stride, groups=channels if depthwise else 1)
        self.sites = Sites("presquash", "out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(batch, channels, h, w)`` to capsules ``(batch, types·h'·w', dim)``."""
        s = self.sites("presquash", as_capsules(self.conv(x), self.types, self.dim))
        return self.sites("out", squash(s, self.squash_variant, self.squash_eps))


class RoutedPrimaryCapsules(nn.Module):
    """Primary capsules as Q-CapsNets makes them: one routing pass with constant coupling.

    The convolution has no bias; its single input type is routed to all types with the coupling coefficient
    1/types, then a bias per type and dimension is added.

    Parameters
    ----------
    channels_in, types, dim, kernel_size, stride, squash_variant, squash_eps
        As for :class:`PrimaryCapsules`.

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
        squash_variant: SquashVariant,
        squash_eps: float,
    ) -> None:
        super().__init__()
        self.types, self.dim = types, dim
        self.squash_variant, self.squash_eps = squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, types * dim, kernel_size, stride, bias=False)
        self.bias = nn.Parameter(torch.empty(types, dim, 1, 1))
        self.sites = Sites("votes", "coupling", "sum", "out", weights={"weight": "conv.weight", "bias": "bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(batch, channels, h, w)`` to capsules ``(batch, types·h'·w', dim)``."""
        votes = self.sites("votes", self.conv(x))  # (batch, types * dim, h, w)
        coupling = self.sites("coupling", votes.new_full((len(x), 1), 1 / self.types))
        total = self.sites("sum", votes * coupling.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1))
        s = as_capsules(total, self.types, self.dim)
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
        A module that fits :class:`~qcaps.capsules.routing.Routing`.
    """

    def __init__(
        self, n_in: int, d_in: int, n_out: int, d_out: int, routing: DynamicRouting | SelfAttentionRouting
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, d_in, d_out))
        self.routing = routing
        weights = {role: f"routing.{name}" for role, name in routing.weights.items()}
        self.sites = Sites("votes", *routing.arrays, weights={"weight": "weight", **weights})

    def forward(self, lower: Tensor) -> Tensor:
        """Map capsules ``(batch, n_in, d_in)`` to ``(batch, n_out, d_out)``."""
        votes = self.sites("votes", cast_votes(lower, self.weight))
        capsules: Tensor = self.routing(votes, self.sites)
        return capsules


def as_capsules(maps: Tensor, types: int, dim: int) -> Tensor:
    """Read channels as capsules: ``(batch, types·dim, h, w)`` → ``(batch, types·h·w, dim)``."""
    batch, _, height, width = maps.shape
    by_type = maps.reshape(batch, types, dim, height, width)
    return by_type.permute(0, 1, 3, 4, 2).reshape(batch, types * height * width, dim)
