"""What training starts from: the tensors of another checkpoint, and stages that stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.errors import UsageError, quoted
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, preset, spec_to_dict
from qcaps.registry import near_matches

# Numbers that describe a backbone; a capsule head takes them over from the classifier it is put on.
BACKBONE_NUMBERS = ("widths", "norm", "norm_eps", "stem_relu")
# Towards Efficient Capsule Networks gives a head one capsule type for every eight channels of the backbone.
CHANNELS_PER_TYPE = 8


def backbone_numbers(model: str, start: ModelSpec) -> dict[str, object]:
    """Give the numbers of a backbone that a network takes over from the one it starts from.

    Parameters
    ----------
    model
        Registry name of the network to train.
    start
        Spec of the checkpoint to start from.
    """
    known = {field.name for field in dataclasses.fields(cast("Any", preset(model).spec))}
    numbers = spec_to_dict(start)
    if "widths" not in known & numbers.keys():
        return {}
    taken = {name: numbers[name] for name in BACKBONE_NUMBERS if name in known & numbers.keys()}
    if "primary_types" in known:
        taken["primary_types"] = max(1, cast("tuple[int, ...]", numbers["widths"])[-1] // CHANNELS_PER_TYPE)
    return taken


def begin(network: CapsuleNetwork, start: Checkpoint | None, freeze: Sequence[str]) -> tuple[str, ...]:
    """Fill a network with what a checkpoint has for it, and freeze stages.

    Parameters
    ----------
    network
        Initialised; changed in place.
    start
        Gives every stage of the same name whose tensors all have the same shapes; None for nothing.
    freeze
        Names of stages, or ``backbone`` for all that the network declares.

    Returns
    -------
    tuple
        The stages taken from the checkpoint.

    Raises
    ------
    UsageError
        If no stage of the checkpoint fits, or a stage to freeze does not exist or was not taken from it: frozen
        random numbers help nobody.
    """
    taken = () if start is None else _fill(network, start)
    frozen = stages_to_freeze(network, freeze)
    strange = [name for name in frozen if name not in taken]
    if strange and start is None:
        raise UsageError(
            "only trained stages can be frozen", where="--freeze", do="start from a checkpoint with --init"
        )
    if strange:
        do = f"it has {', '.join(taken)}"
        raise UsageError(f"that checkpoint has no fitting stage {quoted(strange[0])} to freeze", where="--init", do=do)
    network.freeze(frozen)
    return taken


def stages_to_freeze(network: CapsuleNetwork, names: Sequence[str]) -> list[str]:
    """Look up the stages to freeze; ``backbone`` stands for several.

    Raises
    ------
    UsageError
        If there is no such stage.
    """
    stages, found = tuple(network.stages), list[str]()
    for name in names:
        if name != "backbone" and name not in stages:
            close = near_matches(name, (*stages, "backbone"))
            raise UsageError(
                f"there is no stage {quoted(name)}", where="--freeze", do=f"{close}it has {', '.join(stages)}"
            )
        if name == "backbone" and not network.backbone:
            raise UsageError("this network has no backbone", where="--freeze", do=f"it has {', '.join(stages)}")
        found += network.backbone if name == "backbone" else (name,)
    return found


def _fill(network: CapsuleNetwork, start: Checkpoint) -> tuple[str, ...]:
    """Copy the stages that fit; give their names."""
    taken = []
    for name, stage in network.stages.items():
        prefix = f"stages.{name}."
        theirs = {k.removeprefix(prefix): v for k, v in start.tensors.items() if k.startswith(prefix)}
        own = {k: v for k, v in stage.state_dict().items() if not k.endswith("num_batches_tracked")}
        if own.keys() == theirs.keys() and all(own[k].shape == v.shape for k, v in theirs.items()):
            stage.load_state_dict(theirs, strict=False)
            taken.append(name)
    if not taken:
        raise UsageError("no stage of that checkpoint fits this network", where="--init")
    return tuple(taken)
