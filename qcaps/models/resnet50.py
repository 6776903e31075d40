"""ResNet-50: a plain classifier, and the backbone of a network with a capsule head.

References: He et al., "Deep Residual Learning for Image Recognition", 2016, in torchvision's layout; pruned widths as
in Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from qcaps.capsules.backbone_layers import BatchNormSpec, Bottleneck, ConvNorm
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
from qcaps.models.units import Unit

# Bottlenecks of every layer.
BLOCKS = (3, 4, 6, 3)
# Groups of channels in EagleEye's order: the stem; of every layer conv1 and conv2 of its blocks, then its output.
GROUPS = (
    "stem",
    *itertools.chain.from_iterable(
        [*(f"layer{n}.{i}.{conv}" for i in range(blocks) for conv in ("conv1", "conv2")), f"layer{n}.out"]
        for n, blocks in enumerate(BLOCKS, start=1)
    ),
)
RESNET50_WIDTHS = (64, *(64,) * 6, 256, *(128,) * 8, 512, *(256,) * 12, 1024, *(512,) * 6, 2048)


@dataclass(frozen=True)
class ResNet50Spec:
    """Every number of a ResNet-50; the defaults are torchvision's network, 25,557,032 values.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size.
    widths
        Output channels of the groups in `GROUPS`.
    norm, norm_eps, norm_momentum
        Batch norm after each convolution; ``none`` once it is folded into it.
    decoder
        None: logits have no pose to draw from.
    """

    architecture: ClassVar[str] = "resnet50"
    usual_decoder: ClassVar[str] = "none"

    channels: int = 3
    height: int = 224
    width: int = 224
    classes: int = 1000
    widths: tuple[int, ...] = RESNET50_WIDTHS
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    decoder: Literal["none"] = "none"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        norm = BatchNormSpec(self.norm_eps, self.norm_momentum) if self.norm == "batch" else None
        return classifier_network(resnet50_backbone(self.channels, self.widths, norm), self.classes)

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as torchvision does."""
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


def resnet50_backbone(channels: int, widths: Sequence[int], norm: BatchNormSpec | None) -> Backbone:
    """Build a ResNet-50 without its pooling and linear layer.

    Parameters
    ----------
    channels
        Of the images.
    widths
        Output channels of the groups in `GROUPS`.
    norm
        See :class:`~qcaps.capsules.backbone_layers.ConvNorm`.

    Raises
    ------
    UsageError
        If `widths` has another length.
    """
    width = named_widths("resnet50", GROUPS, widths)
    n_in = width["stem"]
    stages: dict[str, nn.Module] = {"stem": ConvNorm(channels, n_in, kernel_size=7, stride=2, norm=norm, max_pool=True)}
    for n, blocks in enumerate(BLOCKS, start=1):
        out = width[f"layer{n}.out"]
        layer = []
        for i in range(blocks):
            inner = (width[f"layer{n}.{i}.conv1"], width[f"layer{n}.{i}.conv2"])
            stride = 2 if n > 1 and i == 0 else 1
            layer.append(Bottleneck(n_in, (*inner, out), stride=stride, downsample=i == 0, norm=norm))
            n_in = out
        stages[f"layer{n}"] = nn.Sequential(*layer)
    return Backbone(stages, tuple(_units(width, with_norm=norm is not None)))


def _units(width: Mapping[str, int], *, with_norm: bool) -> Iterator[Unit]:
    """Declare the groups of channels; the channels of a sum are one group through a whole layer."""
    entries = [*([f"layer{n}.0.conv1", f"layer{n}.0.downsample"] for n in range(1, len(BLOCKS) + 1)), []]
    yield channel_unit("stem", width["stem"], made_by=["stem"], read_by=entries[0], with_norm=with_norm)
    for n, blocks in enumerate(BLOCKS, start=1):
        for i in range(blocks):
            for conv, following in (("conv1", "conv2"), ("conv2", "conv3")):
                path = f"layer{n}.{i}.{conv}"
                readers = [f"layer{n}.{i}.{following}"]
                yield channel_unit(path, width[path], made_by=[path], read_by=readers, with_norm=with_norm)
        makers = [*(f"layer{n}.{i}.conv3" for i in range(blocks)), f"layer{n}.0.downsample"]
        readers = [*(f"layer{n}.{i}.conv1" for i in range(1, blocks)), *entries[n]]
        out = f"layer{n}.out"
        yield channel_unit(out, width[out], made_by=makers, read_by=readers, with_norm=with_norm)


RESNET50 = Preset(ResNet50Spec(), any_size=True)
