"""Cost of a network by layer and by stage: parameters, multiply-accumulates and values kept per image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qcaps.evaluation.trace import Shape as Shape
from qcaps.evaluation.trace import Trace, traced
from qcaps.models.network import CapsuleNetwork


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image.

    Parameters
    ----------
    name
        Path within the stages; see :class:`~qcaps.evaluation.trace.Trace`.
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


@dataclass(frozen=True)
class StageCost(LayerCost):
    """Cost of all layers of one stage for one image.

    Parameters
    ----------
    outputs
        Shape of every tensor that it gives to the next stage, without the batch.
    """

    outputs: tuple[Shape, ...]


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a network for one image.

    Parameters
    ----------
    stages, layers
        In execution order.
    arrays
        Array site → shape of what passes it, without the batch, in execution order.
    """

    stages: tuple[StageCost, ...]
    layers: tuple[LayerCost, ...]
    arrays: Mapping[str, Shape]


def network_cost(network: CapsuleNetwork, image: tuple[int, int, int]) -> NetworkCost:
    """Count the cost of every layer and stage and list the arrays, by running one blank image.

    Parameters
    ----------
    network
        In evaluation mode; on the meta device nothing is computed.
    image
        Channels, height and width.
    """
    trace = traced(network, image)
    sizes = {name: tensor.numel() for name, tensor in network.stages.named_parameters()}
    layers = tuple(_layer_cost(name, trace, sizes) for name in trace.layers)
    stages = (_stage_cost(name, trace, layers) for name in trace.outputs)
    return NetworkCost(tuple(stages), layers, trace.arrays)


def stage_costs(network: CapsuleNetwork, image: tuple[int, int, int]) -> tuple[StageCost, ...]:
    """Count the cost of every stage alone; see :func:`network_cost`."""
    return network_cost(network, image).stages


def _layer_cost(name: str, trace: Trace, sizes: Mapping[str, int]) -> LayerCost:
    arrays = {site.split("@", 1)[0]: shape for site, shape in trace.arrays.items()}
    return LayerCost(
        name,
        parameters=sum(sizes[parameter] for parameter in trace.layers[name]),
        macs=sum(product.macs for product in trace.products if product.layer == name),
        activation_values=sum(math.prod(s) for array, s in arrays.items() if array.rsplit(".", 1)[0] == name),
    )


def _stage_cost(name: str, trace: Trace, layers: Iterable[LayerCost]) -> StageCost:
    own = [layer for layer in layers if layer.name.split(".", 1)[0] == name]
    return StageCost(
        name,
        parameters=sum(layer.parameters for layer in own),
        macs=sum(layer.macs for layer in own),
        activation_values=sum(layer.activation_values for layer in own),
        outputs=trace.outputs[name],
    )
