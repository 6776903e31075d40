"""Checkpoints of ``ethanleet/CapsNet``, a plain state dict.

Each of its eight primary convolutions makes one dimension of all capsules, yet the network then cuts their outputs
into capsules by memory order. Its weights work in that order alone, ``stacked_raw``, though shapes would fit others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcaps.importers.mapping import ForeignTensors, Numbers, image_sides, in_order, square_root
from qcaps.models.spec import ModelSpec

# Registry name of a decoder and the side it draws by its number of layers; 0 where its last layer tells the side.
DECODERS = {0: ("none", 0), 3: ("fc", 0), 4: ("deconv28", 28), 5: ("deconv32", 32)}


def ethanleet(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a checkpoint, with or without batch norms and decoder.

    Raises
    ------
    ArtifactError
        If a tensor is missing or has another shape.
    UsageError
        If `numbers` do not fit the network.
    """
    ours = tensors.renamed("conv_layer.conv.0", "stages.conv1.conv")
    normed = "conv_layer.conv.1.weight" in tensors
    if normed:
        ours |= tensors.renamed("conv_layer.conv.1", "stages.conv1.norm")
    weight = tensors.take("digit_caps.W", 1, None, None, None, None)[0]  # (lower, class, class_dim, dim)
    lower, classes, class_dim, dim = weight.shape
    ours |= _stacked(tensors, dim, 0, "stages.primary.conv")
    if normed:
        ours |= _stacked(tensors, dim, 1, "stages.primary.norm")
    ours["stages.class_caps.weight"] = weight.transpose(2, 3)
    ours["stages.class_caps.routing.bias"] = tensors.take("digit_caps.bias", 1, 1, classes, class_dim)[0, 0]
    decoder = tensors.take_all("decoder.")
    first, primary = ours["stages.conv1.conv.weight"], ours["stages.primary.conv.weight"]
    sides = (first.shape[2], primary.shape[2])
    found: dict[str, object] = {
        **image_sides(tensors, lower * dim // len(primary), sides, (1, 2), numbers),
        "channels": first.shape[1],
        "classes": classes,
        "conv_channels": (len(first),),
        "conv_kernels": sides[:1],
        "norm": "batch" if normed else "none",
        "primary_types": len(primary) // dim,
        "primary_dim": dim,
        "primary_kernel": sides[1],
        "class_dim": class_dim,
        **_decoder_numbers(tensors, decoder, first.shape[1]),
    }
    spec = tensors.spec("capsnet-ethanleet", found, numbers)
    return spec, ours | in_order(spec, "decoder.", decoder, str(tensors.foreign.path))


def _stacked(tensors: ForeignTensors, dim: int, layer: int, ours: str) -> dict[str, Tensor]:
    """Join one layer of every primary convolution: channel = type · dim + number of the convolution."""
    parts = [tensors.renamed(f"primary_capsules.capsules.{e}.{layer}", ours) for e in range(dim)]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise tensors.refusal("the file has primary convolutions that are not alike")
    return {name: torch.stack([part[name] for part in parts], 1).flatten(0, 1) for name in parts[0]}


def _decoder_numbers(tensors: ForeignTensors, decoder: Sequence[Tensor], channels: int) -> dict[str, object]:
    """Tell a decoder, its batch norms and the size of its images by the shapes of its tensors."""
    layers = sum(tensor.dim() > 1 for tensor in decoder)
    if layers not in DECODERS:
        raise tensors.refusal(f"the file has a decoder of {layers} layers, which is unknown")
    name, side = DECODERS[layers]
    if name == "fc":
        side = square_root(len(decoder[-1]) // channels) or 0
    found: dict[str, object] = {"decoder": name, "decoder_norm": len(decoder) > 2 * layers}
    return found | ({"height": side, "width": side} if side else {})
