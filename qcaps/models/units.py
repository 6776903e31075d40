"""Prunable units: what can be removed from a network as a whole, and which tensors follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """How one tensor follows a kind of unit.

    Parameters
    ----------
    tensor
        Name within the stages, for example ``conv1.conv.weight``.
    axis
        Axis that shrinks. The stretch of it that belongs to the units is seen as ``(outer, count, inner)``;
        removing unit u removes ``[:, u, :]``.
    inner
        Consecutive entries of one unit: the dimension for a capsule type in a convolution, the positions of a type
        in the class weights.
    start, length
        The stretch of the axis, where several kinds of unit share one; `length` 0 means all of it.
    """

    tensor: str
    axis: int
    inner: int = 1
    start: int = 0
    length: int = 0


@dataclass(frozen=True)
class Unit:
    """One kind of prunable unit.

    Parameters
    ----------
    name
        ``stage[.layer].kind``; the kind is ``channels``, ``types`` (of capsules) or ``dims`` (of a capsule).
    count
        How many there are; at least one is always kept.
    cuts
        Every tensor that shrinks with them.
    """

    name: str
    count: int
    cuts: tuple[Cut, ...]


def kept_entries(cut: Cut, unit: Unit, kept: Sequence[int], size: int) -> Tensor:
    """List the entries of an axis that stay when only the units `kept` stay.

    Parameters
    ----------
    cut, unit
        One of the cuts of the unit.
    kept
        Indices of the units that stay, ascending.
    size
        Length of the axis.

    Returns
    -------
    Tensor
        Ascending indices, int64.

    Raises
    ------
    ValueError
        If the axis does not consist of whole units.
    """
    length = cut.length or size - cut.start
    if length % (unit.count * cut.inner) or cut.start + length > size:
        raise ValueError(f"axis {cut.axis} of {cut.tensor} does not hold whole units {unit.name}")
    entries = torch.arange(size)
    stretch = entries[cut.start : cut.start + length].view(-1, unit.count, cut.inner)
    kept_part = stretch[:, torch.as_tensor(kept, dtype=torch.int64)].flatten()
    return torch.cat([entries[: cut.start], kept_part, entries[cut.start + length :]])


def cut_tensors(tensors: Mapping[str, Tensor], unit: Unit, kept: Sequence[int]) -> dict[str, Tensor]:
    """Cut every tensor that follows a kind of unit down to the units `kept`.

    Parameters
    ----------
    tensors
        By name as in the state dict of the network; left as they are.
    unit, kept
        The kind of unit, and the indices that stay, ascending.
    """
    found = dict(tensors)
    for cut in unit.cuts:
        name = f"stages.{cut.tensor}"
        tensor = found[name]
        found[name] = tensor.index_select(cut.axis, kept_entries(cut, unit, kept, tensor.shape[cut.axis]))
    return found


def conv_cuts(
    path: str, *, norm: str = "", statistics: bool = True, bias: bool = True, inner: int = 1
) -> tuple[Cut, ...]:
    """List what shrinks in a convolution (and in the batch norm behind it) when its outputs do.

    Parameters
    ----------
    path
        Of the convolution within the stages.
    norm
        Path of an affine norm over the same channels.
    statistics
        Whether that norm has running statistics.
    bias
        Whether the convolution has one.
    inner
        As for :class:`Cut`.
    """
    names = [f"{path}.weight", *([f"{path}.bias"] if bias else [])]
    parts = ("weight", "bias", "running_mean", "running_var") if statistics else ("weight", "bias")
    names += [f"{norm}.{part}" for part in parts] if norm else []
    return tuple(Cut(name, 0, inner) for name in names)
