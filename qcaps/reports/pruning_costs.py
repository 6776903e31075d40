"""What a pruned network costs, beside what it cost before: in all, by layer, and which units are left."""

from __future__ import annotations

from collections.abc import Mapping

from qcaps.evaluation.cost_model import CostModel
from qcaps.models.spec import ModelSpec
from qcaps.pruning.strategy import Widths, by_layer
from qcaps.reports.pruning import Change, LayerChange, WidthChange
from qcaps.reports.sizes import float_sizes

CAPSULE_KINDS = ("types", "dims", "positions")


def change(before: int, after: int) -> Change:
    """Compare a cost; what there was nothing of is kept."""
    return Change(before, after, after / before if before else 1.0)


def cost_changes(spec: ModelSpec, model: CostModel, widths: Widths, file_bytes: tuple[int, int]) -> dict[str, Change]:
    """Compare what networks cost in all.

    Parameters
    ----------
    spec, model
        Of the network before.
    widths
        Of all units after.
    file_bytes
        Of both checkpoints.
    """
    before, after = model.at({}), model.at(widths)
    in_float = float_sizes(spec), float_sizes(spec.with_widths(widths))
    pairs: Mapping[str, tuple[float, float]] = {
        "MACs": (before.macs, after.macs),
        "parameters": (before.parameters, after.parameters),
        "weight bytes": (in_float[0].weights, in_float[1].weights),
        "activation bytes": (in_float[0].arrays, in_float[1].arrays),
        "activation bytes at their peak": (in_float[0].peak, in_float[1].peak),
        "capsules": (before.capsules, after.capsules),
        "file bytes": file_bytes,
    }
    return {name: change(*map(round, pair)) for name, pair in pairs.items()}


def layer_changes(model: CostModel, widths: Widths) -> tuple[LayerChange, ...]:
    """Compare what every layer costs."""
    return tuple(
        LayerChange(
            old.name,
            change(old.macs, new.macs),
            change(old.parameters, new.parameters),
            change(4 * old.activation_values, 4 * new.activation_values),
        )
        for old, new in zip(model.at({}).layers, model.at(widths).layers, strict=True)
    )


def width_changes(model: CostModel, widths: Widths) -> tuple[WidthChange, ...]:
    """List every kind of unit with how many there were and how many stay."""
    return tuple(WidthChange(unit, count, widths[unit]) for unit, count in model.units.items())


def capsules_left(widths: Widths) -> dict[str, dict[str, int]]:
    """List the types, dimensions and positions of capsules that are left in every layer that has some."""
    found = {
        layer: {kind: kinds[kind] for kind in CAPSULE_KINDS if kind in kinds}
        for layer, kinds in by_layer(widths).items()
    }
    return {layer: kinds for layer, kinds in found.items() if kinds}
