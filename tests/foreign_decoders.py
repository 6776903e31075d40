"""The published decoders, computed in their own layout, from what they are given: ``(batch, values)`` to images."""

from __future__ import annotations

import math

import torch
from foreign_networks import State, conv_last, normed
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear


def fc(state: State, given: Tensor, *paths: str) -> Tensor:
    for path in paths[:-1]:
        given = linear(given, state[f"{path}.weight"], state[f"{path}.bias"]).relu()
    return torch.sigmoid(linear(given, state[f"{paths[-1]}.weight"], state[f"{paths[-1]}.bias"]))


def fc_keras(decoder: list[Tensor], given: Tensor) -> Tensor:
    for kernel, bias in zip(decoder[:-2:2], decoder[1:-2:2], strict=True):
        given = (given @ kernel + bias).relu()
    return torch.sigmoid(given @ decoder[-2] + decoder[-1])


def ethanleet_decoder(state: State, given: Tensor, classes: int) -> Tensor:
    """Compute any decoder of ethanleet/CapsNet; a norm is the layer behind the one it normalises."""
    layers = sorted({name.rpartition(".")[0] for name in state if name.startswith("decoder.")})
    layers = [path for path in layers if state[f"{path}.weight"].dim() > 1]
    x = given
    for path in layers:
        weight, bias = state[f"{path}.weight"], state[f"{path}.bias"]
        if weight.dim() == 4:
            x = x.view(len(x), classes, math.isqrt(x[0].numel() // classes), -1) if x.dim() == 2 else x
            x = conv_transpose2d(x, weight, bias, stride=2 if path == "decoder.decoder.0" else 1)
        else:
            x = linear(x, weight, bias)
        stem, _, index = path.rpartition(".")
        norm = f"{stem}.{int(index) + 1}"
        x = normed(x, state, norm, 1e-5) if f"{norm}.weight" in state else x
        x = torch.sigmoid(x) if path == layers[-1] else x.relu()
    return x


def convdecoder(state: State, given: Tensor) -> Tensor:
    x = linear(given, state["lin.weight"], state["lin.bias"]).relu()
    x = normed(x.view(len(x), 16, math.isqrt(x.shape[1] // 16), -1), state, "bn", 1e-5)
    layers = sum(name.startswith("dc") for name in state) // 2
    for i in range(1, layers + 1):
        weight = state[f"dc{i}.weight"]
        doubling = 1 < i < layers
        odd = weight.shape[2] % 2
        x = conv_transpose2d(
            x, weight, state[f"dc{i}.bias"], stride=1 + doubling, padding=1, output_padding=int(doubling and odd)
        )
    return x.relu()


def doubled(x: Tensor, axis: int, *, aligned: bool) -> Tensor:
    """Double one axis bilinearly; the corners stay, or the outer edges of the pixels."""
    n = x.shape[axis]
    at = torch.arange(2 * n, dtype=torch.float64)
    at = at * (n - 1) / (2 * n - 1) if aligned else ((at + 0.5) / 2 - 0.5).clamp(0, n - 1)
    low = at.floor().long().clamp(max=n - 1)
    share = (at - low).float().view([-1 if i == axis else 1 for i in range(x.dim())])
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, (low + 1).clamp(max=n - 1)) * share


def upsample48_keras(decoder: list[Tensor], given: Tensor) -> Tensor:
    x = (given @ decoder[0] + decoder[1]).reshape(-1, 8, 8, 1)
    for kernel, bias in zip(decoder[2:8:2], decoder[3:8:2], strict=True):
        x = conv_last(doubled(doubled(x, 1, aligned=False), 2, aligned=False), kernel, bias)
        x = torch.where(x > 0, x, 0.2 * x)
    return torch.sigmoid(conv_last(x, decoder[8], decoder[9]))


def upsample48(state: State, given: Tensor, path: str = "decoder") -> Tensor:
    x = linear(given, state[f"{path}.layer1.0.weight"], state[f"{path}.layer1.0.bias"]).view(-1, 1, 8, 8)
    for i in (1, 4, 7):
        x = doubled(doubled(x, 2, aligned=True), 3, aligned=True)
        x = leaky_relu(conv2d(x, state[f"{path}.layer2.{i}.weight"], state[f"{path}.layer2.{i}.bias"]), 0.3)
    return torch.sigmoid(conv2d(x, state[f"{path}.layer2.9.weight"], state[f"{path}.layer2.9.bias"]))


def kept_of(capsules: Tensor, kept: int) -> Tensor:
    """Set all class capsules but one to zero and flatten, class by class."""
    masked = torch.zeros_like(capsules)
    masked[:, kept] = capsules[:, kept]
    return masked.flatten(1)
