"""Checkpoints of ``matthiasware/EfficientCN``: Efficient-CapsNet and CapsNet, a plain state dict each."""

from __future__ import annotations

import math
import re

from torch import Tensor

from qcaps.importers.mapping import ForeignTensors, Numbers, image_sides, in_order
from qcaps.models.spec import ModelSpec

# Sides of the first kernel and of the depthwise one, where the strides differ from MNIST's.
PRESETS = {(7, 8): "efficient-capsnet-smallnorb", (5, 5): "efficient-capsnet-multimnist"}
MNIST_STRIDES = (1, 1, 1, 2)
# How its layers differ from those of the authors of Efficient-CapsNet: PyTorch's defaults, and plain lengths.
NUMBERS = {"norm_eps": 1e-5, "norm_momentum": 0.1, "length_eps": 0.0}
_CONV = re.compile(r"(backbone(?:\.layers)?)\.(\d+)\.weight")


def efficientcn(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a checkpoint of either network.

    For two overlapping digits it has two decoders, one for each label, where ours has one: the first is kept.

    Raises
    ------
    ArtifactError
        If a tensor is missing or has another shape.
    UsageError
        If `numbers` do not fit the network.
    """
    tensors.ignore(*tensors.names("decoder2."))
    decoder = [*tensors.take_all("decoder."), *tensors.take_all("decoder1.")]
    name = {0: "none", 6: "fc", 10: "upsample48-aligned"}.get(len(decoder))
    if name is None:
        raise tensors.refusal(f"the file has a decoder of {len(decoder)} tensors, which is unknown")
    map_encoder = _efficient if "primcaps.dw_conv2d.weight" in tensors else _capsnet
    spec, ours = map_encoder(tensors, name, numbers)
    return spec, ours | in_order(spec, "decoder.", decoder, str(tensors.foreign.path))


def _efficient(tensors: ForeignTensors, decoder: str, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    ours = tensors.renamed("primcaps.dw_conv2d", "stages.primary.conv")
    batch = "backbone.layers.2.weight" in tensors
    for i in range(4):
        ours |= tensors.renamed(f"backbone.layers.{3 * i}", f"stages.conv{i + 1}.conv")
        ours |= tensors.renamed(f"backbone.layers.{3 * i + 2}", f"stages.conv{i + 1}.norm") if batch else {}
    weight = tensors.take("fcncaps.W", None, None, None, None)
    lower, classes, dim, class_dim = weight.shape
    ours["stages.class_caps.weight"] = weight
    biased = "fcncaps.B" in tensors
    if biased:
        ours["stages.class_caps.routing.bias"] = tensors.take("fcncaps.B", lower, classes).unsqueeze(2)
    kernels = [ours[f"stages.conv{i}.conv.weight"] for i in range(1, 5)]
    sides = tuple(kernel.shape[2] for kernel in kernels)
    primary = ours["stages.primary.conv.weight"]
    found: dict[str, object] = {
        **NUMBERS,
        "channels": kernels[0].shape[1],
        "classes": classes,
        "conv_channels": tuple(len(kernel) for kernel in kernels),
        "conv_kernels": sides,
        "primary_dim": dim,
        "class_dim": class_dim,
        "norm": "batch" if batch else "instance",
        "norm_affine": batch,
        "attention_scale": math.sqrt(dim),
        "routing_bias": "after_softmax" if biased else "none",
        "decoder": decoder,
    }
    preset = PRESETS.get((sides[0], primary.shape[2]))
    if preset is None:
        found |= image_sides(tensors, primary[0, 0].numel(), sides, MNIST_STRIDES, numbers)
    return tensors.spec(preset or "efficient-capsnet", found, numbers), ours


def _capsnet(tensors: ForeignTensors, decoder: str, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    convs = [(match[1], int(match[2])) for match in map(_CONV.fullmatch, tensors.names("backbone.")) if match]
    if any(number != 2 * i for i, (_, number) in enumerate(convs)):
        raise tensors.refusal("the file has another backbone than convolutions with a ReLU behind each")
    ours: dict[str, Tensor] = {}
    for i, (path, number) in enumerate(convs, start=1):
        ours |= tensors.renamed(f"{path}.{number}", f"stages.conv{i}.conv")
    kernels = [ours[f"stages.conv{i}.conv.weight"] for i in range(1, len(convs) + 1)]
    ours |= tensors.renamed("primcaps.conv", "stages.primary.conv")
    primary = ours["stages.primary.conv.weight"]
    prior = tensors.take("digitcaps.routing_module.b", None, None)
    weight = tensors.take("digitcaps.weights", len(prior), None, None)  # (lower, dim, class · class_dim)
    dim, classes = weight.shape[1], prior.shape[1]
    types = len(primary) // dim
    ours["stages.class_caps.weight"] = weight.reshape(len(prior), dim, classes, -1).transpose(1, 2)
    ours["stages.class_caps.routing.prior"] = prior
    sides = tuple(kernel.shape[2] for kernel in kernels)
    strides = (*(1 for _ in kernels), 2)
    found = {
        **image_sides(tensors, len(weight) // types, (*sides, primary.shape[2]), strides, numbers),
        "channels": kernels[0].shape[1],
        "classes": classes,
        "conv_channels": tuple(len(kernel) for kernel in kernels),
        "conv_kernels": sides,
        "conv_strides": strides[:-1],
        "primary_types": types,
        "primary_dim": dim,
        "primary_kernel": primary.shape[2],
        "class_dim": weight.shape[2] // classes,
        "decoder": decoder,
    }
    return tensors.spec("capsnet-efficientcn", found, numbers), ours
