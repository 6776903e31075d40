"""The named places of a layer where numbers may be rounded.

A layer declares its sites and passes each array through them. In float mode that is an identity; a hook
may observe the arrays (calibration) or replace them (a bit plan).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

Hook = Callable[[str, Tensor], Tensor]
Group = Literal["weights", "activations", "routing"]

# The Q-CapsNets group of every role: what one common width is given to.
ROLE_GROUPS: Mapping[str, Group] = {
    "weight": "weights",
    "bias": "weights",
    "prior": "weights",
    "input": "activations",
    "presquash": "activations",
    "votes": "activations",
    "coupling": "activations",
    "out": "activations",
    "sum_out": "activations",
    "logits": "routing",
    "sum": "routing",
}


class Sites(nn.Module):
    """Declare the sites of one layer, and pass its arrays through them.

    Parameters
    ----------
    arrays
        Roles of the arrays rounded at run time, in execution order.
    weights
        Role of each weight site → name of the parameter, relative to the layer that owns these sites.
    weight_gain
        What the products with ``weight`` are multiplied by before ``bias`` is added.

    Notes
    -----
    A full site name is ``stage[.layer].role[@iteration]``; iterations count from 1. The names key the draws
    of stochastic rounding and are part of the file format.
    """

    def __init__(self, *arrays: str, weights: Mapping[str, str] | None = None, weight_gain: float = 1.0) -> None:
        super().__init__()
        self.arrays = arrays
        self.weights = dict(weights or {})
        self.weight_gain = weight_gain
        unknown = {*arrays, *self.weights} - ROLE_GROUPS.keys()
        if unknown:
            raise ValueError(f"unknown site roles {sorted(unknown)}")
        self.owner = ""
        self.hook: Hook | None = None

    def __call__(self, role: str, array: Tensor, iteration: int | None = None) -> Tensor:
        """Pass one array, shape ``(batch, ...)``, through its site."""
        if self.hook is None:
            return array
        name = f"{self.owner}.{role}" if iteration is None else f"{self.owner}.{role}@{iteration}"
        return self.hook(name, array)


def role_of(site: str) -> str:
    """Give the role of a full site name: ``class_caps.logits@2`` → ``logits``."""
    return site.rsplit(".", 1)[1].split("@", 1)[0]


def group_of(site: str) -> Group:
    """Give the group of a full site name."""
    return ROLE_GROUPS[role_of(site)]


@contextmanager
def hooked(network: nn.Module, hook: Hook) -> Iterator[None]:
    """Send every array of every site of `network` through `hook` inside the block.

    Raises
    ------
    RuntimeError
        If a hook is already in place; hooks do not stack.
    """
    sites = [module for module in network.modules() if isinstance(module, Sites)]
    if any(site.hook is not None for site in sites):
        raise RuntimeError("the sites of this network are already hooked")
    try:
        for site in sites:
            site.hook = hook
        yield
    finally:
        for site in sites:
            site.hook = None
