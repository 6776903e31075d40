"""Cost of a network by stage: parameters, multiply-accumulates and values kept per image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from qcaps.capsules.sites import hooked
from qcaps.models.network import CapsuleNetwork

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage for one image.

    Parameters
    ----------
    name
        Of the stage.
    parameters
        Trainable values.
    macs
        Multiply-accumulates of convolutions and of all matrix products, votes and every routing iteration included;
        biases, norms, softmax and squash are not counted.
    activation_values
        Values at all array sites, an array of several iterations counted once.
    outputs
        Shape of every tensor that it gives to the next stage, without the batch.
    """

    name: str
    parameters: int
    macs: int
    activation_values: int
    outputs: tuple[Shape, ...]


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image.

    Parameters
    ----------
    stages
        In order.
    arrays
        Array site → shape of what passes it, without the batch, in execution order.
    """

    stages: tuple[StageCost, ...]
    arrays: Mapping[str, Shape]


def network_cost(network: CapsuleNetwork, image: tuple[int, int, int]) -> NetworkCost:
    """Count the cost of every stage and list the arrays, by running one blank image.

    Parameters
    ----------
    network
        In evaluation mode; on the meta device nothing is computed.
    image
        Channels, height and width.
    """
    arrays: dict[str, Shape] = {}

    def note(site: str, array: Tensor) -> Tensor:
        arrays[site] = tuple(array.shape[1:])
        return array

    stages = []
    value = torch.empty(1, *image, device=next(network.parameters()).device)
    with torch.no_grad(), hooked(network, note):
        for name, stage in network.stages.items():
            with FlopCounterMode(display=False) as counter:
                value = stage(value)
            stages.append(
                StageCost(
                    name=name,
                    parameters=sum(p.numel() for p in stage.parameters()),
                    macs=counter.get_total_flops() // 2,
                    activation_values=_values(name, arrays),
                    outputs=tuple(tuple(t.shape[1:]) for t in ((value,) if isinstance(value, Tensor) else value)),
                )
            )
    return NetworkCost(tuple(stages), arrays)


def stage_costs(network: CapsuleNetwork, image: tuple[int, int, int]) -> tuple[StageCost, ...]:
    """Count the cost of every stage alone; see :func:`network_cost`."""
    return network_cost(network, image).stages


def _values(stage: str, arrays: Mapping[str, Shape]) -> int:
    """Count the values at the sites of a stage, each array once."""
    once = {site.split("@", 1)[0]: shape for site, shape in arrays.items() if site.split(".", 1)[0] == stage}
    return sum(math.prod(shape) for shape in once.values())
