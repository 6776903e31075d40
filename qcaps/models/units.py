"""Prunable units: what can be removed from a network as a whole, and which tensors follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """How one tensor, or the array at one site, follows a kind of unit.

    Parameters
    ----------
    tensor
        Name within the stages, for example ``conv1.conv.weight``, or of the site, for example ``primary.out``.
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
class KeptIndex:
    """The tensor that lists which units are left, where the tensors that are cut do not tell.

    Parameters
    ----------
    tensor
        Name within the stages; int64, ascending. A network that has all units has no such tensor.
    of
        How many units there were before any was cut.
    """

    tensor: str
    of: int

    def is_listed(self, kept: Tensor) -> bool:
        """Tell whether a tensor of shape ``(n,)``, n at least 1, lists units that exist, each once and in order."""
        ascending = bool((kept[1:] > kept[:-1]).all())
        return ascending and int(kept[0]) >= 0 and int(kept[-1]) < self.of


@dataclass(frozen=True)
class Unit:
    """One kind of prunable unit.

    Parameters
    ----------
    name
        ``stage[.layer].kind``; the kind is ``channels``, ``types`` (of capsules), ``dims`` (of a capsule) or
        ``positions`` (of capsules on their grid).
    count
        How many there are; at least one is always kept.
    cuts
        Every tensor that shrinks with them, the one they are ranked by first.
    arrays
        Where capsules are seen once they are made: at which sites, and how these arrays would shrink.
    index
        None where the tensors tell all.
    """

    name: str
    count: int
    cuts: tuple[Cut, ...]
    arrays: tuple[Cut, ...] = ()
    index: KeptIndex | None = None

    @property
    def kind(self) -> str:
        """Give the last part of the name."""
        return self.name.rsplit(".", 1)[1]


def by_unit(cut: Cut, unit: Unit, tensor: Tensor) -> Tensor:
    """Gather what belongs to each unit: ``(..., axis, ...)`` → ``(count, entries, ...)``.

    Raises
    ------
    ValueError
        If the axis does not consist of whole units.
    """
    entries = _stretch(cut, unit, tensor.shape[cut.axis]).movedim(1, 0).flatten(1)  # (count, entries)
    return tensor.movedim(cut.axis, 0)[entries.to(tensor.device)]


def cut_tensors(tensors: Mapping[str, Tensor], kept: Mapping[Unit, Sequence[int]]) -> dict[str, Tensor]:
    """Cut the tensors that follow some kinds of units, all at once.

    Parameters
    ----------
    tensors
        By name as in the state dict of the network; left as they are.
    kept
        Kind of unit → indices that stay, ascending.

    Returns
    -------
    dict
        Every tensor; those of no unit are the given ones themselves.

    Raises
    ------
    ValueError
        If an axis does not consist of whole units.
    """
    found = dict(tensors)
    stays: dict[tuple[str, int], Tensor] = {}
    for unit, indices in kept.items():
        for cut in unit.cuts:
            name = f"stages.{cut.tensor}"
            size = tensors[name].shape[cut.axis]
            # Entries may belong to units of several kinds; those stay whose units all stay.
            stays.setdefault((name, cut.axis), torch.ones(size, dtype=torch.bool))
            stays[name, cut.axis] &= _staying(cut, unit, indices, size)
        if unit.index is not None and len(indices) < unit.count:
            name = f"stages.{unit.index.tensor}"
            found[name] = tensors.get(name, torch.arange(unit.count))[list(indices)]
    for (name, axis), staying in stays.items():
        found[name] = found[name].index_select(axis, staying.nonzero().flatten().to(found[name].device))
    return found


def _staying(cut: Cut, unit: Unit, indices: Sequence[int], size: int) -> Tensor:
    """Tell for every entry of an axis whether it stays: bool, shape ``(size,)``."""
    stretch = _stretch(cut, unit, size)
    staying = torch.ones(size, dtype=torch.bool)
    staying[stretch] = False
    staying[stretch[:, list(indices)]] = True
    return staying


def _stretch(cut: Cut, unit: Unit, size: int) -> Tensor:
    """List the entries of an axis that belong to the units: int64, shape ``(outer, count, inner)``."""
    length = cut.length or size - cut.start
    if length % (unit.count * cut.inner) or cut.start + length > size:
        raise ValueError(f"axis {cut.axis} of {cut.tensor} does not hold whole units {unit.name}")
    return torch.arange(cut.start, cut.start + length).view(-1, unit.count, cut.inner)


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
