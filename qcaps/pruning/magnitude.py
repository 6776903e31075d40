"""Magnitude: a unit is as important as its weights are large."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qcaps.models.network import CapsuleNetwork
from qcaps.models.units import by_unit


def magnitude(network: CapsuleNetwork, power: Literal[1, 2]) -> dict[str, Tensor]:
    """Sum the magnitudes of the weights of every unit in the first tensor that it cuts, the leader of its group.

    Parameters
    ----------
    network
        Any.
    power
        Of the magnitudes.

    Returns
    -------
    dict
        Unit → float64, shape ``(count,)``.

    References
    ----------
    Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020: with power 1, the
    channels of a residual sum judged by the last convolution of the first block.
    """
    tensors = network.stages.state_dict()
    found = {}
    for unit in network.units:
        leader = unit.cuts[0]
        weights = by_unit(leader, unit, tensors[leader.tensor]).flatten(1)
        found[unit.name] = (weights.abs() if power == 1 else weights.square()).sum(1, dtype=torch.float64).cpu()
    return found
