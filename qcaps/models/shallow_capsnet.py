"""ShallowCapsNet, the original CapsNet: two 9×9 convolutions and dynamic routing.

References: Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, section 4; Marchisio et al.,
"Q-CapsNets", 2020, and the code ``bbussolino/Q-CapsNets``, whose flavour is the default here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, cast

import torch
from torch import nn

from qcaps.capsules.decoders import build_decoder
from qcaps.capsules.layers import ClassCapsules, FeatureConv, PrimaryCapsules, RoutedPrimaryCapsules
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import DynamicRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.initialisation import initialise_norms_and_decoder, torch_default_, uniform_
from qcaps.models.network import CapsuleNetwork

# Published networks run three or four passes; a file that asks for very many would never be done.
MOST_PASSES = 100


@dataclass(frozen=True)
class ShallowCapsNetSpec:
    """Every number of a ShallowCapsNet; the defaults are Q-CapsNets' MNIST network, 6,804,384 values.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size from 17 pixels.
    conv_channels, kernel_size
        First convolution; the primary one has the same kernel and stride 2.
    primary_types, primary_dim, class_dim
        Capsule types and dimensions.
    primary_bias
        ``routed``: one routing pass with coupling 1/types, then a bias; ``conv``: the convolution's own bias.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, routing_passes, routing_bias
        ``uniform`` runs a single pass. The bias is added in every pass, before the squash.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "shallow-capsnet"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv_channels: int = 256
    kernel_size: int = 9
    primary_types: int = 32
    primary_dim: int = 8
    class_dim: int = 16
    primary_bias: Literal["routed", "conv"] = "routed"
    squash: SquashVariant = "hinton_ratio"
    squash_eps: float = 0.0
    length_eps: float = 0.0
    routing: Literal["dynamic", "uniform"] = "dynamic"
    routing_passes: int = 3
    routing_bias: bool = True
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "select"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        if self.routing_passes > MOST_PASSES:
            raise UsageError(f"routing_passes of shallow-capsnet is {self.routing_passes}", do=f"at most {MOST_PASSES}")
        rows, columns = (self._grid(size) for size in (self.height, self.width))
        n_primary = self.primary_types * rows * columns
        routing = DynamicRouting(
            self.classes,
            self.class_dim,
            iterations=self.routing_passes if self.routing == "dynamic" else 1,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
            with_bias=self.routing_bias,
        )
        stages = {
            "conv1": FeatureConv(self.channels, self.conv_channels, kernel_size=self.kernel_size),
            "primary": self._primary(),
            "class_caps": ClassCapsules(n_primary, self.primary_dim, self.classes, self.class_dim, routing),
        }
        return CapsuleNetwork(stages, length_eps=self.length_eps, decoder=self._decoder(), mask_layout=self.mask_layout)

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as Q-CapsNets does: PyTorch's default, class weights Kaiming-uniform, class bias 0.1."""
        for stage in network.stages.values():
            if isinstance(stage, ClassCapsules):
                uniform_(stage.weight, math.sqrt(6 / (self.primary_dim * self.class_dim * self.classes)), generator)
                if stage.routing.bias is not None:
                    nn.init.constant_(stage.routing.bias, 0.1)
                continue
            torch_default_(cast("nn.Module", stage.conv), generator)
            if isinstance(stage, RoutedPrimaryCapsules):
                nn.init.zeros_(stage.bias)
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

    def _grid(self, size: int) -> int:
        """Give the rows (or columns) of primary capsules for an image side in pixels."""
        left = size - self.kernel_size + 1
        grid = (left - self.kernel_size) // 2 + 1
        if grid < 1:
            least = 2 * self.kernel_size - 1
            raise UsageError(
                f"{self.height}x{self.width} pixels are too few for shallow-capsnet", do=f"it needs {least}"
            )
        return grid

    def _primary(self) -> nn.Module:
        if self.primary_bias == "routed":
            return RoutedPrimaryCapsules(
                self.conv_channels,
                types=self.primary_types,
                dim=self.primary_dim,
                kernel_size=self.kernel_size,
                stride=2,
                squash_variant=self.squash,
                squash_eps=self.squash_eps,
            )
        return PrimaryCapsules(
            self.conv_channels,
            types=self.primary_types,
            dim=self.primary_dim,
            kernel_size=(self.kernel_size, self.kernel_size),
            stride=2,
            depthwise=False,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
        )

    def _decoder(self) -> nn.Module | None:
        return build_decoder(
            self.decoder,
            classes=self.classes,
            dim=self.class_dim,
            layout=self.mask_layout,
            image=(self.channels, self.height, self.width),
            batch_norm=self.decoder_norm,
        )
