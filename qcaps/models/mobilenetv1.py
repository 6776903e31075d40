"""MobileNetV1: a plain classifier, and the backbone of a network with a capsule head.

References: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
table 1; pruned widths as in Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from qcaps.capsules.backbone_layers import BatchNormSpec, ConvNorm, SeparableConv
from qcaps.models.backbone import (
    Backbone,
    channel_unit,
    classifier_network,
    initialise_backbone,
    kept_widths,
    named_widths,
)
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import Preset

# Strides of the depthwise convolutions.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
# Groups of channels in EagleEye's order: the stem, then the outputs of every block.
GROUPS = ("stem", *(f"block{i}" for i in range(1, len(STRIDES) + 1)))
MOBILENETV1_WIDTHS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)


@dataclass(frozen=True)
class MobileNetV1Spec:
    """Every number of a MobileNetV1; the defaults are the published network, 4,231,976 values.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size.
    widths
        Output channels of the groups in `GROUPS`.
    stem_relu
        False only for checkpoints that were trained without the ReLU of the first convolution.
    norm, norm_eps, norm_momentum
        Batch norm after each convolution; ``none`` once it is folded into it.
    decoder
        None: logits have no pose to draw from.
    """

    architecture: ClassVar[str] = "mobilenetv1"
    usual_decoder: ClassVar[str] = "none"

    channels: int = 3
    height: int = 224
    width: int = 224
    classes: int = 1000
    widths: tuple[int, ...] = MOBILENETV1_WIDTHS
    stem_relu: bool = True
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    decoder: Literal["none"] = "none"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        norm = BatchNormSpec(self.norm_eps, self.norm_momentum) if self.norm == "batch" else None
        backbone = mobilenetv1_backbone(self.channels, self.widths, norm, stem_relu=self.stem_relu)
        return classifier_network(backbone, self.classes)

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as torchvision does for its networks."""
        initialise_backbone(network, generator)

    def folded(self) -> Self:
        """Give the spec of the same network after its batch norms are folded away."""
        return dataclasses.replace(self, norm="none")

    def with_uniform_routing(self) -> Self:
        """Give the spec itself: there is no routing."""
        return self

    def without_decoder(self) -> Self:
        """Give the spec itself: there is no decoder."""
        return self

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        return dataclasses.replace(self, widths=kept_widths(GROUPS, self.widths, widths))


def mobilenetv1_backbone(
    channels: int, widths: Sequence[int], norm: BatchNormSpec | None, *, stem_relu: bool
) -> Backbone:
    """Build a MobileNetV1 without its pooling and linear layer.

    Parameters
    ----------
    channels
        Of the images.
    widths
        Output channels of the groups in `GROUPS`.
    norm
        See :class:`~qcaps.capsules.backbone_layers.ConvNorm`.
    stem_relu
        Whether the first convolution has its ReLU.

    Raises
    ------
    UsageError
        If `widths` has another length.
    """
    width = named_widths("mobilenetv1", GROUPS, widths)
    stages: dict[str, nn.Module] = {
        "stem": ConvNorm(channels, width["stem"], kernel_size=3, stride=2, norm=norm, relu=stem_relu)
    }
    units = []
    makers = ["stem"]
    for group, following, stride in zip(GROUPS, GROUPS[1:], STRIDES, strict=False):
        stages[following] = SeparableConv(width[group], width[following], stride=stride, norm=norm)
        makers.append(f"{following}.depthwise")
        readers = [f"{following}.pointwise"]
        units.append(channel_unit(group, width[group], made_by=makers, read_by=readers, with_norm=norm is not None))
        makers = [f"{following}.pointwise"]
    units.append(channel_unit(GROUPS[-1], width[GROUPS[-1]], made_by=makers, with_norm=norm is not None))
    return Backbone(stages, tuple(units))


MOBILENETV1 = Preset(MobileNetV1Spec(), any_size=True)
