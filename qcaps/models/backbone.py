"""Backbones: what a plain classifier and a network with a capsule head have in front."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from qcaps.capsules.backbone_layers import Bottleneck, ConvNorm, MeanClassifier, SeparableConv
from qcaps.errors import UsageError
from qcaps.models.initialisation import initialise_norms_and_decoder, torch_default_
from qcaps.models.network import CapsuleNetwork, Chain, Fold
from qcaps.models.units import Cut, Unit, conv_cuts


@dataclass(frozen=True)
class Backbone:
    """Stages from images to a feature map whose sides are a 32nd of the image's.

    Parameters
    ----------
    stages
        Name → module, in order.
    units
        What can be pruned; the last unit is the channels of the feature map, its cuts yet without those of a head.
    """

    stages: Mapping[str, nn.Module]
    units: tuple[Unit, ...]

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.units[-1].count

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Every batch norm, with the convolution before it."""
        modules = nn.ModuleDict(self.stages).named_modules()
        paths = [path for path, module in modules if isinstance(module, ConvNorm) and module.norm is not None]
        return tuple(Fold(f"{path}.norm", f"{path}.conv") for path in paths)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """Every pair of convolutions within a block, once their norms are folded."""
        inner = {Bottleneck: ("conv1", "conv2", "conv3"), SeparableConv: ("depthwise", "pointwise")}
        found = []
        for path, module in nn.ModuleDict(self.stages).named_modules():
            names = inner.get(type(module), ())
            if names and cast("ConvNorm", module.get_submodule(names[0])).norm is None:
                found += [Chain(f"{path}.{one}.conv", f"{path}.{two}.conv") for one, two in itertools.pairwise(names)]
        return tuple(found)


def map_size(height: int, width: int) -> tuple[int, int]:
    """Give the rows and columns of the feature map: five halvings, each rounded up."""
    return -(-height // 32), -(-width // 32)


def named_widths(architecture: str, groups: Sequence[str], widths: Sequence[int]) -> dict[str, int]:
    """Give the channels of every group by its name.

    Raises
    ------
    UsageError
        If there are more or fewer widths than groups.
    """
    if len(widths) != len(groups):
        raise UsageError(f"{architecture} has {len(groups)} widths, not {len(widths)}")
    return dict(zip(groups, widths, strict=True))


def kept_widths(groups: Sequence[str], widths: Sequence[int], kept: Mapping[str, int]) -> tuple[int, ...]:
    """Give the channels of every group that stay when only `kept` of some units stay."""
    return tuple(kept.get(f"{group}.channels", width) for group, width in zip(groups, widths, strict=True))


def channel_unit(
    name: str, count: int, *, made_by: Sequence[str], read_by: Sequence[str] = (), with_norm: bool
) -> Unit:
    """Declare channels that several layers share.

    Parameters
    ----------
    name
        Of the group, without its kind.
    count
        Channels.
    made_by
        Paths of the :class:`~qcaps.capsules.backbone_layers.ConvNorm` whose outputs they are, the leader first;
        depthwise ones too.
    read_by
        Paths of those whose inputs they are.
    with_norm
        Whether the layers have their norms, or biases instead.
    """
    made = [conv_cuts(f"{path}.conv", norm=f"{path}.norm" if with_norm else "", bias=not with_norm) for path in made_by]
    read = [Cut(f"{path}.conv.weight", 1) for path in read_by]
    return Unit(f"{name}.channels", count, (*(cut for cuts in made for cut in cuts), *read))


def read_also(unit: Unit, *cuts: Cut) -> Unit:
    """Give the same unit with more tensors that follow it."""
    return dataclasses.replace(unit, cuts=(*unit.cuts, *cuts))


def classifier_network(backbone: Backbone, classes: int) -> CapsuleNetwork:
    """Put a linear classifier behind a backbone."""
    *inner, last = backbone.units
    return CapsuleNetwork(
        {**backbone.stages, "classifier": MeanClassifier(backbone.channels, classes)},
        folds=backbone.folds,
        chains=backbone.chains,
        units=(*inner, read_also(last, Cut("classifier.linear.weight", 1))),
        loss="cross-entropy",
        backbone=tuple(backbone.stages),
    )


def initialise_backbone(network: CapsuleNetwork, generator: torch.Generator) -> None:
    """Fill all but a capsule head: convolutions Kaiming-normal over the outputs, norms the identity, biases 0.

    This is torchvision's choice. The linear layer of a classifier is filled by PyTorch's default.
    """
    for module in network.stages.modules():
        if isinstance(module, ConvNorm):
            nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if module.conv.bias is not None:
                nn.init.zeros_(module.conv.bias)
        elif isinstance(module, MeanClassifier):
            torch_default_(module.linear, generator)
    initialise_norms_and_decoder(network, network.decoder, generator)
