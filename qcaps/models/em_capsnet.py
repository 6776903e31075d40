"""Matrix capsules with EM routing: one convolution, then capsules whose poses are 4×4 matrices.

Reference: Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 4. 317,194 trainable values for
pairs of smallNORB at 32×32 pixels; the paper speaks of 310,000.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from qcaps.capsules.decoders import build_decoder
from qcaps.capsules.em_routing import CapsuleActivation, EMRoutingSpec, Patches
from qcaps.capsules.feature_conv import FeatureConv
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.matrix_capsules import (
    POSE,
    ClassMatrixCapsules,
    ConvMatrixCapsules,
    PrimaryMatrixCapsules,
)
from qcaps.capsules.routing import MOST_PASSES
from qcaps.errors import UsageError
from qcaps.models.initialisation import initialise_norms_and_decoder, torch_default_, weight_layers
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, Unit, conv_cuts

# A smaller variance overflows single precision when it divides.
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class EMCapsNetSpec:
    """Every number of a network of matrix capsules; the defaults are the published one for smallNORB.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size that the strides leave something of.
    conv_channels, kernel_size, stride
        First convolution, followed by ReLU.
    primary_types
        Capsule types cut from it by 1×1 convolutions.
    conv_types, conv_kernels, conv_strides
        Layers of convolutional capsules, one entry each.
    competing_types
        Types among which routing shares the lower capsules at first, one entry for each of these layers; None for
        `conv_types`. Numbers of their own, since types that are pruned away keep that share.
    routing, routing_passes
        ``uniform`` leaves every assignment where it starts and makes one pass.
    lambda_limit, lambda_decay, variance_floor
        See :class:`~qcaps.capsules.em_routing.EMRoutingSpec`.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given; the published network has none.
    """

    architecture: ClassVar[str] = "em-capsnet"
    usual_decoder: ClassVar[str] = "none"

    channels: int = 2
    height: int = 32
    width: int = 32
    classes: int = 5
    conv_channels: int = 32
    kernel_size: int = 5
    stride: int = 2
    primary_types: int = 32
    conv_types: tuple[int, ...] = (32, 32)
    conv_kernels: tuple[int, ...] = (3, 3)
    conv_strides: tuple[int, ...] = (2, 1)
    competing_types: tuple[int, ...] | None = None
    routing: Literal["em", "uniform"] = "em"
    routing_passes: int = 3
    lambda_limit: float = 0.01
    lambda_decay: float = 0.95
    variance_floor: float = 1e-6
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        self._check()
        routing = EMRoutingSpec(
            self.routing, self.routing_passes, self.lambda_limit, self.lambda_decay, self.variance_floor
        )
        stages: dict[str, nn.Module] = {
            "conv1": FeatureConv(self.channels, self.conv_channels, kernel_size=self.kernel_size, stride=self.stride),
            "primary": PrimaryMatrixCapsules(self.conv_channels, self.primary_types),
        }
        rows, columns = self._primary_grid(self.height), self._primary_grid(self.width)
        types = (self.primary_types, *self.conv_types)
        competing = self.competing_types or self.conv_types
        layers = zip(itertools.pairwise(types), competing, self.conv_kernels, self.conv_strides, strict=True)
        for index, ((n_in, n_out), among, kernel, stride) in enumerate(layers, start=1):
            patches = Patches(rows, columns, (kernel, kernel), stride)
            own = dataclasses.replace(routing, absent=among - n_out)
            stages[f"conv_caps{index}"] = ConvMatrixCapsules(patches, n_in, n_out, own)
            rows, columns = patches.grid
        stages["class_caps"] = ClassMatrixCapsules(rows, columns, types[-1], self.classes, routing)
        return CapsuleNetwork(
            stages, decoder=self._decoder(), mask_layout=self.mask_layout, units=tuple(self._units()), loss="spread"
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers: convolutions PyTorch's default, β_u and β_a 0, transformation matrices near the identity.

        The paper names no initial values. Means of votes through random matrices shrink from layer to layer; the
        identity passes poses on, and a normal deviation of 0.1 tells the types apart.
        """
        for layer in weight_layers(network.stages):
            torch_default_(layer, generator)
        for module in network.stages.modules():
            if isinstance(module, ConvMatrixCapsules | ClassMatrixCapsules):
                nn.init.normal_(module.weight, std=0.1, generator=generator)
                module.weight.data.diagonal(dim1=-2, dim2=-1).add_(1)
            elif isinstance(module, CapsuleActivation):
                nn.init.zeros_(module.beta_u)
                nn.init.zeros_(module.beta_a)
        initialise_norms_and_decoder(network, network.decoder, generator)

    def folded(self) -> Self:
        """Give the spec itself: there is no batch norm to fold."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        types = tuple(widths.get(f"conv_caps{index}.types", n) for index, n in enumerate(self.conv_types, start=1))
        return dataclasses.replace(
            self,
            conv_channels=widths.get("conv1.channels", self.conv_channels),
            primary_types=widths.get("primary.types", self.primary_types),
            conv_types=types,
            competing_types=self.competing_types or (None if types == self.conv_types else self.conv_types),
        )

    def _check(self) -> None:
        if not len(self.conv_types) == len(self.conv_kernels) == len(self.conv_strides):
            raise UsageError("conv_types, conv_kernels and conv_strides of em-capsnet differ in length")
        competing = self.competing_types or self.conv_types
        if len(competing) != len(self.conv_types) or any(map(int.__lt__, competing, self.conv_types)):
            raise UsageError("competing_types of em-capsnet has an entry for each of conv_types, and none is smaller")
        if self.routing_passes > MOST_PASSES:
            raise UsageError(f"routing_passes of em-capsnet is {self.routing_passes}", do=f"at most {MOST_PASSES}")
        if self.lambda_decay > 1:
            raise UsageError(f"lambda_decay of em-capsnet is {self.lambda_decay}", do="at most 1")
        if self.variance_floor < LEAST_VARIANCE:
            raise UsageError(f"variance_floor of em-capsnet is {self.variance_floor}", do=f"at least {LEAST_VARIANCE}")

    def _primary_grid(self, size: int) -> int:
        """Give the rows (or columns) of primary capsules for an image side in pixels."""
        least = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            least = (least - 1) * stride + kernel
        least = (least - 1) * self.stride + self.kernel_size
        if size < least:
            raise UsageError(f"{self.height}x{self.width} pixels are too few for em-capsnet", do=f"it needs {least}")
        return (size - self.kernel_size) // self.stride + 1

    def _units(self) -> Iterator[Unit]:
        """Declare the channels of the convolution and all capsule types but the classes."""
        pose, activation = "primary.pose.conv", "primary.activation.conv"
        readers = (Cut(f"{pose}.weight", 1), Cut(f"{activation}.weight", 1))
        yield Unit("conv1.channels", self.conv_channels, (*conv_cuts("conv1.conv"), *readers))
        layers = [f"conv_caps{index}" for index in range(1, len(self.conv_types) + 1)]
        reader, *following = [*(Cut(f"{layer}.weight", 2) for layer in layers), Cut("class_caps.weight", 0)]
        own = (*conv_cuts(pose, inner=POSE), *conv_cuts(activation))
        seen = (Cut("primary.pose.out", 1, inner=POSE), Cut("primary.activation.out", 1))
        yield Unit("primary.types", self.primary_types, (*own, reader), seen)
        for layer, count, reader in zip(layers, self.conv_types, following, strict=True):
            activation = f"{layer}.routing.activation"
            betas = (Cut(f"{activation}.{name}", 0) for name in ("beta_u", "beta_a"))
            seen = (Cut(f"{layer}.out", 3), Cut(f"{activation}.out", 2))
            yield Unit(f"{layer}.types", count, (Cut(f"{layer}.weight", 3), *betas, reader), seen)

    def _decoder(self) -> nn.Module | None:
        return build_decoder(
            self.decoder,
            classes=self.classes,
            dim=POSE,
            layout=self.mask_layout,
            image=(self.channels, self.height, self.width),
            batch_norm=self.decoder_norm,
        )


EM_CAPSNET = Preset(EMCapsNetSpec(), any_size=True)
