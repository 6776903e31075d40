"""Weights in the layout of the published systems that use PyTorch; widths can be chosen, so that tests stay small."""

from __future__ import annotations

import itertools

from drawn_weights import batch_norm, bias, class_weight, kernel
from torch import Tensor


def q_capsnets_shallow(
    *, channels: int = 1, classes: int = 10, side: int = 28, width: int = 256, types: int = 32, dim: int = 8
) -> dict[str, Tensor]:
    """Make a ShallowCapsNet of Q-CapsNets, class capsules of 16 dimensions."""
    lower = types * ((side - 17) // 2 + 1) ** 2
    return {
        "conv.conv.weight": kernel(width, channels, 9, 9),
        "conv.conv.bias": bias(width),
        "primary.conv3d.weight": types * kernel(types * dim, width, 9, 9),  # coupled by 1 / types
        "primary.bias": bias(types, dim, 1, 1),
        "digit.weight": class_weight(lower, classes, 16, lower, dim, classes * 16),
        "digit.bias": bias(classes, 16),
    }


def q_capsnets_deepcaps(
    *, channels: int = 1, classes: int = 10, side: int = 28, width: int = 128, types: int = 32
) -> dict[str, Tensor]:
    """Make a DeepCaps of Q-CapsNets, class capsules of 32 dimensions."""
    state = {"conv1.conv.weight": kernel(width, channels, 3, 3), "conv1.conv.bias": bias(width)}
    state |= batch_norm("conv1.batchnorm", width)
    n_in = width
    for block, dim in ((1, 4), (2, 8), (3, 8), (4, 8)):
        for layer in ("l1", "l2", "l3", "l_skip"):
            path = f"block{block}.{layer}.conv"
            shape = (types * dim, n_in if layer == "l1" else types * dim, 3, 3)
            if (block, layer) == (4, "l_skip"):
                shape = (types * dim, 1, dim, 3, 3)
            state |= {f"{path}.weight": 2 * kernel(*shape), f"{path}.bias": bias(types * dim)}
        n_in = types * dim
    lower = types * ((-(-side // 8)) ** 2 + (-(-side // 16)) ** 2)
    return state | {
        "block4.l_skip.bias": bias(types, 8, 1, 1),
        "capsLayer.weight": class_weight(lower, classes, 32, lower, 8, classes * 32),
        "capsLayer.bias": bias(classes, 32),
    }


def fc_layers(inputs: int, pixels: int, *paths: str) -> dict[str, Tensor]:
    """Make the three dense layers of the usual decoder under names such as ``fc1``."""
    sizes = (inputs, 512, 1024, pixels)
    state: dict[str, Tensor] = {}
    for path, n_in, n_out in zip(paths, sizes, sizes[1:], strict=False):
        state |= {f"{path}.weight": 2 * kernel(n_out, n_in), f"{path}.bias": bias(n_out)}
    return state


def convdecoder(inputs: int, channels: int, side: int) -> dict[str, Tensor]:
    """Make DeepCaps' decoder for 28 or 64 pixels."""
    maps, widths, doubling = (7, (16, 64, 32, 16), 3) if side == 28 else (8, (16, 64, 32, 16, 8), 4)
    state = {"lin.weight": 3 * kernel(16 * maps * maps, inputs), "lin.bias": bias(16 * maps * maps)}
    state |= batch_norm("bn", 16)
    layers = [*itertools.pairwise(widths), (widths[-1], channels)]
    for i, (n_in, n_out) in enumerate(layers, start=1):
        size = 3 if i in (1, len(layers)) else doubling
        state |= {f"dc{i}.weight": kernel(n_out, n_in, size, size).transpose(0, 1), f"dc{i}.bias": bias(n_out)}
    return state


def efficientcn(kind: str, *, classes: int = 10, with_bias: bool = True) -> dict[str, Tensor]:
    """Make an Efficient-CapsNet of EfficientCN, ``mnist``, ``multimnist``, ``affnist`` or ``smallnorb``."""
    first, depthwise, channels = {
        "mnist": (5, 9, 1),
        "multimnist": (5, 5, 1),
        "affnist": (5, 15, 1),
        "smallnorb": (7, 8, 2),
    }[kind]
    state: dict[str, Tensor] = {}
    widths = (channels, 32, 64, 64, 128)
    for i, (n_in, n_out, size) in enumerate(zip(widths, widths[1:], (first, 3, 3, 3), strict=False)):
        path = f"backbone.layers.{3 * i}"
        state |= {f"{path}.weight": kernel(n_out, n_in, size, size), f"{path}.bias": bias(n_out)}
        state |= batch_norm(f"backbone.layers.{3 * i + 2}", n_out) if kind != "smallnorb" else {}
    state |= {"primcaps.dw_conv2d.weight": kernel(128, 1, depthwise, depthwise), "primcaps.dw_conv2d.bias": bias(128)}
    state |= {"fcncaps.W": class_weight(16, classes, 16, 16, classes, 8, 16)}
    return state | ({"fcncaps.B": bias(16, classes)} if with_bias else {})


def upsample48(path: str = "decoder") -> dict[str, Tensor]:
    """Make EfficientCN's decoder for smallNORB."""
    state = {f"{path}.layer1.0.weight": 3 * kernel(64, 80), f"{path}.layer1.0.bias": bias(64)}
    widths = (1, 64, 128, 128, 2)
    for i, n_in, n_out in zip((1, 4, 7, 9), widths, widths[1:], strict=False):
        state[f"{path}.layer2.{i}.weight"] = 2 * kernel(n_out, n_in, 3, 3)
        state[f"{path}.layer2.{i}.bias"] = bias(n_out)
    return state


def efficientcn_capsnet(
    *, channels: int = 1, classes: int = 10, side: int = 28, width: int = 256, types: int = 32, convs: int = 1
) -> dict[str, Tensor]:
    """Make a CapsNet of EfficientCN; for smallNORB it has two convolutions in front."""
    state: dict[str, Tensor] = {}
    for i in range(convs):
        path = f"backbone.layers.{2 * i}"
        state |= {f"{path}.weight": kernel(width, width if i else channels, 9, 9), f"{path}.bias": bias(width)}
    state |= {"primcaps.conv.weight": 2 * kernel(types * 8, width, 9, 9), "primcaps.conv.bias": bias(types * 8)}
    lower = types * ((side - 8 * convs - 9) // 2 + 1) ** 2
    return state | {
        "digitcaps.weights": class_weight(lower, classes, 16, lower, 8, classes * 16),
        "digitcaps.routing_module.b": bias(lower, classes),
    }


def ethanleet(
    *, channels: int = 1, classes: int = 10, side: int = 28, width: int = 256, types: int = 32, with_norm: bool = False
) -> dict[str, Tensor]:
    """Make a CapsNet of ethanleet/CapsNet."""
    state = {"conv_layer.conv.0.weight": kernel(width, channels, 9, 9), "conv_layer.conv.0.bias": bias(width)}
    state |= batch_norm("conv_layer.conv.1", width) if with_norm else {}
    for e in range(8):
        path = f"primary_capsules.capsules.{e}"
        state |= {f"{path}.0.weight": 2 * kernel(types, width, 9, 9), f"{path}.0.bias": bias(types)}
        state |= batch_norm(f"{path}.1", types) if with_norm else {}
    lower = types * ((side - 17) // 2 + 1) ** 2
    return state | {
        "digit_caps.W": class_weight(lower, classes, 16, 1, lower, classes, 16, 8),
        "digit_caps.bias": bias(1, 1, classes, 16),
    }


def ethanleet_fc(inputs: int, pixels: int, *, with_norm: bool) -> dict[str, Tensor]:
    """Make the dense decoder of ethanleet/CapsNet."""
    if not with_norm:
        return fc_layers(inputs, pixels, *(f"decoder.decoder.{i}" for i in (0, 2, 4)))
    dense = fc_layers(inputs, pixels, *(f"decoder.decoder.{i}" for i in (0, 3, 6)))
    norms = {0: batch_norm("decoder.decoder.1", 512), 3: batch_norm("decoder.decoder.4", 1024), 6: {}}
    state: dict[str, Tensor] = {}
    for i, norm in norms.items():
        state |= {name: tensor for name, tensor in dense.items() if name.startswith(f"decoder.decoder.{i}.")} | norm
    return state


def ethanleet_deconv(classes: int, channels: int, side: int, *, with_norm: bool) -> dict[str, Tensor]:
    """Make the deconvolution decoder of ethanleet/CapsNet for 28 or 32 pixels."""
    cells, widths = (36, (classes, 32, 64)) if side == 28 else (16, (classes, 32, 64, 128))
    hidden = classes * cells
    state = {"decoder.FC.0.weight": 3 * kernel(hidden, classes * 16), "decoder.FC.0.bias": bias(hidden)}
    state |= batch_norm("decoder.FC.1", hidden) if with_norm else {}
    step = 3 if with_norm else 2
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        state[f"decoder.decoder.{step * i}.weight"] = 2 * kernel(n_out, n_in, 9, 9).transpose(0, 1)
        state[f"decoder.decoder.{step * i}.bias"] = bias(n_out)
        state |= batch_norm(f"decoder.decoder.{step * i + 1}", n_out) if with_norm else {}
    last = f"decoder.decoder.{step * (len(widths) - 1)}"
    return state | {
        f"{last}.weight": kernel(channels, widths[-1], 2, 2).transpose(0, 1),
        f"{last}.bias": bias(channels),
    }


def resnet50_backbone(*paths: str) -> dict[str, Tensor]:
    """Make a thin ResNet-50 below the paths of its first convolution, its norm and its four layers."""
    conv1, bn1, *layers = paths
    state = {f"{conv1}.weight": kernel(3, 3, 7, 7), **batch_norm(bn1, 3)}
    n_in = 3
    for n, (path, blocks) in enumerate(zip(layers, (3, 4, 6, 3), strict=True)):
        out = 16 if n == 3 else 5 + n
        for i in range(blocks):
            inner = 2 + i % 3
            shapes = ((inner, n_in, 1, 1), (inner + 1, inner, 3, 3), (out, inner + 1, 1, 1))
            for k, shape in enumerate(shapes, start=1):
                state[f"{path}.{i}.conv{k}.weight"] = kernel(*shape)
                state |= batch_norm(f"{path}.{i}.bn{k}", shape[0])
            if i == 0:
                state[f"{path}.0.downsample.0.weight"] = kernel(out, n_in, 1, 1)
                state |= batch_norm(f"{path}.0.downsample.1", out)
            n_in = out
    return state


def mobilenetv1_backbone(conv1: str, bn1: str, layers: str) -> dict[str, Tensor]:
    """Make a thin MobileNetV1 below the paths of its first convolution, its norm and its blocks."""
    widths = (3, *(4 + i % 5 for i in range(12)), 16)
    state = {f"{conv1}.weight": kernel(3, 3, 3, 3), **batch_norm(bn1, 3)}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        state[f"{layers}.{i}.conv1.weight"] = kernel(n_in, 1, 3, 3)
        state |= batch_norm(f"{layers}.{i}.bn1", n_in)
        state[f"{layers}.{i}.conv2.weight"] = kernel(n_out, n_in, 1, 1)
        state |= batch_norm(f"{layers}.{i}.bn2", n_out)
    return state


def eagleeye(kind: str, classes: int = 7) -> dict[str, Tensor]:
    """Make a thin classifier of EagleEye, ``resnet50`` or ``mobilenetv1``."""
    if kind == "resnet50":
        state, linear = resnet50_backbone("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), "fc"
    else:
        state, linear = mobilenetv1_backbone("conv1", "bn1", "layers"), "linear"
    return state | {f"{linear}.weight": 3 * kernel(classes, 16), f"{linear}.bias": bias(classes)}


def towards_efficient(kind: str, *, cells: int = 2, classes: int = 4) -> dict[str, Tensor]:
    """Make a thin network of Towards Efficient Capsule Networks, `cells` rows and columns behind the backbone."""
    if kind == "resnet50":
        state = resnet50_backbone(*(f"resnet50.{i}" for i in (0, 1, 4, 5, 6, 7)))
    else:
        state = mobilenetv1_backbone("mobilenet.0", "mobilenet.1", "mobilenet.2")
    return state | {
        "primaryCaps.caps_poses.weight": 3 * kernel(16, 16, cells, cells),
        "primaryCaps.caps_poses.bias": bias(16),
        "classCaps.weight": class_weight(2, classes, 16, 2, 1, 1, classes, 16, 8),
        "classCaps.routing_bias": bias(classes, 1, 1, 16, 1),
    }
