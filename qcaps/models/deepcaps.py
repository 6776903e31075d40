"""DeepCaps: four residual blocks of convolutional capsules, the last with 3-D routing, and class capsules.

References: Rajasegaran et al., "DeepCaps: Going Deeper with Capsule Networks", 2019; Marchisio et al., "Q-CapsNets",
2020, and the code ``bbussolino/Q-CapsNets``, whose network this is. 8,445,504 trainable values for 28×28 pixels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import nn

from qcaps.capsules.conv_capsules import CapsuleBlock, ConvCapsules2d, ConvCapsules3d
from qcaps.capsules.feature_conv import FeatureConv
from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import RoutingSpec, VectorRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.initialisation import initialise_norms_and_decoder, torch_default_, uniform_
from qcaps.models.network import CapsuleNetwork
from qcaps.models.parts import decoder_of
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, Unit, conv_cuts

BLOCKS = 4
# Where the entries of `types` and `dims` lie: layers 1 and 2 of a block, and the sum that leaves it.
PLACES = tuple(f"block{block}{layer}" for block in range(1, BLOCKS + 1) for layer in (".l1", ".l2", ""))
# The capsules that leave blocks 3 and 4 share the class weights, so their dimensions are cut together.
DIM_PLACES = (*PLACES[:-1], "block3")
INITIAL_ROUTING_BIAS = 0.1


@dataclass(frozen=True)
class DeepCapsSpec:
    """Every number of a DeepCaps; the defaults are Q-CapsNets' network for 28×28 pixels.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size. Every block halves the maps, rounding up.
    conv_channels
        First convolution.
    types, dims
        Capsule types and dimensions, of layer 1, of layer 2 and of the sum that leaves the block, block after block.
        Blocks 3 and 4 both feed the class capsules, with one dimension.
    competing_types
        Types that compete in the softmax of the 3-D routing. A number of its own, since types that are pruned away
        keep the share of silent ones.
    class_dim
        Dimension of the class capsules.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, routing_passes, attention_scale
        Of block 4 and of the class capsules; see :class:`~qcaps.capsules.routing.RoutingSpec`. The bias is added in
        every pass, before the squash.
    norm_eps, norm_momentum
        Batch norm after the ReLU of the first convolution. With the published momentum, 0.99 in PyTorch's sense, the
        running statistics are almost those of the last batch; 0.01 averages over about a hundred.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "deepcaps"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv_channels: int = 128
    types: tuple[int, ...] = (32,) * 12
    dims: tuple[int, ...] = (4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 8)
    competing_types: int = 32
    class_dim: int = 32
    squash: SquashVariant = "hinton_ratio"
    squash_eps: float = 0.0
    length_eps: float = 0.0
    routing: VectorRouting = "dynamic"
    routing_passes: int = 3
    attention_scale: float = 4.0
    norm_eps: float = 1e-3
    norm_momentum: float = 0.99
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "select"

    @property
    def usual_decoder(self) -> str:
        """Name the decoder of the published network, which draws square images of two sizes."""
        return {(28, 28): "convdecoder28", (64, 64): "convdecoder64"}.get((self.height, self.width), "none")

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        self._check()
        conv1 = FeatureConv(
            self.channels,
            self.conv_channels,
            kernel_size=3,
            padding=1,
            norm="batch",
            norm_eps=self.norm_eps,
            norm_momentum=self.norm_momentum,
        )
        stages: dict[str, nn.Module] = {"conv1": conv1}
        for block in range(1, BLOCKS + 1):
            stages[f"block{block}"] = self._block(block)
        first, second = self._class_inputs()
        stages["class_caps"] = ClassCapsules(
            first + second, self.dims[-1], self.classes, self.class_dim, self._routing_spec()
        )
        return CapsuleNetwork(
            stages,
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            units=tuple(self._units()),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as Q-CapsNets does.

        First convolution PyTorch's default; capsules without routing Xavier-uniform; kernel of the 3-D routing and
        class weights Kaiming-uniform; their biases 0, those of both routings 0.1.
        """
        for name, parameter in network.stages.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(parameter, INITIAL_ROUTING_BIAS if name.endswith("routing.bias") else 0)
        for module in network.stages.modules():
            if isinstance(module, FeatureConv):
                torch_default_(module.conv, generator)
            elif isinstance(module, ConvCapsules2d):
                nn.init.xavier_uniform_(module.conv.weight, generator=generator)
            elif isinstance(module, ConvCapsules3d):
                uniform_(module.conv.weight, math.sqrt(6 / module.conv.weight[0].numel()), generator)
            elif isinstance(module, ClassCapsules):
                uniform_(module.weight, math.sqrt(6 / (self.dims[-1] * self.class_dim * self.classes)), generator)
        initialise_norms_and_decoder(network, network.decoder, generator)

    def folded(self) -> Self:
        """Give the spec itself: the norm lies between a ReLU and a padded convolution, where no fold is exact."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        types = (widths.get(f"{place}.types", n) for place, n in zip(PLACES, self.types, strict=True))
        dims = (widths.get(f"{place}.dims", n) for place, n in zip(DIM_PLACES, self.dims, strict=True))
        conv_channels = widths.get("conv1.channels", self.conv_channels)
        return dataclasses.replace(self, conv_channels=conv_channels, types=tuple(types), dims=tuple(dims))

    def _check(self) -> None:
        if not len(self.types) == len(self.dims) == len(PLACES):
            raise UsageError(f"types and dims of deepcaps need {len(PLACES)} entries each, three for every block")
        if self.dims[8] != self.dims[11]:
            raise UsageError(
                f"blocks 3 and 4 of deepcaps end in capsules of {self.dims[8]} and {self.dims[11]} dimensions",
                do="give the last entries of both the same dims",
            )
        if self.competing_types < self.types[-1]:
            raise UsageError(f"deepcaps has {self.types[-1]} types that compete, not {self.competing_types}")

    def _widths(self, block: int) -> list[tuple[int, int]]:
        """Give (types, dim) of layer 1, of layer 2 and of the sum of a block."""
        entries = slice(3 * (block - 1), 3 * block)
        return list(zip(self.types[entries], self.dims[entries], strict=True))

    def _grid(self, block: int) -> tuple[int, int]:
        """Give rows and columns behind a block."""
        step = 2**block
        return -(-self.height // step), -(-self.width // step)

    def _class_inputs(self) -> tuple[int, int]:
        """Count the capsules of both branches."""
        first, second = (self.types[3 * block - 1] * math.prod(self._grid(block)) for block in (3, 4))
        return first, second

    def _block(self, block: int) -> CapsuleBlock:
        (types_1, dim_1), (types_2, dim_2), (types, dim) = self._widths(block)
        channels = self.conv_channels if block == 1 else math.prod(self._widths(block - 1)[-1])
        last = block == BLOCKS
        absent = (self.competing_types - types) * math.prod(self._grid(block))
        skip: nn.Module = (
            ConvCapsules3d(
                types_1, dim_1, types=types, dim=dim, grid=self._grid(block), routing=self._routing_spec(absent)
            )
            if last
            else self._layer(types_1 * dim_1, types, dim)
        )
        return CapsuleBlock(
            self._layer(channels, types_1, dim_1, stride=2),
            self._layer(types_1 * dim_1, types_2, dim_2),
            self._layer(types_2 * dim_2, types, dim),
            skip,
            branches=last,
        )

    def _units(self) -> Iterator[Unit]:
        """Declare channels of the first convolution, types and dimensions of every layer and of every sum."""
        cuts = (*conv_cuts("conv1.conv", norm="conv1.norm"), Cut("block1.l1.conv.weight", 1))
        yield Unit("conv1.channels", self.conv_channels, cuts)
        for block in range(1, BLOCKS + 1):
            yield from self._block_units(block)
        sums = [f"{block}.{layer}.conv" for block in ("block3", "block4") for layer in ("l3", "skip")]
        others = (Cut("block4.skip.routing.bias", 1), Cut("class_caps.weight", 2))
        seen = (Cut("block3.sum_out", 1), Cut("block4.sum_out", 1))
        yield Unit("block3.dims", self.dims[-1], (*_cuts(sums, ["block4.l1.conv"]), *others), seen)

    def _block_units(self, block: int) -> Iterator[Unit]:
        name, last = f"block{block}", block == BLOCKS
        l1, l2, l3, skip = (f"{name}.{layer}.conv" for layer in ("l1", "l2", "l3", "skip"))
        following = [] if last else [f"block{block + 1}.l1.conv"]
        (types_1, dim_1), (types_2, dim_2), (types, dim) = self._widths(block)
        # The kernel of the 3-D routing is shared by the lower types: it has their dimension, not their number.
        readers = [l2] if last else [l2, skip]
        yield Unit(f"{name}.l1.types", types_1, _cuts([l1], readers, dim_1), (Cut(f"{name}.l1.out", 1),))
        yield Unit(f"{name}.l1.dims", dim_1, _cuts([l1], [l2, skip]), (Cut(f"{name}.l1.out", 4),))
        yield Unit(f"{name}.l2.types", types_2, _cuts([l2], [l3], dim_2), (Cut(f"{name}.l2.out", 1),))
        yield Unit(f"{name}.l2.dims", dim_2, _cuts([l2], [l3]), (Cut(f"{name}.l2.out", 4),))
        by_type = (*_cuts([l3, skip], following, dim), *self._branch_cuts(block))
        yield Unit(f"{name}.types", types, by_type, (Cut(f"{name}.sum_out", 1, dim),))
        if block < BLOCKS - 1:
            yield Unit(f"{name}.dims", dim, _cuts([l3, skip], following), (Cut(f"{name}.sum_out", 1),))

    def _branch_cuts(self, block: int) -> tuple[Cut, ...]:
        """List what shrinks with the types of a branch beside the convolutions: its rows of the class weights."""
        first, second = self._class_inputs()
        positions = math.prod(self._grid(block))
        if block == BLOCKS - 1:
            return (Cut("class_caps.weight", 0, positions, 0, first),)
        if block == BLOCKS:
            return Cut("block4.skip.routing.bias", 0), Cut("class_caps.weight", 0, positions, first, second)
        return ()

    def _layer(self, channels: int, types: int, dim: int, stride: int = 1) -> ConvCapsules2d:
        return ConvCapsules2d(
            channels,
            types=types,
            dim=dim,
            stride=stride,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
        )

    def _routing_spec(self, absent: int = 0) -> RoutingSpec:
        return RoutingSpec(
            kind=self.routing,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
            iterations=self.routing_passes,
            bias="in_loop",
            scale=self.attention_scale,
            absent=absent,
        )


def _cuts(producers: Sequence[str], readers: Sequence[str], inner: int = 1) -> tuple[Cut, ...]:
    """List what shrinks in the convolutions that make capsules and in those that read them."""
    rows = (cut for path in producers for cut in conv_cuts(path, inner=inner))
    return (*rows, *(Cut(f"{path}.weight", 1, inner) for path in readers))


DEEPCAPS = Preset(DeepCapsSpec(), any_size=True)
DEEPCAPS_64 = Preset(DeepCapsSpec(channels=3, height=64, width=64))
