"""A small plain CNN, the cheapest baseline: two convolutions and a dense layer.

Reference: the MNIST baseline of ``matthiasware/EfficientCN``. 28,938 values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from qcaps.capsules.dense import MapClassifier
from qcaps.capsules.sites import Sites
from qcaps.errors import UsageError
from qcaps.models.initialisation import fill_torch_default
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, Unit, conv_cuts


class PooledConv(nn.Module):
    """A padded convolution, ReLU, and the maximum over every 2×2 pixels.

    Parameters
    ----------
    channels_in, channels_out, kernel_size
        Of the convolution; an odd kernel keeps the size.
    """

    def __init__(self, channels_in: int, channels_out: int, *, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2)
        self.sites = Sites("out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h/2, w/2)``, rounded down."""
        return max_pool2d(self.sites("out", self.conv(x).relu()), 2)


@dataclass(frozen=True)
class CNNSmallSpec:
    """Every number of the small CNN, trained with cross-entropy.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; at least 4 pixels.
    conv1_channels, conv2_channels, kernel_size
        Of the convolutions; the kernel is odd.
    decoder
        None: logits have no pose to draw from.
    """

    architecture: ClassVar[str] = "cnn-small"
    usual_decoder: ClassVar[str] = "none"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv1_channels: int = 16
    conv2_channels: int = 32
    kernel_size: int = 5
    decoder: Literal["none"] = "none"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        positions = self._positions()
        stages = {
            "conv1": PooledConv(self.channels, self.conv1_channels, kernel_size=self.kernel_size),
            "conv2": PooledConv(self.conv1_channels, self.conv2_channels, kernel_size=self.kernel_size),
            "classifier": MapClassifier(self.conv2_channels * positions, self.classes),
        }
        dense = Cut("classifier.linear.weight", 1, inner=positions)
        units = (
            Unit("conv1.channels", self.conv1_channels, (*conv_cuts("conv1.conv"), Cut("conv2.conv.weight", 1))),
            Unit("conv2.channels", self.conv2_channels, (*conv_cuts("conv2.conv"), dense)),
        )
        return CapsuleNetwork(stages, units=units, loss="cross-entropy")

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
        """Give the spec itself: there is no decoder."""
        return self

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        return dataclasses.replace(
            self,
            conv1_channels=widths.get("conv1.channels", self.conv1_channels),
            conv2_channels=widths.get("conv2.channels", self.conv2_channels),
        )

    def _positions(self) -> int:
        """Give the positions of the map that two halvings leave."""
        if self.kernel_size % 2 == 0:
            raise UsageError(f"kernel_size of cnn-small is {self.kernel_size}", do="it must be odd")
        rows, columns = self.height // 4, self.width // 4
        if min(rows, columns) < 1:
            raise UsageError(f"{self.height}x{self.width} pixels are too few for cnn-small", do="it needs 4")
        return rows * columns


CNN_SMALL = Preset(CNNSmallSpec())
