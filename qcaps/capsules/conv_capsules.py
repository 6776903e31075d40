"""Convolutional capsules: maps of capsules in, maps of capsules out.

Between the layers, capsules are feature maps ``(batch, types·dim, h, w)``, channel = type · dim + position in the
vector, which is what convolutions read; at the sites they are ``(batch, types, h, w, dim)``.

Reference: Rajasegaran et al., "DeepCaps: Going Deeper with Capsule Networks", 2019, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcaps.capsules.routing import RoutingSpec, build_routing
from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, squash


class ConvCapsules2d(nn.Module):
    """Capsules cut from the channels of a 3×3 convolution with padding 1, without routing.

    Parameters
    ----------
    channels_in, stride
        Of the convolution.
    types, dim
        Capsule types and the dimension of each capsule.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        types: int,
        dim: int,
        stride: int = 1,
        squash_variant: SquashVariant,
        squash_eps: float,
    ) -> None:
        super().__init__()
        self.dim, self.squash_variant, self.squash_eps = dim, squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, types * dim, 3, stride, padding=1)
        self.sites = Sites("presquash", "out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, h, w)`` to ``(batch, types·dim, h', w')``."""
        s = self.sites("presquash", from_maps(self.conv(x), self.dim))
        return to_maps(self.sites("out", squash(s, self.squash_variant, self.squash_eps)))


class ConvCapsules3d(nn.Module):
    """Capsules voted for by a 3×3 neighbourhood of the capsules of every lower type, and combined by a routing.

    Parameters
    ----------
    types_in, dim_in
        Capsule types and dimension of the lower maps.
    types, dim
        Of the upper maps.
    grid
        Rows and columns of the upper maps.
    stride
        Of the convolution; its padding is 1.
    routing
        Every number of the routing. All upper types and positions compete in one softmax; a bias is shared by the
        positions.

    Notes
    -----
    Published as a 3-D convolution of one input channel, kernel (dim_in, 3, 3) and stride (dim_in, stride, stride), so
    that one kernel casts the votes of all lower types. That is a 2-D convolution of `dim_in` channels with the types
    in the batch, and so the weight is kept: ``(types·dim, dim_in, 3, 3)``.
    """

    def __init__(
        self,
        types_in: int,
        dim_in: int,
        *,
        types: int,
        dim: int,
        grid: tuple[int, int],
        stride: int = 1,
        routing: RoutingSpec,
    ) -> None:
        super().__init__()
        self.types_in, self.dim_in, self.types, self.dim, self.grid = types_in, dim_in, types, dim, grid
        positions = grid[0] * grid[1]
        self.conv = nn.Conv2d(dim_in, types * dim, 3, stride, padding=1)
        router = build_routing(routing, types_in, types * positions, dim, positions=positions)
        self.sites = Sites("votes", *router.arrays, weights={"weight": "conv.weight", "bias": "conv.bias"})
        self.routing = router
        # The name `bias` is taken by the convolution; that of the routing is the site `routing.bias`.
        router.sites = Sites(weights=router.weights)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, types_in·dim_in, h, w)`` to ``(batch, types·dim, h', w')``."""
        votes = self.conv(x.reshape(-1, self.dim_in, *x.shape[2:]))  # (batch * in, types * dim, h', w')
        votes = votes.unflatten(1, (self.types, self.dim)).unflatten(0, (len(x), self.types_in))
        votes = votes.permute(0, 2, 4, 5, 1, 3).flatten(1, 3)  # (batch, out, in, dim), as routing reads it
        capsules = self.routing(self.sites("votes", votes.transpose(1, 2)), self.sites)  # (batch, out, dim)
        return to_maps(capsules.unflatten(1, (self.types, *self.grid)))


class CapsuleBlock(nn.Module):
    """Three layers of convolutional capsules and a skip layer around the last two, which may be one with routing.

    Parameters
    ----------
    l1, l2, l3, skip
        Layers from maps to maps; `skip` starts behind `l1`.
    branches
        What the block gives: False, the sum of `l3` and `skip`, as maps; True, the capsules of its input followed by
        those of that sum, all of one dimension, numbered (type · rows + row) · columns + column.

    Notes
    -----
    The sum is neither squashed nor normalised.
    """

    def __init__(
        self, l1: ConvCapsules2d, l2: ConvCapsules2d, l3: ConvCapsules2d, skip: nn.Module, *, branches: bool = False
    ) -> None:
        super().__init__()
        self.l1, self.l2, self.l3, self.skip, self.branches = l1, l2, l3, skip, branches
        self.sites = Sites("sum_out")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, h, w)`` to ``(batch, types·dim, h', w')`` or ``(batch, capsules, dim)``."""
        y = self.l1(x)
        out = self.sites("sum_out", self.l3(self.l2(y)) + self.skip(y))
        if not self.branches:
            return out
        return torch.cat([from_maps(maps, self.l3.dim).flatten(1, 3) for maps in (x, out)], dim=1)


def from_maps(maps: Tensor, dim: int) -> Tensor:
    """Read channels as capsules: ``(batch, types·dim, h, w)`` → ``(batch, types, h, w, dim)``, a view."""
    return maps.reshape(len(maps), -1, dim, *maps.shape[2:]).permute(0, 1, 3, 4, 2)


def to_maps(capsules: Tensor) -> Tensor:
    """Read capsules as channels: ``(batch, types, h, w, dim)`` → ``(batch, types·dim, h, w)``."""
    return capsules.permute(0, 1, 4, 2, 3).flatten(1, 2)
