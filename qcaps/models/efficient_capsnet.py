"""Efficient-CapsNet: four convolutions, a depthwise primary layer and self-attention routing.

Reference: Mazzia, Salvetti and Chiaberge, "Efficient-CapsNet: Capsule Network with Self-Attention Routing",
2021, section 3, and the authors' code ``EscVM/Efficient-CapsNet``. 161,824 trainable values for MNIST.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from qcaps.capsules.decoders import build_decoder
from qcaps.capsules.layers import ClassCapsules, FeatureConv, PrimaryCapsules
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import SelfAttentionRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.initialisation import he_normal_, initialise_norms_and_decoder, uniform_
from qcaps.models.network import CapsuleNetwork


@dataclass(frozen=True)
class EfficientCapsNetSpec:
    """Every number of an Efficient-CapsNet; the defaults are the published MNIST network.

    Parameters
    ----------
    channels, height, width, classes
        Of the images.
    conv_channels, conv_kernels, conv_strides
        One entry per convolution. The primary layer's kernel covers what they leave.
    primary_dim, class_dim
        Dimensions of the capsules; the number of primary capsules is the last of `conv_channels` / `primary_dim`.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, attention_scale
        See :class:`~qcaps.capsules.routing.SelfAttentionRouting`.
    norm, norm_eps, norm_momentum
        Batch norm after each ReLU; ``none`` once it is folded into the next layer.
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
    primary_dim: int = 8
    class_dim: int = 16
    squash: SquashVariant = "efficient"
    squash_eps: float = 1e-20
    length_eps: float = 1e-7
    routing: Literal["attention", "uniform"] = "attention"
    attention_scale: float = 4.0
    norm: Literal["batch", "none"] = "batch"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.01
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "zeros"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        rows, columns = self._map_size()
        stages: dict[str, nn.Module] = {}
        channels = self.channels
        layers = zip(self.conv_channels, self.conv_kernels, self.conv_strides, strict=True)
        for index, (width, kernel, stride) in enumerate(layers, start=1):
            stages[f"conv{index}"] = FeatureConv(
                channels,
                width,
                kernel_size=kernel,
                stride=stride,
                with_norm=self.norm == "batch",
                norm_eps=self.norm_eps,
                norm_momentum=self.norm_momentum,
            )
            channels = width
        types = self.conv_channels[-1] // self.primary_dim
        stages["primary"] = PrimaryCapsules(
            channels,
            types=types,
            dim=self.primary_dim,
            kernel_size=(rows, columns),
            stride=1,
            depthwise=True,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
        )
        routing = SelfAttentionRouting(
            types,
            self.classes,
            scale=self.attention_scale,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
            uniform=self.routing == "uniform",
        )
        stages["class_caps"] = ClassCapsules(types, self.primary_dim, self.classes, self.class_dim, routing)
        return CapsuleNetwork(
            stages,
            length_eps=self.length_eps,
            decoder=self._decoder(),
            mask_layout=self.mask_layout,
            folds=tuple(itertools.pairwise(list(stages)[:-1])) if self.norm == "batch" else (),
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

    def folded(self) -> Self:
        """Give the spec of the same network after its batch norms are folded away."""
        return dataclasses.replace(self, norm="none")

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

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
        if min(sizes) < 1:
            raise UsageError(f"{self.height}x{self.width} pixels are too few for efficient-capsnet")
        return sizes[0], sizes[1]

    def _decoder(self) -> nn.Module | None:
        return build_decoder(
            self.decoder,
            classes=self.classes,
            dim=self.class_dim,
            layout=self.mask_layout,
            image=(self.channels, self.height, self.width),
            batch_norm=self.decoder_norm,
        )
