"""The capsule head on a backbone: one layer of primary capsules and one of class capsules.

Reference: Renzulli and Grangetto, "Towards Efficient Capsule Networks", 2022, and its code
``EIDOSLAB/towards-efficient-capsule-networks``, whose primary convolution covers the whole feature map. At 224 pixels
that layer has nearly nine times the weights of the ResNet-50 in front; the other two kinds of head need a fraction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from qcaps.capsules.layers import ClassCapsules, PrimaryCapsules, as_capsules
from qcaps.capsules.routing import RoutingSpec
from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, squash
from qcaps.errors import UsageError
from qcaps.models.backbone import Backbone, read_also
from qcaps.models.initialisation import torch_default_
from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import Cut, Unit, conv_cuts

HeadKind = Literal["full", "pointwise", "depthwise"]

CLASS_WEIGHT_STD = 0.1
CLASS_BIAS = 0.1


@dataclass(frozen=True)
class CapsuleHead:
    """Every number of a capsule head.

    Parameters
    ----------
    kind
        Primary layer on a map of c channels: ``full``, a convolution as large as the map from c to types · dim
        channels; ``pointwise``, the mean over the map, then a 1×1 convolution; ``depthwise``, one filter as large as
        the map for each channel, so that c = types · dim.
    types, dim
        Primary capsule types and their dimension; each type has one capsule.
    classes, class_dim
        Class capsules and their dimension.
    routing
        Between both; its squash is that of the primary capsules too.
    """

    kind: HeadKind
    types: int
    dim: int
    classes: int
    class_dim: int
    routing: RoutingSpec


class MeanPrimaryCapsules(nn.Module):
    """Primary capsules from the mean of a feature map.

    Parameters
    ----------
    channels_in, types, dim
        As for :class:`~qcaps.capsules.layers.PrimaryCapsules`, with a 1×1 convolution.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`.

    Notes
    -----
    The mean of a 1×1 convolution is the 1×1 convolution of the mean, which costs a map's positions less.
    """

    def __init__(
        self, channels_in: int, *, types: int, dim: int, squash_variant: SquashVariant, squash_eps: float
    ) -> None:
        super().__init__()
        self.types, self.dim = types, dim
        self.squash_variant, self.squash_eps = squash_variant, squash_eps
        self.conv = nn.Conv2d(channels_in, types * dim, 1)
        self.sites = Sites("input", "presquash", "out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``(batch, channels, h, w)`` to capsules ``(batch, types, dim)``."""
        maps = self.conv(self.sites("input", x.mean((2, 3), keepdim=True)))  # (batch, types * dim, 1, 1)
        s = self.sites("presquash", as_capsules(maps, self.types, self.dim, "type_hw"))
        return self.sites("out", squash(s, self.squash_variant, self.squash_eps))


def head_stages(head: CapsuleHead, channels: int, size: tuple[int, int]) -> dict[str, nn.Module]:
    """Build the stages ``primary`` and ``class_caps``.

    Parameters
    ----------
    head
        Every number.
    channels, size
        Of the feature map; rows and columns.

    Raises
    ------
    UsageError
        If a depthwise head does not have one channel for each number of its capsules.
    """
    if head.kind == "depthwise" and channels != head.types * head.dim:
        raise UsageError(
            f"a depthwise head needs primary_types x primary_dim = {channels}, the last of widths,"
            f" not {head.types} x {head.dim}"
        )
    return {
        "primary": _primary(head, channels, size),
        "class_caps": ClassCapsules(head.types, head.dim, head.classes, head.class_dim, head.routing),
    }


def _primary(head: CapsuleHead, channels: int, size: tuple[int, int]) -> nn.Module:
    variant, eps = head.routing.squash_variant, head.routing.squash_eps
    if head.kind == "pointwise":
        return MeanPrimaryCapsules(channels, types=head.types, dim=head.dim, squash_variant=variant, squash_eps=eps)
    return PrimaryCapsules(
        channels,
        types=head.types,
        dim=head.dim,
        kernel_size=size,
        stride=1,
        depthwise=head.kind == "depthwise",
        squash_variant=variant,
        squash_eps=eps,
    )


def head_units(head: CapsuleHead, backbone: Backbone) -> tuple[Unit, ...]:
    """Declare what can be pruned in a backbone with a head.

    The numbers of a depthwise head's capsules are the last channels of the backbone: they go together, by type or by
    dimension.
    """
    *inner, last = backbone.units
    by_type = conv_cuts("primary.conv", inner=head.dim)
    by_dim = conv_cuts("primary.conv")
    if head.kind == "depthwise":
        by_type = (*(replace(cut, inner=head.dim) for cut in last.cuts), *by_type)
        by_dim = (*last.cuts, *by_dim)
    else:
        inner.append(read_also(last, Cut("primary.conv.weight", 1)))
    by_type = (*by_type, Cut("class_caps.weight", 0))
    if head.routing.bias == "after_softmax":
        by_type = (*by_type, Cut("class_caps.routing.bias", 0))
    dims = Unit("primary.dims", head.dim, (*by_dim, Cut("class_caps.weight", 2)), (Cut("primary.out", 2),))
    if head.routing.softmax_axis == "inputs":
        return *inner, dims  # a type that is gone would leave its share of the softmax to the others
    return *inner, Unit("primary.types", head.types, by_type, (Cut("primary.out", 1),)), dims


def initialise_head(network: CapsuleNetwork, generator: torch.Generator) -> None:
    """Fill a head: the primary layer by PyTorch's default, class weights normal, the bias in the loop 0.1."""
    primary, last = network.stages["primary"], network.stages["class_caps"]
    assert isinstance(primary, PrimaryCapsules | MeanPrimaryCapsules)
    assert isinstance(last, ClassCapsules)
    torch_default_(primary.conv, generator)
    nn.init.normal_(last.weight, std=CLASS_WEIGHT_STD, generator=generator)
    if last.routing.bias is not None:
        nn.init.constant_(last.routing.bias, CLASS_BIAS if last.routing.spec.bias == "in_loop" else 0.0)
