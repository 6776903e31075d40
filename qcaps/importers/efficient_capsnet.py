"""Weights of ``EscVM/Efficient-CapsNet`` in Keras files: Efficient-CapsNet and the original CapsNet.

Names differ from release to release, so order and shape decide. The encoder is one group of the file, the decoder
the next; in a group all trained weights come first, then mean and variance of every batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qcaps.importers.keras_layers import conv_weight, decoder_name, decoder_tensors
from qcaps.importers.mapping import ForeignTensors, Numbers, image_sides
from qcaps.models.spec import ModelSpec

CONVS = 4
# Trained weights of one convolution with its norm, and of all of them and both capsule layers.
OF_CONV = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
STATISTICS = ("norm.running_mean", "norm.running_var")
TRAINED = len(OF_CONV) * CONVS + 4
# Sides of the first kernel and of the depthwise one, where the strides differ from MNIST's.
PRESETS = {(7, 8): "efficient-capsnet-smallnorb", (5, 5): "efficient-capsnet-multimnist"}
MNIST_STRIDES = (1, 1, 1, 2)


def efficient_capsnet(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map the weights of either network; a decoder is optional.

    Raises
    ------
    ArtifactError
        If number, order or shapes of the weights are those of neither.
    UsageError
        If `numbers` do not fit the network.
    """
    groups = list(tensors.foreign.groups.values())
    if not 1 <= len(groups) <= 2:
        raise tensors.refusal(f"the file has {len(groups)} layers with weights, not an encoder and perhaps a decoder")
    encoder, decoder = groups[0], groups[1] if len(groups) == 2 else ()
    if len(encoder) in (TRAINED, TRAINED + len(STATISTICS) * CONVS):
        spec, ours = _efficient(tensors, encoder, decoder_name(tensors, decoder), numbers)
    elif len(encoder) == 6:
        spec, ours = _original(tensors, encoder, decoder_name(tensors, decoder), numbers)
    else:
        raise tensors.refusal(f"the first layer of the file has {len(encoder)} weights, unlike any network known here")
    return spec, ours | decoder_tensors(tensors, decoder, spec)


def _efficient(
    tensors: ForeignTensors, encoder: Sequence[str], decoder: str, numbers: Numbers
) -> tuple[ModelSpec, dict[str, Tensor]]:
    ours: dict[str, Tensor] = {}
    parts = [(i, part) for i in range(1, CONVS + 1) for part in OF_CONV]
    for name, (i, part) in zip(encoder, parts, strict=False):
        ours[f"stages.conv{i}.{part}"] = tensors.take(name)
    for i in range(1, CONVS + 1):
        ours[f"stages.conv{i}.conv.weight"] = conv_weight(ours[f"stages.conv{i}.conv.weight"])
    primary = conv_weight(tensors.take(encoder[TRAINED - 4], None, None, 1, None))
    ours["stages.primary.conv.weight"] = primary
    ours["stages.primary.conv.bias"] = tensors.take(encoder[TRAINED - 3], None)
    weight = tensors.take(encoder[TRAINED - 2], None, None, None, None)  # (class, lower, dim, class_dim)
    ours["stages.class_caps.weight"] = weight.transpose(0, 1)
    ours["stages.class_caps.routing.bias"] = tensors.take(encoder[TRAINED - 1], *weight.shape[:2], 1).transpose(0, 1)
    statistics = [(i, part) for i in range(1, CONVS + 1) for part in STATISTICS]
    for name, (i, part) in zip(encoder[TRAINED:], statistics, strict=False):
        ours[f"stages.conv{i}.{part}"] = tensors.take(name)
    kernels = [ours[f"stages.conv{i}.conv.weight"] for i in range(1, CONVS + 1)]
    sides = tuple(kernel.shape[2] for kernel in kernels)
    found: dict[str, object] = {
        "channels": kernels[0].shape[1],
        "classes": weight.shape[0],
        "conv_channels": tuple(len(kernel) for kernel in kernels),
        "conv_kernels": sides,
        "primary_dim": weight.shape[2],
        "class_dim": weight.shape[3],
        "norm": "batch" if len(encoder) > TRAINED else "instance",
        "decoder": decoder,
    }
    preset = PRESETS.get((sides[0], primary.shape[2]))
    if preset is None:
        found |= image_sides(tensors, primary[0, 0].numel(), sides, MNIST_STRIDES, numbers)
    return tensors.spec(preset or "efficient-capsnet", found, numbers), ours


def _original(
    tensors: ForeignTensors, encoder: Sequence[str], decoder: str, numbers: Numbers
) -> tuple[ModelSpec, dict[str, Tensor]]:
    first, primary = (tensors.take(encoder[i], None, None, None, None) for i in (0, 2))
    first_bias, primary_bias = tensors.take(encoder[1], None), tensors.take(encoder[3], None, None)
    bias = tensors.take(encoder[5], None, None)
    types, dim = primary_bias.shape
    weight = tensors.take(encoder[4], None, dim, bias.numel())  # (lower, dim, class · class_dim)
    sides = first.shape[0], primary.shape[0]
    found = {
        **image_sides(tensors, len(weight) // types, sides, (1, 2), numbers),
        "channels": first.shape[2],
        "classes": len(bias),
        "conv_channels": (first.shape[3],),
        "conv_kernels": sides[:1],
        "primary_types": types,
        "primary_dim": dim,
        "primary_kernel": sides[1],
        "primary_coupling": 1 / types,
        "class_dim": bias.shape[1],
        "length_eps": 1e-7,
        "decoder": decoder,
    }
    return tensors.spec("capsnet-tf-original", found, numbers), {
        "stages.conv1.conv.weight": conv_weight(first),
        "stages.conv1.conv.bias": first_bias,
        "stages.primary.conv.weight": conv_weight(primary),
        "stages.primary.bias": primary_bias[:, :, None, None],
        "stages.class_caps.weight": weight.reshape(-1, dim, *bias.shape).transpose(1, 2),
        "stages.class_caps.routing.bias": bias,
    }
