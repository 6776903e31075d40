"""Matrix capsules: 4×4 poses with activations, in grids ``(batch, rows, columns, types)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qcaps.capsules.em_routing import EMRouting, EMRoutingSpec, MatrixCapsules, Patches
from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import at_least_float32, full_precision

# Rows and columns of a pose matrix, entry = row · 4 + column; the numbers of a pose.
SIDE = 4
POSE = SIDE * SIDE
# An image's votes and what is derived from them fill some 200 MB of the published network in training. Images beyond
# so many are routed apart, and once more in the backward pass, rather than kept all at once.
LEARNED_AT_ONCE = 8


class PointwiseConv(nn.Module):
    """A 1×1 convolution and what follows it.

    Parameters
    ----------
    channels_in, channels_out
        Of the convolution.
    then
        What follows it.
    """

    def __init__(self, channels_in: int, channels_out: int, then: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1)
        self.then = then
        self.sites = Sites("out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h, w)``."""
        return self.sites("out", self.then(self.conv(x)))


class PrimaryMatrixCapsules(nn.Module):
    """Matrix capsules from a feature map: a pose and an activation per type and position, linear and logistic.

    Parameters
    ----------
    channels_in
        Of the feature map.
    types
        Capsule types; channel of a pose = type · 16 + entry.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 4.
    """

    def __init__(self, channels_in: int, types: int) -> None:
        super().__init__()
        self.pose = PointwiseConv(channels_in, types * POSE, nn.Identity())
        self.activation = PointwiseConv(channels_in, types, nn.Sigmoid())

    def forward(self, x: Tensor) -> MatrixCapsules:
        """Map features ``(batch, channels, rows, columns)`` to poses ``(batch, rows, columns, types, 16)``."""
        poses, activations = self.pose(x).permute(0, 2, 3, 1), self.activation(x).permute(0, 2, 3, 1)
        return MatrixCapsules(poses.reshape(*activations.shape, POSE), activations)


class ConvMatrixCapsules(nn.Module):
    """Matrix capsules that each see a patch of the lower ones.

    Parameters
    ----------
    patches
        Who sees whom.
    types_in, types_out
        Capsule types; every pair has a 4×4 matrix of its own in each cell of the kernel.
    spec
        Every number of the routing.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 4.
    """

    def __init__(self, patches: Patches, types_in: int, types_out: int, spec: EMRoutingSpec) -> None:
        super().__init__()
        self.patches = patches
        self.weight = nn.Parameter(torch.empty(*patches.kernel, types_in, types_out, SIDE, SIDE))
        routing = EMRouting(spec, patches, types_out)
        self.sites = Sites("votes", *routing.arrays, "out", weights={"weight": "weight"})
        self.routing = routing

    def forward(self, lower: MatrixCapsules) -> MatrixCapsules:
        """Map poses ``(batch, rows, columns, types_in, 16)`` to ``(batch, rows', columns', types_out, 16)``."""
        if not torch.is_grad_enabled() or self.sites.hook is not None or len(lower.poses) <= LEARNED_AT_ONCE:
            return self._route(*lower)
        blocks = zip(*(torch.split(array, LEARNED_AT_ONCE) for array in lower), strict=True)
        routed = [checkpoint(self._route, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
        return MatrixCapsules(*map(torch.cat, zip(*routed, strict=True)))

    def _route(self, poses: Tensor, activations: Tensor) -> MatrixCapsules:
        votes = self.sites("votes", cast_votes(self.patches.look(poses), self.weight.flatten(0, 2)))
        upper: MatrixCapsules = self.routing(votes, self.patches.look(activations), self.sites)
        poses, activations = (array.view(len(array), *self.patches.grid, *array.shape[2:]) for array in upper)
        return MatrixCapsules(self.sites("out", poses), activations)


class ClassMatrixCapsules(nn.Module):
    """One matrix capsule per class that sees all lower ones.

    Parameters
    ----------
    rows, columns
        Of the lower grid.
    types_in, n_out
        Lower capsule types and classes; every pair has one 4×4 matrix, the same at all positions.
    spec
        Every number of the routing.

    Notes
    -----
    So that positions are not lost, they are added to the votes: to the first two entries of the right-hand column of
    the matrix, row and column of the centre of the lower capsule, scaled to (0, 1): (index + ½) / count.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 4, Coordinate Addition.
    """

    def __init__(self, rows: int, columns: int, types_in: int, n_out: int, spec: EMRoutingSpec) -> None:
        super().__init__()
        self.patches = Patches(rows, columns, (rows, columns), 1)
        self.weight = nn.Parameter(torch.empty(types_in, n_out, SIDE, SIDE))
        routing = EMRouting(spec, self.patches, n_out)
        self.sites = Sites("votes", *routing.arrays, "out", weights={"weight": "weight"})
        self.routing = routing

    def forward(self, lower: MatrixCapsules) -> MatrixCapsules:
        """Map poses ``(batch, rows, columns, types_in, 16)`` to ``(batch, classes, 16)``."""
        places = coordinates(self.patches, like=self.weight)  # (positions, 16)
        everywhere = self.weight.expand(len(places), *self.weight.shape).flatten(0, 1)
        votes = cast_votes(self.patches.look(lower.poses), everywhere) + places.repeat_interleave(len(self.weight), 0)
        upper: MatrixCapsules = self.routing(
            self.sites("votes", votes), self.patches.look(lower.activations), self.sites
        )
        return MatrixCapsules(self.sites("out", upper.poses.squeeze(1)), upper.activations.squeeze(1))


def cast_votes(poses: Tensor, weight: Tensor) -> Tensor:
    """Multiply every pose by the matrix of every upper type.

    Parameters
    ----------
    poses
        Shape ``(batch, positions, n_in, 16)``.
    weight
        Shape ``(n_in, n_out, 4, 4)``.

    Returns
    -------
    Tensor
        Votes, shape ``(batch, positions, n_out, n_in, 16)``, contiguous, the order in which routing reads them;
        at least in single precision, for routing measures their small differences.
    """
    with full_precision(poses):
        matrices = at_least_float32(poses).view(*poses.shape[:3], SIDE, SIDE)
        votes = torch.einsum("bpirm,iomc->bpoirc", matrices, weight)
        return votes.flatten(4).contiguous()


def coordinates(patches: Patches, *, like: Tensor) -> Tensor:
    """Give what the position of a lower capsule adds to its votes, shape ``(rows · columns, 16)``."""
    added = like.new_zeros(patches.rows, patches.columns, SIDE, SIDE)
    rows, columns = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (patches.rows, patches.columns))
    added[:, :, 0, -1] = ((rows + 0.5) / patches.rows).unsqueeze(1)
    added[:, :, 1, -1] = (columns + 0.5) / patches.columns
    return added.flatten(0, 1).flatten(1)
