"""Cost of a network by stage: parameters, multiply-accumulates and values kept per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from qcaps.models.network import CapsuleNetwork, array_sites


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
    """

    name: str
    parameters: int
    macs: int
    activation_values: int


def stage_costs(network: CapsuleNetwork, image: tuple[int, int, int]) -> tuple[StageCost, ...]:
    """Count the cost of every stage, in order, by running one blank image.

    Parameters
    ----------
    network
        In evaluation mode; on the meta device nothing is computed.
    image
        Channels, height and width.
    """
    arrays = {site.split("@", 1)[0]: values for site, values in array_sites(network, image).items()}
    costs = []
    with torch.no_grad():
        device = next(network.parameters()).device
        value = torch.empty(1, *image, device=device)
        for name, stage in network.stages.items():
            with FlopCounterMode(display=False) as counter:
                value = stage(value)
            costs.append(
                StageCost(
                    name=name,
                    parameters=sum(p.numel() for p in stage.parameters()),
                    macs=counter.get_total_flops() // 2,
                    activation_values=sum(v for site, v in arrays.items() if site.split(".", 1)[0] == name),
                )
            )
    return tuple(costs)
