"""The layers that read prunable units, and how their weights make up for units that are gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from qcaps.capsules.layers import ClassCapsules
from qcaps.capsules.sites import Sites
from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import Cut, Unit, cut_tensors
from qcaps.pruning.strategy import Kept


@dataclass(frozen=True, eq=False)
class Substitute:
    """What a reader takes the channels for that are gone: mix · kept channels + offset.

    Parameters
    ----------
    mix
        Shape ``(channels, kept)``; the rows of kept channels are 0.
    offset
        Shape ``(channels,)``; 0 for kept channels.
    """

    mix: Tensor
    offset: Tensor

    def on(self, device: torch.device) -> Substitute:
        """Give the same on a device."""
        return Substitute(self.mix.to(device), self.offset.to(device))


class Reader(Protocol):
    """A layer of the source network whose outputs are linear in channels that may go."""

    @property
    def path(self) -> str:
        """Path of the layer within the stages."""

    @property
    def takes_constant(self) -> bool:
        """Whether an offset can be added to what it computes."""

    def samples(self, x: Tensor) -> Tensor:
        """Read the inputs of a batch as samples of all channels: shape ``(n, channels)``."""

    def kept_channels(self, kept: Kept) -> Tensor:
        """List the channels that stay, ascending, int64."""

    def refit(self, network: CapsuleNetwork, kept: Kept, found: Substitute) -> None:
        """Let the layer of a cut network read substitutes; it is given new tensors, none is changed in place."""


def readers(network: CapsuleNetwork) -> list[Reader]:
    """List the convolutions, linear layers and votes of a network that read prunable units.

    Depthwise convolutions follow their channels rather than read them. Layers of matrix capsules are left out.
    """
    found: dict[str, Reader] = {}
    for unit in network.units:
        for cut in unit.cuts:
            path, _, parameter = cut.tensor.rpartition(".")
            layer = network.stages.get_submodule(path)
            if parameter == "weight" and isinstance(layer, nn.Conv2d | nn.Linear) and cut.axis == 1:
                found[path] = LayerReader(path, layer.weight.detach(), network.units, *_bias(network, cut.tensor))
            elif parameter == "weight" and isinstance(layer, ClassCapsules) and unit.kind == "types":
                takes_constant = layer.routing.bias is not None and layer.routing.spec.bias == "in_loop"
                found[f"{path}, {unit.name}"] = VoteReader(
                    path, layer.weight.detach(), network.units, unit, cut, takes_constant
                )
    return list(found.values())


@dataclass(frozen=True, eq=False)
class LayerReader:
    """A convolution or linear layer.

    Parameters
    ----------
    path
        Within the stages.
    weight
        Of the source network, shape ``(out, in, rows, columns)`` or ``(out, in)``.
    units
        All of the source network.
    bias
        Name of what is added to its outputs, within the stages; "" for a convolution with a norm behind it, which
        takes every constant off again.
    gain
        What the outputs are multiplied by before that.
    """

    path: str
    weight: Tensor
    units: Sequence[Unit]
    bias: str
    gain: float

    @property
    def takes_constant(self) -> bool:
        """Whether an offset can be added: by the bias, or by the norm."""
        return True

    def samples(self, x: Tensor) -> Tensor:
        """Read ``(batch, channels, rows, columns)`` or ``(batch, channels · positions)``; a position is a sample."""
        return x.reshape(len(x), self._channels, -1).transpose(1, 2).flatten(0, 1)

    def kept_channels(self, kept: Kept) -> Tensor:
        """List the channels that stay."""
        by_channel = torch.arange(self._channels).repeat_interleave(self.weight.shape[1] // self._channels)
        entries = _cut(by_channel.unsqueeze(0), self._cuts(axis=1), kept)[0]
        stays: Tensor = torch.unique_consecutive(entries)
        return stays

    def refit(self, network: CapsuleNetwork, kept: Kept, found: Substitute) -> None:
        """Add what the substitutes contribute to weights and bias."""
        weight = _cut(self.weight, self._cuts(axis=0), kept).reshape(-1, self._channels, self._positions)
        found = found.on(weight.device)
        _add(network, f"{self.path}.weight", torch.einsum("ocp,ck->okp", weight, found.mix))
        if self.bias:
            _add(network, self.bias, self.gain * torch.einsum("ocp,c->o", weight, found.offset))

    @property
    def _channels(self) -> int:
        """Count the channels; a linear layer has several inputs for each, one for every position."""
        size = self.weight.shape[1]
        if self.weight.dim() > 2:
            return size
        return size // math.gcd(*(cut.inner for cuts in self._cuts(axis=1).values() for cut in cuts))

    @property
    def _positions(self) -> int:
        """Count the weights from one channel to one output."""
        return self.weight[0].numel() // self._channels

    def _cuts(self, axis: int) -> dict[Unit, tuple[Cut, ...]]:
        return _chosen(self.units, lambda cut: cut.tensor == f"{self.path}.weight" and cut.axis == axis)


@dataclass(frozen=True, eq=False)
class VoteReader:
    """The votes of capsules, whose channels are all dimensions of all types at a position.

    Parameters
    ----------
    path, units
        As for :class:`LayerReader`.
    weight
        Of the source network, shape ``(n_in, n_out, d_in, d_out)``.
    types, cut
        The kind of unit, and how the weights follow it.
    takes_constant
        Whether routing adds a bias to the sum of the votes. Then it takes an offset with even couplings, those of the
        first pass of dynamic routing.
    """

    path: str
    weight: Tensor
    units: Sequence[Unit]
    types: Unit
    cut: Cut
    takes_constant: bool

    def samples(self, x: Tensor) -> Tensor:
        """Read capsules ``(batch, n_in, d_in)``; a position is a sample."""
        by_type = x[:, self._stretch].reshape(len(x), -1, self.types.count, self.cut.inner, x.shape[2])
        return by_type.transpose(2, 3).flatten(3).flatten(0, 2)

    def kept_channels(self, kept: Kept) -> Tensor:
        """List the channels that stay: those of kept types and of kept dimensions."""
        size = self.weight.shape[2]
        dims = _cut(torch.arange(size).view(1, 1, -1), self._cuts(lambda cut: cut.axis == 2), kept).flatten()
        return (torch.tensor(kept[self.types.name]).unsqueeze(1) * size + dims).flatten()

    def refit(self, network: CapsuleNetwork, kept: Kept, found: Substitute) -> None:
        """Add what the substitutes contribute to the votes of the kept capsules."""
        weight = self._at_kept_positions(kept)
        found, dims, types = found.on(weight.device), weight.shape[4], len(kept[self.types.name])
        mix = found.mix.view(-1, dims, types, found.mix.shape[1] // types)
        more = torch.einsum("xtyodf,tdse->xsyoef", weight, mix).flatten(0, 2)
        rows = _cut(torch.arange(len(self.weight)), self._cuts(lambda cut: cut.axis == 0), kept)
        all_more = more.new_zeros(len(rows), *more.shape[1:])
        all_more[(rows >= self._stretch.start) & (rows < self._stretch.stop)] = more
        _add(network, f"{self.path}.weight", all_more)
        if self.takes_constant:
            shift = torch.einsum("xtyodf,td->of", weight, found.offset.view(-1, dims))
            _add(network, f"{self.path}.routing.bias", shift / len(shift))

    def _at_kept_positions(self, kept: Kept) -> Tensor:
        """Give the weights of all types at the positions that stay: ``(outer, types, inner, n_out, d_in, d_out)``."""
        own = self.cut
        others = self._cuts(lambda cut: cut != own and replace(cut, inner=own.inner) == own)
        moved = {unit: tuple(replace(cut, start=0, length=0) for cut in cuts) for unit, cuts in others.items()}
        weight = _cut(self.weight[self._stretch], moved, kept)
        shape = (1, self.types.count, -1) if own.inner > 1 else (-1, self.types.count, 1)
        return weight.view(*shape, *weight.shape[1:])

    @property
    def _stretch(self) -> slice:
        """Give the lower capsules that these types make."""
        return slice(self.cut.start, self.cut.start + (self.cut.length or len(self.weight) - self.cut.start))

    def _cuts(self, wanted: Callable[[Cut], bool]) -> dict[Unit, tuple[Cut, ...]]:
        return _chosen(self.units, lambda cut: cut.tensor == self.cut.tensor and wanted(cut))


def _bias(network: CapsuleNetwork, weight: str) -> tuple[str, float]:
    """Find what is added to the products of a weight, and what they are multiplied by before."""
    for sites in network.stages.modules():
        if isinstance(sites, Sites) and f"{sites.owner}.{sites.weights.get('weight')}" == weight:
            return (f"{sites.owner}.{sites.weights['bias']}" if "bias" in sites.weights else ""), sites.weight_gain
    return "", 1.0


def _chosen(units: Sequence[Unit], wanted: Callable[[Cut], bool]) -> dict[Unit, tuple[Cut, ...]]:
    """Choose among the cuts of all units."""
    chosen = {unit: tuple(filter(wanted, unit.cuts)) for unit in units}
    return {unit: cuts for unit, cuts in chosen.items() if cuts}


def _cut(tensor: Tensor, cuts: dict[Unit, tuple[Cut, ...]], kept: Kept) -> Tensor:
    """Cut something shaped like a weight along the axes of some cuts, all of that weight."""
    if not cuts:
        return tensor
    name = f"stages.{next(iter(cuts.values()))[0].tensor}"
    alone = {replace(unit, cuts=own, index=None): kept[unit.name] for unit, own in cuts.items()}
    return cut_tensors({name: tensor}, alone)[name]


def _add(network: CapsuleNetwork, name: str, more: Tensor) -> None:
    """Replace a parameter by its sum with as many values."""
    owner, _, own_name = name.rpartition(".")
    module = network.stages.get_submodule(owner)
    parameter = module.get_parameter(own_name)
    setattr(module, own_name, nn.Parameter(parameter.detach() + more.reshape(parameter.shape), parameter.requires_grad))
