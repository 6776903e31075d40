"""Surgery: a smaller dense network, made of the units that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from qcaps.errors import UsageError, quoted
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, build
from qcaps.models.units import Unit, cut_tensors
from qcaps.registry import near_matches


def cut(
    spec: ModelSpec, tensors: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]]
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Cut a network down to some of its units.

    Parameters
    ----------
    spec, tensors
        Of a network, pruned already or not; its decoder may be among the tensors. They are left as they are.
    kept
        Unit → indices that stay, ascending; units that are not named stay whole. Those that share tensors, such as
        types and dimensions, may be cut together.

    Returns
    -------
    tuple
        Spec and tensors of the smaller network; the tensors are copies.

    Raises
    ------
    UsageError
        If there is no such kind of unit, or its indices are out of range, repeated, out of order or none at all.
        Nothing is cut then.
    """
    network = build(spec)
    units = {unit.name: unit for unit in network.units}
    for name, indices in kept.items():
        if name not in units:
            raise _unknown(name, spec, network)
        _check(indices, units[name])
    found = cut_tensors(tensors, {units[name]: indices for name, indices in kept.items()})
    smaller = spec.with_widths({name: len(indices) for name, indices in kept.items()})
    return smaller, {name: tensor.clone() if tensor is tensors.get(name) else tensor for name, tensor in found.items()}


def _unknown(name: str, spec: ModelSpec, network: CapsuleNetwork) -> UsageError:
    """Say why a name is none of a kind of unit."""
    if name.split(".")[0] == list(network.stages)[-1]:
        return UsageError(f"{quoted(name)} cannot be cut: classes stay", do="cut what lies in front of them")
    known = tuple(unit.name for unit in network.units)
    return UsageError(
        f"{spec.architecture} has no units {quoted(name)}",
        do=f"{near_matches(name, known)}it has {', '.join(known)}",
    )


def _check(indices: Sequence[int], unit: Unit) -> None:
    """Refuse what is no set of units in ascending order."""
    if not len(indices):
        raise UsageError(f"nothing would be left of {unit.name}", do=f"keep at least 1 of {unit.count}")
    odd = [index for index in indices if type(index) is not int or not 0 <= index < unit.count]
    if odd:
        raise UsageError(f"{unit.name} has no unit {quoted(odd[0])}", do=f"units are numbered 0 to {unit.count - 1}")
    if list(indices) != sorted(set(indices)):
        raise UsageError(f"the kept units of {unit.name} are repeated or out of order", do="list each once, ascending")
