"""Plain CNNs of the size of the original CapsNet, to tell what capsules and routing add to it.

Reference: the baselines of ``matthiasware/EfficientCN``. All begin with the two 9×9 convolutions of the CapsNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, TypeAlias

import torch
from torch import nn

from qcaps.capsules.dense import DenseCapsules, FeatureClassifier
from qcaps.capsules.feature_conv import FeatureConv
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.initialisation import fill_torch_default
from qcaps.models.network import CapsuleNetwork
from qcaps.models.parts import decoder_of
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, Unit, conv_cuts

Baseline: TypeAlias = "CNNRSpec | CNNCRSpec | CNNCRSFSpec"


def _positions(spec: Baseline) -> int:
    """Give the positions of the map that the convolutions leave."""
    rows, columns = ((size - 2 * spec.kernel_size + 1) // 2 + 1 for size in (spec.height, spec.width))
    if min(rows, columns) < 1:
        raise UsageError(
            f"{spec.height}x{spec.width} pixels are too few for {spec.architecture}",
            do=f"it needs {2 * spec.kernel_size - 1}",
        )
    return rows * columns


def _convolutions(spec: Baseline) -> dict[str, nn.Module]:
    return {
        "conv1": FeatureConv(spec.channels, spec.conv1_channels, kernel_size=spec.kernel_size),
        "conv2": FeatureConv(spec.conv1_channels, spec.conv2_channels, kernel_size=spec.kernel_size, stride=2),
    }


def _channel_units(spec: Baseline, following: str) -> tuple[Unit, Unit]:
    """Declare the channels of both convolutions, the second one read by the dense layer of the stage `following`."""
    dense = Cut(f"{following}.linear.weight", 1, inner=_positions(spec))
    return (
        Unit("conv1.channels", spec.conv1_channels, (*conv_cuts("conv1.conv"), Cut("conv2.conv.weight", 1))),
        Unit("conv2.channels", spec.conv2_channels, (*conv_cuts("conv2.conv"), dense)),
    )


@dataclass(frozen=True)
class CNNRSpec:
    """Every number of CNN-R, which classifies 160 features and draws from all of them; 6,805,994 values.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; at least 17 pixels.
    conv1_channels, conv2_channels, kernel_size
        Of the convolutions; the second one has stride 2.
    class_dim
        Features for each class. Nothing ties them to it: the decoder is given all.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "cnn-r"
    usual_decoder: ClassVar[str] = "fc"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv1_channels: int = 256
    conv2_channels: int = 256
    kernel_size: int = 9
    class_dim: int = 16
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: Literal["unmasked"] = "unmasked"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        inputs = self.conv2_channels * _positions(self)
        stages = {
            **_convolutions(self),
            "features": DenseCapsules(inputs, self.classes, self.class_dim, squash_variant=None),
            "classifier": FeatureClassifier(self.classes * self.class_dim, self.classes),
        }
        units = _channel_units(self, following="features")
        return CapsuleNetwork(stages, decoder=decoder_of(self), mask_layout=self.mask_layout, units=units)

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill every layer with PyTorch's default."""
        fill_torch_default(network, generator)

    def folded(self) -> Self:
        """Give the spec itself: there is no batch norm to fold."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec itself: there is no routing."""
        return self

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        return dataclasses.replace(
            self,
            conv1_channels=widths.get("conv1.channels", self.conv1_channels),
            conv2_channels=widths.get("conv2.channels", self.conv2_channels),
        )


@dataclass(frozen=True)
class CNNCRSpec:
    """Every number of CNN-CR, whose scores are the lengths of ten vectors of features; 6,804,384 values.

    Parameters
    ----------
    channels, height, width, classes, conv1_channels, conv2_channels, kernel_size
        As for :class:`CNNRSpec`.
    class_dim
        Dimension of the vector of each class.
    length_eps
        See :func:`~qcaps.capsules.squash.length`.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "cnn-cr"
    usual_decoder: ClassVar[str] = "fc"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv1_channels: int = 256
    conv2_channels: int = 256
    kernel_size: int = 9
    class_dim: int = 16
    length_eps: float = 0.0
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        inputs = self.conv2_channels * _positions(self)
        class_caps = DenseCapsules(inputs, self.classes, self.class_dim, squash_variant=None)
        return CapsuleNetwork(
            {**_convolutions(self), "class_caps": class_caps},
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            units=_channel_units(self, following="class_caps"),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill every layer with PyTorch's default."""
        fill_torch_default(network, generator)

    def folded(self) -> Self:
        """Give the spec itself: there is no batch norm to fold."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec itself: there is no routing."""
        return self

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        return dataclasses.replace(
            self,
            conv1_channels=widths.get("conv1.channels", self.conv1_channels),
            conv2_channels=widths.get("conv2.channels", self.conv2_channels),
        )


@dataclass(frozen=True)
class CNNCRSFSpec:
    """Every number of CNN-CR-SF: capsules and squash but dense layers for routing; 6,530,080 values.

    Parameters
    ----------
    channels, height, width, classes, conv1_channels, conv2_channels, kernel_size
        As for :class:`CNNRSpec`.
    primary_types, primary_dim, class_dim
        Number of the squashed capsules in between, and dimensions.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "cnn-cr-sf"
    usual_decoder: ClassVar[str] = "fc"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv1_channels: int = 256
    conv2_channels: int = 256
    kernel_size: int = 9
    primary_types: int = 16
    primary_dim: int = 8
    class_dim: int = 16
    squash: SquashVariant = "efficient"
    squash_eps: float = 1e-20
    length_eps: float = 0.0
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        dense = [
            DenseCapsules(inputs, count, dim, squash_variant=self.squash, squash_eps=self.squash_eps)
            for inputs, count, dim in (
                (self.conv2_channels * _positions(self), self.primary_types, self.primary_dim),
                (self.primary_types * self.primary_dim, self.classes, self.class_dim),
            )
        ]
        return CapsuleNetwork(
            {**_convolutions(self), "primary": dense[0], "class_caps": dense[1]},
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            units=(*_channel_units(self, following="primary"), *self._capsule_units()),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill every layer with PyTorch's default."""
        fill_torch_default(network, generator)

    def folded(self) -> Self:
        """Give the spec itself: there is no batch norm to fold."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec itself: there is no routing."""
        return self

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        return dataclasses.replace(
            self,
            conv1_channels=widths.get("conv1.channels", self.conv1_channels),
            conv2_channels=widths.get("conv2.channels", self.conv2_channels),
            primary_types=widths.get("primary.types", self.primary_types),
            primary_dim=widths.get("primary.dims", self.primary_dim),
        )

    def _capsule_units(self) -> tuple[Unit, Unit]:
        axes = (("primary.linear.weight", 0), ("primary.linear.bias", 0), ("class_caps.linear.weight", 1))
        by_type = tuple(Cut(name, axis, inner=self.primary_dim) for name, axis in axes)
        by_dim = tuple(Cut(name, axis) for name, axis in axes)
        return (
            Unit("primary.types", self.primary_types, by_type, (Cut("primary.out", 1),)),
            Unit("primary.dims", self.primary_dim, by_dim, (Cut("primary.out", 2),)),
        )


CNN_R = Preset(CNNRSpec())
CNN_CR = Preset(CNNCRSpec())
CNN_CR_SF = Preset(CNNCRSFSpec())
