"""Weights in the layout of the published systems that use Keras, by layer and name, in the order of the file."""

from __future__ import annotations

import itertools
import json

import torch
from drawn_weights import bias, class_weight, keras_kernel
from torch import Tensor

Layers = dict[str, dict[str, Tensor]]


def efficient_keras(kind: str, *, classes: int = 10) -> Layers:
    """Make an Efficient-CapsNet in Keras' layout, ``mnist``, ``multimnist``, ``affnist`` or ``smallnorb``."""
    first, depthwise, channels = {
        "mnist": (5, 9, 1),
        "multimnist": (5, 5, 1),
        "affnist": (5, 15, 1),
        "smallnorb": (7, 8, 2),
    }[kind]
    encoder: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}
    widths = (channels, 32, 64, 64, 128)
    for i, (n_in, n_out, size) in enumerate(zip(widths, widths[1:], (first, 3, 3, 3), strict=False)):
        suffix = f"_{i}" if i else ""
        encoder[f"conv2d{suffix}/kernel"] = keras_kernel(size, size, n_in, n_out)
        encoder[f"conv2d{suffix}/bias"] = bias(n_out)
        encoder[f"norm{suffix}/gamma"] = 1 + bias(n_out)
        encoder[f"norm{suffix}/beta"] = bias(n_out)
        if kind != "smallnorb":
            statistics[f"norm{suffix}/moving_mean"] = bias(n_out)
            statistics[f"norm{suffix}/moving_variance"] = 0.5 + torch.rand(n_out)
    encoder["primary_caps/conv2d_4/kernel"] = keras_kernel(depthwise, depthwise, 1, 128)
    encoder["primary_caps/conv2d_4/bias"] = bias(128)
    encoder["fc_caps/W"] = class_weight(16, classes, 16, classes, 16, 8, 16)
    encoder["fc_caps/b"] = bias(classes, 16, 1)
    return {"input_2": {}, "Efficient_CapsNet": {**encoder, **statistics}, "mask": {}}


def keras_fc(inputs: int, pixels: int) -> Layers:
    """Make the usual decoder in Keras' layout."""
    state: dict[str, Tensor] = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise((inputs, 512, 1024, pixels))):
        state |= {f"dense_{i}/kernel": 2 * keras_kernel(n_in, n_out), f"dense_{i}/bias": bias(n_out)}
    return {"Generator": state}


def keras_upsample48() -> Layers:
    """Make the decoder for smallNORB in Keras' layout."""
    state = {"dense/kernel": 3 * keras_kernel(80, 64), "dense/bias": bias(64)}
    widths = (1, 64, 128, 128, 2)
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        state |= {f"conv_{i}/kernel": 2 * keras_kernel(3, 3, n_in, n_out), f"conv_{i}/bias": bias(n_out)}
    return {"Generator": state}


def original_keras(*, width: int = 256, types: int = 32, side: int = 28) -> Layers:
    """Make the original CapsNet as Efficient-CapsNet's authors ship it, in Keras' layout."""
    lower = types * ((side - 17) // 2 + 1) ** 2
    return {
        "input_2": {},
        "Original_CapsNet": {
            "conv2d/kernel": keras_kernel(9, 9, 1, width),
            "conv2d/bias": bias(width),
            "primary_caps/kernel": types * keras_kernel(9, 9, width, types * 8),
            "primary_caps/biases": bias(types, 8),
            "digit_caps/W": class_weight(lower, 10, 16, lower, 8, 160),
            "digit_caps/biases": bias(10, 16),
        },
        "mask": {},
    }


def q7(kind: str) -> tuple[Layers, str]:
    """Make a Q7-CapsNet, ``mnist``, ``smallnorb`` or ``cifar10``: its layers, alphabetical, and its model_config."""
    image, convs, primary, (lower, classes, class_dim) = {
        "mnist": ((28, 28, 1), ((16, 7, 1),), 7, (1024, 10, 6)),
        "smallnorb": ((32, 32, 2), ((32, 7, 1),), 7, (1600, 5, 6)),
        "cifar10": ((32, 32, 3), ((32, 3, 1), (32, 3, 1), (64, 3, 2), (64, 3, 2)), 3, (64, 10, 5)),
    }[kind]
    layers: Layers = {}
    graph: list[tuple[str, dict[str, object]]] = [
        ("InputLayer", {"name": "input_1", "batch_input_shape": [None, *image], "dtype": "float32"})
    ]
    n_in = image[2]
    for i, (n_out, size, stride) in enumerate(convs):
        # Counted down, so that the alphabet has the layers in reverse.
        name = f"conv2d_{len(convs) - i}"
        numbers = {"filters": n_out, "kernel_size": [size, size], "strides": [stride, stride], "padding": "valid"}
        graph.append(("Conv2D", {"name": name, "activation": "linear", **numbers}))
        graph.append(("Activation", {"name": f"activation_{i}", "activation": "relu"}))
        layers[name] = {f"{name}/kernel": keras_kernel(size, size, n_in, n_out), f"{name}/bias": bias(n_out)}
        n_in = n_out
    numbers = {"num_capsule": 16, "dim_capsule": 4, "kernel_size": primary, "strides": 2, "padding": "valid"}
    graph.append(("PrimaryCapsule", {"name": "primary_capsule", **numbers}))
    path = "primary_capsule/primarycap_conv2d"
    layers["primary_capsule"] = {
        f"{path}/kernel": 2 * keras_kernel(primary, primary, n_in, 64),
        f"{path}/bias": bias(64),
    }
    graph.append(("Capsule", {"name": "capsule", "num_capsule": classes, "dim_capsule": class_dim, "routings": 3}))
    layers["capsule"] = {"capsule/weights": class_weight(lower, classes, class_dim, classes, lower, class_dim, 4)}
    graph.append(("Length", {"name": "length"}))
    listed = [{"class_name": kind, "config": numbers, "inbound_nodes": []} for kind, numbers in graph]
    config = {
        "class_name": "Functional",
        "config": {"name": "model", "layers": listed, "output_layers": [["length", 0, 0]]},
    }
    return dict(sorted(layers.items())), json.dumps(config)
