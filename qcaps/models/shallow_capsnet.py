"""ShallowCapsNet, the original CapsNet: plain convolutions, one layer of primary capsules and dynamic routing.

References: Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, section 4; Marchisio et al.,
"Q-CapsNets", 2020, and the code ``bbussolino/Q-CapsNets``, whose flavour is the default here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import nn

from qcaps.capsules.feature_conv import FeatureConv
from qcaps.capsules.layers import ClassCapsules, PrimaryCapsules, ReshapeOrder, RoutedPrimaryCapsules
from qcaps.capsules.masking import MaskLayout
from qcaps.capsules.routing import BiasPosition, VectorRouting
from qcaps.capsules.squash import SquashVariant
from qcaps.errors import UsageError
from qcaps.models.capsnet_initialisation import CapsNetFlavour, initialise_capsnet
from qcaps.models.network import CapsuleNetwork, Chain
from qcaps.models.parts import decoder_of, routing_of
from qcaps.models.spec import Preset
from qcaps.models.units import Cut, KeptIndex, Unit, conv_cuts


@dataclass(frozen=True)
class ShallowCapsNetSpec:
    """Every number of a ShallowCapsNet; the defaults are Q-CapsNets' MNIST network, 6,804,384 values.

    Parameters
    ----------
    channels, height, width, classes
        Of the images; any size that the kernels leave something of.
    conv_channels, conv_kernels, conv_strides
        One entry per convolution in front of the capsules.
    norm, norm_eps, norm_momentum
        Batch norm before each ReLU and behind the primary convolution.
    primary_types, primary_dim, primary_kernel, primary_stride
        Primary capsules.
    primary_positions
        Cells of the primary grid that have capsules; None for all.
    primary_bias, primary_coupling
        ``routed``: one routing pass with this coupling, then a bias; ``conv``: the convolution's own bias.
    reshape_order
        See :func:`~qcaps.capsules.layers.as_capsules`.
    class_dim
        Dimension of the class capsules.
    squash, squash_eps, length_eps
        See :mod:`qcaps.capsules.squash`.
    routing, routing_passes, routing_bias, routing_detach, prior_logits, attention_scale, attention_temperature
        See :class:`~qcaps.capsules.routing.RoutingSpec`.
    initial_values
        Whose initial values training starts from.
    decoder, decoder_norm, mask_layout
        Registry name of the decoder, batch norm in it, and what it is given.
    """

    architecture: ClassVar[str] = "shallow-capsnet"
    usual_decoder: ClassVar[str] = "fc"

    channels: int = 1
    height: int = 28
    width: int = 28
    classes: int = 10
    conv_channels: tuple[int, ...] = (256,)
    conv_kernels: tuple[int, ...] = (9,)
    conv_strides: tuple[int, ...] = (1,)
    norm: Literal["none", "batch"] = "none"
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    primary_types: int = 32
    primary_dim: int = 8
    primary_positions: int | None = None
    primary_kernel: int = 9
    primary_stride: int = 2
    primary_bias: Literal["routed", "conv"] = "routed"
    primary_coupling: float = 1 / 32
    reshape_order: ReshapeOrder = "type_hw"
    class_dim: int = 16
    squash: SquashVariant = "hinton_ratio"
    squash_eps: float = 0.0
    length_eps: float = 0.0
    routing: VectorRouting = "dynamic"
    routing_passes: int = 3
    routing_bias: BiasPosition = "in_loop"
    routing_detach: bool = False
    prior_logits: bool = False
    attention_scale: float = 4.0
    attention_temperature: float = 1.0
    initial_values: CapsNetFlavour = "qcapsnets"
    decoder: str = "none"
    decoder_norm: bool = False
    mask_layout: MaskLayout = "select"

    def build(self) -> CapsuleNetwork:
        """Build the network, its numbers not yet filled in."""
        stages: dict[str, nn.Module] = {}
        channels = (self.channels, *self.conv_channels)
        layers = zip(itertools.pairwise(channels), self.conv_kernels, self.conv_strides, strict=True)
        for index, ((n_in, n_out), kernel, stride) in enumerate(layers, start=1):
            stages[f"conv{index}"] = FeatureConv(
                n_in,
                n_out,
                kernel_size=kernel,
                stride=stride,
                norm=self.norm,
                norm_eps=self.norm_eps,
                norm_momentum=self.norm_momentum,
                norm_order="before_activation",
            )
        stages["primary"] = self._primary()
        n_primary = self.primary_types * self._positions()
        routing = dataclasses.replace(routing_of(self), prior_logits=self.prior_logits, detach=self.routing_detach)
        stages["class_caps"] = ClassCapsules(n_primary, self.primary_dim, self.classes, self.class_dim, routing)
        return CapsuleNetwork(
            stages,
            length_eps=self.length_eps,
            decoder=decoder_of(self),
            mask_layout=self.mask_layout,
            chains=self._chains(),
            units=self._units(),
        )

    def initialise(self, network: CapsuleNetwork, generator: torch.Generator) -> None:
        """Fill the numbers as the code named by `initial_values` does."""
        initialise_capsnet(network, self.initial_values, generator)
        primary = network.stages["primary"]
        assert isinstance(primary, PrimaryCapsules | RoutedPrimaryCapsules)
        if primary.positions is not None:
            primary.positions.copy_(torch.arange(len(primary.positions)))

    def folded(self) -> Self:
        """Give the spec itself: the published networks have no batch norm to fold."""
        return self

    def with_uniform_routing(self) -> Self:
        """Give the spec of the same network with all coupling coefficients equal."""
        return dataclasses.replace(self, routing="uniform")

    def without_decoder(self) -> Self:
        """Give the spec of the same network without its decoder."""
        return dataclasses.replace(self, decoder="none", decoder_norm=False)

    def with_widths(self, widths: Mapping[str, int]) -> Self:
        """Give the spec of the same network with the kept number of some of its units."""
        convs = [widths.get(f"conv{i}.channels", n) for i, n in enumerate(self.conv_channels, start=1)]
        positions = widths.get("primary.positions", self._positions())
        return dataclasses.replace(
            self,
            conv_channels=tuple(convs),
            primary_types=widths.get("primary.types", self.primary_types),
            primary_dim=widths.get("primary.dims", self.primary_dim),
            primary_positions=self.primary_positions if positions == self._positions() else positions,
        )

    def _grid(self, size: int) -> int:
        """Give the rows (or columns) of primary capsules for an image side in pixels."""
        kernels, strides = (*self.conv_kernels, self.primary_kernel), (*self.conv_strides, self.primary_stride)
        if not len(self.conv_channels) == len(self.conv_kernels) == len(self.conv_strides):
            raise UsageError("conv_channels, conv_kernels and conv_strides of shallow-capsnet differ in length")
        left, least = size, 1
        for kernel, stride in zip(kernels, strides, strict=True):
            left = (left - kernel) // stride + 1
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            least = (least - 1) * stride + kernel
        if left < 1:
            size_text = f"{self.height}x{self.width} pixels"
            raise UsageError(f"{size_text} are too few for shallow-capsnet", do=f"it needs {least}")
        return left

    def _cells(self) -> int:
        """Count the cells of the primary grid."""
        return self._grid(self.height) * self._grid(self.width)

    def _positions(self) -> int:
        """Count the cells of the primary grid that have capsules."""
        cells = self._cells()
        if self.primary_positions is None:
            return cells
        if self.primary_positions > cells:
            raise UsageError(f"primary_positions of shallow-capsnet is {self.primary_positions}", do=f"at most {cells}")
        if self.reshape_order == "stacked_raw":
            raise UsageError("shallow-capsnet has no primary_positions where capsules are runs of cells")
        return self.primary_positions

    def _primary(self) -> nn.Module:
        if self.primary_bias == "routed":
            if not self.primary_coupling:
                raise UsageError("primary_coupling of shallow-capsnet is 0: nothing would reach its capsules")
            if self.norm != "none":
                raise UsageError("shallow-capsnet has no norm behind routed primary capsules", do="primary_bias=conv")
            return RoutedPrimaryCapsules(
                self.conv_channels[-1],
                types=self.primary_types,
                dim=self.primary_dim,
                kernel_size=self.primary_kernel,
                stride=self.primary_stride,
                coupling=self.primary_coupling,
                order=self.reshape_order,
                positions=self.primary_positions,
                squash_variant=self.squash,
                squash_eps=self.squash_eps,
            )
        return PrimaryCapsules(
            self.conv_channels[-1],
            types=self.primary_types,
            dim=self.primary_dim,
            kernel_size=(self.primary_kernel, self.primary_kernel),
            stride=self.primary_stride,
            order=self.reshape_order,
            with_norm=self.norm == "batch",
            positions=self.primary_positions,
            squash_variant=self.squash,
            squash_eps=self.squash_eps,
        )

    def _chains(self) -> tuple[Chain, ...]:
        """Declare every convolution with the one behind it; a norm in between makes up for any factor."""
        if self.norm != "none":
            return ()
        names = [*(f"conv{index}" for index in range(1, len(self.conv_channels) + 1)), "primary"]
        return tuple(Chain(f"{one}.conv", f"{following}.conv") for one, following in itertools.pairwise(names))

    def _units(self) -> tuple[Unit, ...]:
        """Declare convolution channels, and types, dimensions and positions of capsules."""
        units = []
        followers = [f"conv{i + 2}" for i in range(len(self.conv_channels) - 1)] + ["primary"]
        for index, (count, following) in enumerate(zip(self.conv_channels, followers, strict=True), start=1):
            norm = f"conv{index}.norm" if self.norm == "batch" else ""
            cuts = (*conv_cuts(f"conv{index}.conv", norm=norm), Cut(f"{following}.conv.weight", 1))
            units.append(Unit(f"conv{index}.channels", count, cuts))
        if self.reshape_order == "stacked_raw":
            return tuple(units)  # such a capsule is a run of cells, of one type or of several
        routed = self.primary_bias == "routed"
        norm = "primary.norm" if self.norm == "batch" else ""
        by_type = conv_cuts("primary.conv", norm=norm, bias=not routed, inner=self.primary_dim)
        by_dim = conv_cuts("primary.conv", norm=norm, bias=not routed)
        if routed:
            by_type, by_dim = (*by_type, Cut("primary.bias", 0)), (*by_dim, Cut("primary.bias", 1))
        rows = ["class_caps.weight"]
        rows += ["class_caps.routing.prior"] if self.prior_logits else []
        rows += ["class_caps.routing.bias"] if self.routing_bias == "after_softmax" else []
        types, positions = self.primary_types, self._positions()
        type_run, position_run = (positions, 1) if self.reshape_order == "type_hw" else (1, types)
        by_type = (*by_type, *(Cut(name, 0, type_run) for name in rows))
        by_dim = (*by_dim, Cut("class_caps.weight", 2))
        by_position = tuple(Cut(name, 0, position_run) for name in rows)
        listed = KeptIndex("primary.positions", of=self._cells())
        return (
            *units,
            Unit("primary.types", types, by_type, (Cut("primary.out", 1, type_run),)),
            Unit("primary.dims", self.primary_dim, by_dim, (Cut("primary.out", 2),)),
            Unit("primary.positions", positions, by_position, (Cut("primary.out", 1, position_run),), listed),
        )


SHALLOW_CAPSNET = Preset(ShallowCapsNetSpec(), any_size=True)
