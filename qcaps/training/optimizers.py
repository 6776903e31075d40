"""The optimizer of a training run: one of torch.optim, with plain numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from qcaps.config.train import TrainConfig
from qcaps.config.training_numbers import optimizer_numbers
from qcaps.errors import UsageError, quoted
from qcaps.registry import near_matches

# Efficient-CapsNet trains with this epsilon; PyTorch's 1e-8 differs only where gradients vanish.
OUR_DEFAULTS: Mapping[str, Mapping[str, object]] = {"adam": {"eps": 1e-7}, "sgd": {"momentum": 0.9}}
# The one wants the loss several times a step, the other sparse gradients.
UNFIT = {"LBFGS", "SparseAdam"}
# Those of the signature that are options of their own, and those that are no numbers of the method.
OPTIONS = {"lr": "--lr", "weight_decay": "--weight-decay", "momentum": "--momentum", "nesterov": "--nesterov"}
HIDDEN = {"params", "maximize", "foreach", "capturable", "differentiable", "fused"}


def optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters that are not frozen.

    Raises
    ------
    UsageError
        If torch.optim has none of that name, or it has no such number or refuses it.
    """
    kind = _kind(config.optimizer)
    numbers = {**OUR_DEFAULTS.get(kind.__name__.lower(), {}), **_numbers(config, kind)}
    learning = [p for p in network.parameters() if p.requires_grad]
    try:
        return kind(learning, **{"lr": config.lr, **numbers})  # type: ignore[arg-type]  # their signatures differ
    except (ValueError, TypeError) as error:
        raise UsageError(f"{kind.__name__} refuses this: {error}", where="--optimizer") from error


def _kind(name: str) -> type[torch.optim.Optimizer]:
    """Find an optimizer, however its name is capitalised."""
    kinds = {
        each.__name__.lower(): each
        for each in vars(torch.optim).values()
        if inspect.isclass(each) and issubclass(each, torch.optim.Optimizer) and each.__name__ not in UNFIT
    }
    del kinds["optimizer"]
    if name.lower() not in kinds:
        known = tuple(kinds)
        raise UsageError(
            f"unknown optimizer {quoted(name)}",
            where="--optimizer",
            do=f"{near_matches(name.lower(), known)}known are {', '.join(known)}",
        )
    return kinds[name.lower()]


def _numbers(config: TrainConfig, kind: type[torch.optim.Optimizer]) -> dict[str, object]:
    """Gather the numbers that are given, all of which the optimizer must have."""
    takes = inspect.signature(kind).parameters.keys() - HIDDEN
    numbers = optimizer_numbers(config.optimizer_arg)
    for name in numbers:
        if name in OPTIONS or name not in takes:
            free = tuple(sorted(takes - OPTIONS.keys()))
            do = f"use {OPTIONS[name]}" if name in OPTIONS else f"{near_matches(name, free)}it has {', '.join(free)}"
            raise UsageError(f"{kind.__name__} has no number {quoted(name)} here", where="--optimizer-arg", do=do)
    given = {"weight_decay": config.weight_decay, "momentum": config.momentum, "nesterov": config.nesterov or None}
    own = {name: value for name, value in given.items() if value is not None}
    for name in own.keys() - takes:
        raise UsageError(f"{kind.__name__} has no {name.replace('_', ' ')}", where=OPTIONS[name], do="leave it out")
    return {**numbers, **own}
