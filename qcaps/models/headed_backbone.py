"""What the specs of backbones with a capsule head have in common: all but the backbone itself."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch

from qcaps.capsules.backbone_layers import BatchNormSpec
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import BiasPosition, SoftmaxAxis, VectorRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.models.backbone import Backbone, initialise_backbone, kept_widths, map_size
from qcaps.models.capsule_head import CapsuleHead, HeadKind, head_stages, head_units, initialise_head
from qcaps.models.network import CapsuleNetwork
from qcaps.models.parts import decoder_of, routing_of


@dataclass(frozen=True)
class HeadedBackboneSpec(ABC):
    """Every number of a backbone with a capsule head; each backbone has a spec of its own.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size.
    widths
        Output channels of the groups of the backbone.
    norm, norm_eps, norm_momentum
        Batch norm after each convolution of the backbone; ``none`` once it is folded into it.
    head, primary_types, primary_dim, class_dim
        See :class:`~qcaps.models.capsule_head.CapsuleHead`. An unpruned network has an eighth of the last width as
        types.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, routing_passes, routing_bias, routing_detach, softmax_axis, attention_scale, attention_temperature
        See :class:`~qcaps.capsules.routing.RoutingSpec`.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    usual_decoder: ClassVar[str] = "none"
    groups: ClassVar[tuple[str, ...]]

    channels: int = 3
    height: int = 64
    width: int = 64
    classes: int = 10
    widths: tuple[int, ...] = ()
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    head: HeadKind = "full"
    primary_types: int = 256
    primary_dim: int = 8
    class_dim: int = 16
    squash: SquashVariant = "hinton_sqrt"
    squash_eps: float = 1e-6
    length_eps: float = 0.0
    routing: VectorRouting = "dynamic"
    routing_passes: int = 3
    routing_bias: BiasPosition = "in_loop"
    routing_detach: bool = True
    softmax_axis: SoftmaxAxis = "classes"
    attention_scale: float = 4.0
    attention_temperature: float = 1.0
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    @abstractmethod
    def backbone(self, norm: BatchNormSpec | None) -> Backbone:
        """Build the backbone, with batch norms or with biases instead."""

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        norm = BatchNormSpec(self.norm_eps, self.norm_momentum) if self.norm == "batch" else None
        backbone, head = self.backbone(norm), self._head()
        return CapsuleNetwork(
            {**backbone.stages, **head_stages(head, backbone.channels, map_size(self.height, self.width))},
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            folds=backbone.folds,
            chains=backbone.chains,
            units=head_units(head, backbone),
            backbone=tuple(backbone.stages),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers: the backbone as torchvision does, the head as its authors do."""
        initialise_backbone(network, generator)
        initialise_head(network, generator)

    def folded(self) -> Self:
        """Give the spec of the same network after its batch norms are folded away."""
        return dataclasses.replace(self, norm="none")

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        kept = kept_widths(self.groups, self.widths, widths)
        types, dim = widths.get("primary.types", self.primary_types), widths.get("primary.dims", self.primary_dim)
        if self.head == "depthwise":
            kept = (*kept[:-1], types * dim)
        return dataclasses.replace(self, widths=kept, primary_types=types, primary_dim=dim)

    def _head(self) -> CapsuleHead:
        routing = dataclasses.replace(routing_of(self), detach=self.routing_detach, softmax_axis=self.softmax_axis)
        return CapsuleHead(self.head, self.primary_types, self.primary_dim, self.classes, self.class_dim, routing)
