"""Efficient-CapsNet: four convolutions, a depthwise primary layer and self-attention routing.

References: Mazzia, Salvetti and Chiaberge, "Efficient-CapsNet: Capsule Network with Self-Attention Routing",
2021, section 3, and the authors' code ``EscVM/Efficient-CapsNet``. 161,824 trainable values for MNIST.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from qcaps.capsules.feature_conv import FeatureConv, Norm
from qcaps.capsules.layers import ClassCapsules, PrimaryCapsules
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import BiasPosition, VectorRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.initialisation import he_normal_, initialise_norms_and_decoder, uniform_
from qcaps.models.network import CapsuleNetwork, Chain, Fold
from qcaps.models.parts import decoder_of, routing_of
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, Unit, conv_cuts

# Half width of the even draw that gamma and beta of an instance norm start from, in the authors' code.
INSTANCE_NORM_BOUND = 0.05


@dataclass(frozen=True)
class EfficientCapsNetSpec:
    """Every number of an Efficient-CapsNet; the defaults are the published MNIST network.

    Parameters
    ----------
    channels, height, width, classes
        Of the images.
    conv_channels, conv_kernels, conv_strides
        One entry per convolution. The primary layer's kernel covers what they leave.
    activation_slope
        Of the activations for negative values; 0 is ReLU.
    norm, norm_eps, norm_momentum, norm_affine
        Norm after each activation; ``none`` once batch norms are folded into the next layers.
    primary_stride
        The primary kernel spares the last ``primary_stride - 1`` rows and columns of the map.
    primary_dim, class_dim
        Dimensions of the capsules; the number of primary capsules is the last of `conv_channels` / `primary_dim`.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, routing_bias, routing_passes, attention_scale, attention_temperature
        See :class:`~qcaps.capsules.routing.RoutingSpec`.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "efficient-capsnet"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv_channels: tuple[int, ...] = (32, 64, 64, 128)
    conv_kernels: tuple[int, ...] = (5, 3, 3, 3)
    conv_strides: tuple[int, ...] = (1, 1, 1, 2)
    activation_slope: float = 0.0
    norm: Norm = "batch"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    norm_affine: bool = True
    primary_stride: int = 1
    primary_dim: int = 8
    class_dim: int = 16
    squash: SquashVariant = "efficient"
    squash_eps: float = 1e-20
    length_eps: float = 1e-7
    routing: VectorRouting = "attention"
    routing_bias: BiasPosition = "after_softmax"
    routing_passes: int = 3
    attention_scale: float = 4.0
    attention_temperature: float = 1.0
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    @property
    def usual_decoder(self) -> str:
        """Registry name of the published decoder: upsampling for smallNORB's 48x48 pixels, else fully connected."""
        return "upsample48" if (self.height, self.width, self.norm) == (48, 48, "instance") else "fc"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        rows, columns = self._map_size()
        stages: dict[str, nn.Module] = {}
        layers = zip(
            itertools.pairwise((self.channels, *self.conv_channels)), self.conv_kernels, self.conv_strides, strict=True
        )
        for index, ((n_in, n_out), kernel, stride) in enumerate(layers, start=1):
            stages[f"conv{index}"] = FeatureConv(
                n_in,
                n_out,
                kernel_size=kernel,
                stride=stride,
                slope=self.activation_slope,
                norm=self.norm,
                norm_eps=self.norm_eps,
                norm_momentum=self.norm_momentum,
                norm_affine=self.norm_affine,
            )
        types = self.conv_channels[-1] // self.primary_dim
        spared = self.primary_stride - 1
        stages["primary"] = PrimaryCapsules(
            self.conv_channels[-1],
            types=types,
            dim=self.primary_dim,
            kernel_size=(rows - spared, columns - spared),
            stride=self.primary_stride,
            depthwise=True,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
        )
        stages["class_caps"] = ClassCapsules(types, self.primary_dim, self.classes, self.class_dim, routing_of(self))
        chain = [name for name in stages if name != "class_caps"]
        folds = [Fold(f"{one}.norm", f"{following}.conv") for one, following in itertools.pairwise(chain)]
        return CapsuleNetwork(
            stages,
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            folds=folds if self.norm == "batch" else (),
            chains=[Chain(f"{one}.conv", f"{following}.conv") for one, following in itertools.pairwise(chain[:-1])]
            if self.norm == "none"
            else (),
            units=self._units(),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as the authors' code does: He-normal, the primary layer Glorot-uniform, biases 0."""
        for name, parameter in network.stages.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        for stage in network.stages.values():
            if isinstance(stage, FeatureConv):
                he_normal_(stage.conv.weight, stage.conv.weight[0].numel(), generator)
            elif isinstance(stage, PrimaryCapsules):
                kernel = stage.conv.weight[0].numel()
                uniform_(stage.conv.weight, (6 / ((1 + self.conv_channels[-1]) * kernel)) ** 0.5, generator)
            elif isinstance(stage, ClassCapsules):
                he_normal_(stage.weight, self.classes * self.class_dim * self.primary_dim, generator)
        initialise_norms_and_decoder(network, network.decoder, generator)
        for norm in network.stages.modules():
            if isinstance(norm, nn.InstanceNorm2d) and norm.affine:
                uniform_(norm.weight, INSTANCE_NORM_BOUND, generator)
                uniform_(norm.bias, INSTANCE_NORM_BOUND, generator)

    def folded(self) -> Self:
        """Give the spec of the same network after its batch norms are folded away."""
        return dataclasses.replace(self, norm="none") if self.norm == "batch" else self

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        dim = widths.get("primary.dims", self.primary_dim)
        types = widths.get("primary.types", self.conv_channels[-1] // self.primary_dim)
        convs = [widths.get(f"conv{i}.channels", n) for i, n in enumerate(self.conv_channels[:-1], start=1)]
        return dataclasses.replace(self, conv_channels=(*convs, types * dim), primary_dim=dim)

    def _map_size(self) -> tuple[int, int]:
        """Give the rows and columns that the convolutions leave for the primary layer."""
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
            raise UsageError("conv_channels, conv_kernels and conv_strides of efficient-capsnet differ in length")
        if self.conv_channels[-1] % self.primary_dim:
            raise UsageError("the last of conv_channels is no multiple of primary_dim in efficient-capsnet")
        sizes = []
        for size in (self.height, self.width):
            left = size
            for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
                left = (left - kernel) // stride + 1
            sizes.append(left)
        if min(sizes) < self.primary_stride:
            raise UsageError(f"{self.height}x{self.width} pixels are too few for efficient-capsnet")
        return sizes[0], sizes[1]

    def _units(self) -> tuple[Unit, ...]:
        """Declare convolution channels, and the primary capsules with the last convolution that feeds each of them."""
        units = []
        last = len(self.conv_channels)
        for index, count in enumerate(self.conv_channels[:-1], start=1):
            cuts = (*self._conv_cuts(index), Cut(f"conv{index + 1}.conv.weight", 1))
            units.append(Unit(f"conv{index}.channels", count, cuts))
        dim = self.primary_dim
        types = self.conv_channels[-1] // dim
        by_type = (*self._conv_cuts(last, dim), *conv_cuts("primary.conv", inner=dim), Cut("class_caps.weight", 0))
        by_dim = (*self._conv_cuts(last), *conv_cuts("primary.conv"), Cut("class_caps.weight", 2))
        if self.routing_bias == "after_softmax":
            by_type = (*by_type, Cut("class_caps.routing.bias", 0))
        units.append(Unit("primary.types", types, by_type, (Cut("primary.out", 1),)))
        units.append(Unit("primary.dims", dim, by_dim, (Cut("primary.out", 2),)))
        return tuple(units)

    def _conv_cuts(self, index: int, inner: int = 1) -> tuple[Cut, ...]:
        has_tensors = self.norm == "batch" or (self.norm == "instance" and self.norm_affine)
        norm = f"conv{index}.norm" if has_tensors else ""
        return conv_cuts(f"conv{index}.conv", norm=norm, statistics=self.norm == "batch", inner=inner)


_MNIST = EfficientCapsNetSpec()
EFFICIENT_CAPSNET = Preset(_MNIST, any_size=True)
SMALLNORB = Preset(
    dataclasses.replace(
        _MNIST,
        channels=2,
        height=48,
        width=48,
        classes=5,
        conv_kernels=(7, 3, 3, 3),
        conv_strides=(2, 1, 1, 2),
        activation_slope=0.3,
        norm="instance",
    )
)
MULTIMNIST = Preset(dataclasses.replace(_MNIST, height=36, width=36, conv_strides=(1, 1, 2, 2), primary_stride=2))
AFFNIST = Preset(dataclasses.replace(_MNIST, height=40, width=40))
