"""Whole Keras models of ``MiguelCosta94/Q7-CapsNets``: convolutions, primary and class capsules, no decoder.

The graph stands in the JSON text ``model_config`` of the file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from qcaps.errors import quoted
from qcaps.importers.keras_layers import conv_weight
from qcaps.importers.mapping import ForeignTensors, Numbers
from qcaps.models.spec import ModelSpec

_AS_WRITTEN = ConfigDict(extra="ignore", strict=True)


@checked_dataclass(frozen=True, config=_AS_WRITTEN)
class _Numbers:
    """Those numbers of a Keras layer that matter here; each kind of layer has some of them."""

    name: str = ""
    batch_input_shape: list[int | None] = ()  # type: ignore[assignment]  # written as a list, never changed
    kernel_size: int | list[int] = 1
    strides: int | list[int] = 1
    padding: str = "valid"
    activation: str = "linear"
    num_capsule: int = 0
    dim_capsule: int = 0
    routings: int = 0


@checked_dataclass(frozen=True, config=_AS_WRITTEN)
class _Layer:
    class_name: str
    config: _Numbers


@checked_dataclass(frozen=True, config=_AS_WRITTEN)
class _Layers:
    layers: list[_Layer]


@checked_dataclass(frozen=True, config=_AS_WRITTEN)
class _Model:
    config: _Layers


_GRAPH = re.compile("InputLayer (Conv2D (Activation )?)+PrimaryCapsule Capsule Length")


def q7_capsnets(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a whole model.

    Raises
    ------
    ArtifactError
        If the graph is another one than convolutions with ReLU, one layer of primary capsules and one of class
        capsules, or the weights do not fit it.
    UsageError
        If `numbers` do not fit the network.
    """
    layers = _layers(tensors)
    convs = [layer.config for layer in layers if layer.class_name == "Conv2D"]
    images, (primary, last) = layers[0].config, [layer.config for layer in layers[-3:-1]]
    ours: dict[str, Tensor] = {}
    for path, layer in [*((f"conv{i}", conv) for i, conv in enumerate(convs, start=1)), ("primary", primary)]:
        kernel, bias = _weights(tensors, layer, 2)
        ours[f"stages.{path}.conv.weight"] = conv_weight(tensors.take(kernel, None, None, None, None))
        ours[f"stages.{path}.conv.bias"] = tensors.take(bias, None)
    [name] = _weights(tensors, last, 1)
    weight = tensors.take(
        name, last.num_capsule, None, last.dim_capsule, primary.dim_capsule
    )  # (class, lower, class_dim, dim)
    ours["stages.class_caps.weight"] = weight.permute(1, 0, 3, 2)
    _, height, width, channels = images.batch_input_shape if len(images.batch_input_shape) == 4 else (0, 0, 0, 0)
    found = {
        "channels": channels,
        "height": height,
        "width": width,
        "classes": len(weight),
        "conv_channels": tuple(len(ours[f"stages.conv{i}.conv.weight"]) for i in range(1, len(convs) + 1)),
        "conv_kernels": tuple(_side(tensors, conv.kernel_size) for conv in convs),
        "conv_strides": tuple(_side(tensors, conv.strides) for conv in convs),
        "primary_types": primary.num_capsule,
        "primary_dim": primary.dim_capsule,
        "primary_kernel": _side(tensors, primary.kernel_size),
        "primary_stride": _side(tensors, primary.strides),
        "class_dim": last.dim_capsule,
        "routing_passes": last.routings,
    }
    return tensors.spec("q7-capsnet-mnist", found, numbers), ours


def _layers(tensors: ForeignTensors) -> Sequence[_Layer]:
    """Read the graph and check that it is one that our network computes."""
    if not tensors.foreign.config:
        raise tensors.refusal("the file has no model_config: it holds no whole Keras model")
    try:
        layers = TypeAdapter(_Model).validate_json(tensors.foreign.config).config.layers
    except ValidationError as error:
        raise tensors.refusal("the model_config of the file is not what Keras writes") from error
    kinds = " ".join(layer.class_name for layer in layers)
    if not _GRAPH.fullmatch(kinds):
        raise tensors.refusal(f"the model has the layers {quoted(kinds)}, not those of a Q7-CapsNet")
    for layer, following in itertools.pairwise(layers):
        behind = following.config.activation if following.class_name == "Activation" else "linear"
        if layer.class_name == "Conv2D" and {layer.config.activation, behind} != {"relu", "linear"}:
            raise tensors.refusal(f"the convolution {quoted(layer.config.name)} is not followed by one ReLU")
    if any(layer.config.padding != "valid" for layer in layers):
        raise tensors.refusal("the model pads its convolutions")
    return layers


def _weights(tensors: ForeignTensors, layer: _Numbers, count: int) -> Sequence[str]:
    """Name the weights of a layer."""
    names = tensors.foreign.groups.get(layer.name, ())
    if len(names) != count:
        raise tensors.refusal(f"the layer {quoted(layer.name)} has {len(names)} weights, not {count}")
    return names


def _side(tensors: ForeignTensors, size: int | Sequence[int]) -> int:
    """Give the one number of a square kernel or an even stride."""
    sizes = {size} if isinstance(size, int) else set(size)
    if len(sizes) != 1:
        raise tensors.refusal(f"the model has a kernel or stride of {quoted(size)}, which is not square")
    return sizes.pop()
