"""Initial values in the forms the papers use, always from a given generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Standard deviation of a unit normal truncated at two sigma, by which Keras divides.
TRUNCATED_STD = 0.87962566103423978


def he_normal_(weight: Tensor, fan_in: int, generator: torch.Generator) -> None:
    """Fill with Keras' He-normal: truncated at two sigma, standard deviation √(2/fan_in) after truncation."""
    std = math.sqrt(2 / fan_in) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def glorot_normal_(weight: Tensor, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
    """Fill with Keras' Glorot-normal: truncated at two sigma, standard deviation √(2/(fan_in + fan_out))."""
    std = math.sqrt(2 / (fan_in + fan_out)) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def uniform_(weight: Tensor, bound: float, generator: torch.Generator) -> None:
    """Fill evenly from −bound to bound."""
    nn.init.uniform_(weight, -bound, bound, generator=generator)


def torch_default_(module: nn.Module, generator: torch.Generator) -> None:
    """Fill a convolution or linear layer as PyTorch does: weight and bias uniform in ±1/√fan_in."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    # A transposed convolution stores (in, out, ...); PyTorch takes its fan-in from the second axis as well.
    bound = 1 / math.sqrt(weight.shape[1] * weight[0, 0].numel())
    uniform_(weight, bound, generator)
    if isinstance(module.bias, Tensor):
        uniform_(module.bias, bound, generator)


def initialise_norms_and_decoder(
    network: nn.Module, decoder: nn.Module | None, generator: torch.Generator
) -> None:
    """Reset every batch norm to the identity, and fill a decoder as its papers do.

    Dense layers are He-normal and the last Glorot-normal; transposed convolutions take PyTorch's default.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)] if decoder else []
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            torch_default_(layer, generator)
            continue
        if layer is layers[-1]:
            glorot_normal_(layer.weight, layer.in_features, layer.out_features, generator)
        else:
            he_normal_(layer.weight, layer.in_features, generator)
        nn.init.zeros_(layer.bias)
