"""What the specs of several networks describe in the same words: the routing of their capsules, and their decoder."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from qcaps.capsules.decoders import build_decoder
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import BiasPosition, RoutingSpec, VectorRouting
from qcaps.capsules.squash import SquashVariant


class Routed(Protocol):
    """The fields of a spec that describe a routing; see :class:`~qcaps.capsules.routing.RoutingSpec`."""

    @property
    def squash(self) -> SquashVariant:
        """Variant of the squash."""

    @property
    def squash_eps(self) -> float:
        """Guard of its division."""

    @property
    def routing(self) -> VectorRouting:
        """Kind of the routing."""

    @property
    def routing_passes(self) -> int:
        """Passes of dynamic routing."""

    @property
    def routing_bias(self) -> BiasPosition:
        """Where a bias is added."""

    @property
    def attention_scale(self) -> float:
        """Divisor of the agreement of self-attention."""

    @property
    def attention_temperature(self) -> float:
        """Divisor of what enters its softmax."""


class Drawn(Protocol):
    """The fields of a spec that describe its decoder."""

    @property
    def channels(self) -> int:
        """Channels of the image."""

    @property
    def height(self) -> int:
        """Height of the image."""

    @property
    def width(self) -> int:
        """Width of the image."""

    @property
    def classes(self) -> int:
        """Number of class capsules."""

    @property
    def class_dim(self) -> int:
        """Dimension of the class capsules."""

    @property
    def decoder(self) -> str:
        """Registry name."""

    @property
    def decoder_norm(self) -> bool:
        """Whether its hidden layers are normalised."""

    @property
    def mask_layout(self) -> MaskLayout:
        """What it is given."""


def routing_of(spec: Routed) -> RoutingSpec:
    """Read the routing out of a spec."""
    return RoutingSpec(
        kind=spec.routing,
        squash_variant=spec.squash,
        squash_eps=spec.squash_eps,
        iterations=spec.routing_passes,
        bias=spec.routing_bias,
        scale=spec.attention_scale,
        temperature=spec.attention_temperature,
    )


def decoder_of(spec: Drawn) -> nn.Module | None:
    """Build the decoder of a spec."""
    return build_decoder(
        spec.decoder,
        classes=spec.classes,
        dim=spec.class_dim,
        layout=spec.mask_layout,
        image=(spec.channels, spec.height, spec.width),
        batch_norm=spec.decoder_norm,
    )
