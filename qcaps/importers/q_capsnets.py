"""Checkpoints of ``bbussolino/Q-CapsNets``: ShallowCapsNet and DeepCaps, a plain state dict each."""

from __future__ import annotations

import itertools

from torch import Tensor

from qcaps.importers.mapping import ForeignTensors, Numbers, image_sides, in_order
from qcaps.models.spec import ModelSpec

# Its code knows these two sides of DeepCaps' images.
DEEPCAPS_SIDES = (28, 64)


def q_capsnets(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a checkpoint; decoders, which the authors save in files of their own, may lie in the same dictionary.

    Raises
    ------
    ArtifactError
        If a tensor is missing or has another shape.
    UsageError
        If `numbers` do not fit the network.
    """
    return _deepcaps(tensors, numbers) if "block1.l1.conv.weight" in tensors else _shallow_capsnet(tensors, numbers)


def _shallow_capsnet(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    conv1 = tensors.renamed("conv.conv", "stages.conv1.conv")
    first = conv1["stages.conv1.conv.weight"]
    primary = tensors.take("primary.conv3d.weight", None, first.shape[0], None, None)
    primary_bias = tensors.take("primary.bias", None, None, 1, 1)
    types, dim = primary_bias.shape[:2]
    weight, bias = _class_weights(tensors, "digit", dim)
    kernels = (first.shape[2], primary.shape[2])
    found = {
        **image_sides(tensors, len(weight) // types, kernels, (1, 2), numbers),
        "channels": first.shape[1],
        "classes": len(bias),
        "conv_channels": (len(first),),
        "conv_kernels": kernels[:1],
        "primary_types": types,
        "primary_dim": dim,
        "primary_kernel": kernels[1],
        "primary_coupling": 1 / types,
        "class_dim": bias.shape[1],
    }
    decoder = tensors.take_all("fc")
    spec = tensors.spec("shallow-capsnet", {**found, "decoder": "fc" if decoder else "none"}, numbers)
    return spec, {
        **conv1,
        "stages.primary.conv.weight": primary,
        "stages.primary.bias": primary_bias,
        "stages.class_caps.weight": weight,
        "stages.class_caps.routing.bias": bias,
        **in_order(spec, "decoder.", decoder, str(tensors.foreign.path)),
    }


def _deepcaps(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    ours = tensors.renamed("conv1.conv", "stages.conv1.conv") | tensors.renamed("conv1.batchnorm", "stages.conv1.norm")
    for block, layer in itertools.product(range(1, 5), ("l1", "l2", "l3", "l_skip")):
        path = f"stages.block{block}.{layer.removeprefix('l_')}.conv"
        ours |= tensors.renamed(f"block{block}.{layer}.conv", path)
    # A 3-D kernel over one input channel and the whole vector is a 2-D kernel over the vector.
    ours["stages.block4.skip.conv.weight"] = ours["stages.block4.skip.conv.weight"].squeeze(1)
    routing_bias = tensors.take("block4.l_skip.bias", None, None, 1, 1)
    types_4, dim = routing_bias.shape[:2]
    weight, bias = _class_weights(tensors, "capsLayer", dim)
    dims = (4, 4, 4, 8, 8, 8, *(dim,) * 6)
    rows = [len(ours[f"stages.block{b}.{layer}.conv.weight"]) for b in range(1, 5) for layer in ("l1", "l2", "l3")]
    types = tuple(channels // dim for channels, dim in zip(rows, dims, strict=True))
    first = ours["stages.conv1.conv.weight"]
    found = {
        **_deepcaps_sides(len(weight), types[8], types_4),
        "channels": first.shape[1],
        "classes": len(bias),
        "conv_channels": len(first),
        "types": types,
        "dims": dims,
        "competing_types": types_4,
        "class_dim": bias.shape[1],
    }
    decoder = [tensor for prefix in ("lin.", "bn.", "dc") for tensor in tensors.take_all(prefix)]
    spec = tensors.spec("deepcaps", found, numbers)
    if decoder:
        spec = tensors.spec("deepcaps", {**found, "decoder": spec.usual_decoder}, numbers)
    return spec, {
        **ours,
        "stages.block4.skip.routing.bias": routing_bias[:, :, 0, 0],
        "stages.class_caps.weight": weight,
        "stages.class_caps.routing.bias": bias,
        **in_order(spec, "decoder.", decoder, str(tensors.foreign.path)),
    }


def _class_weights(tensors: ForeignTensors, path: str, dim: int) -> tuple[Tensor, Tensor]:
    """Take weights ``(lower, dim, classes·class_dim)`` as ``(lower, classes, dim, class_dim)``, and the bias."""
    bias = tensors.take(f"{path}.bias", None, None)
    weight = tensors.take(f"{path}.weight", None, dim, bias.numel())
    return weight.reshape(-1, dim, *bias.shape).transpose(1, 2), bias


def _deepcaps_sides(capsules: int, types_3: int, types_4: int) -> dict[str, int]:
    """Find the side of square images from the capsules that leave blocks 3 and 4."""
    sides = (*DEEPCAPS_SIDES, *range(16, 1025, 16))
    fitting = (s for s in sides if types_3 * (-(-s // 8)) ** 2 + types_4 * (-(-s // 16)) ** 2 == capsules)
    side = next(fitting, DEEPCAPS_SIDES[0])
    return {"height": side, "width": side}
