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
    """Fill a convolution as PyTorch does: weight and bias uniform in ±1/√fan_in."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    bound = 1 / math.sqrt(weight.shape[1] * weight[0, 0].numel())
    uniform_(weight, bound, generator)
    if isinstance(module.bias, Tensor):
        uniform_(module.bias, bound, generator)


def initialise_norms_and_decoder(network: nn.Module, decoder: nn.Module | None, generator: torch.Generator) -> None:
    """Reset every batch norm to the identity, and fill a decoder: biases 0, hidden layers He-normal.

    The last dense layer is Glorot-normal. Of a transposed convolution each output sees only
    in · kernel² / stride² inputs, which is the fan-in used.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()
    layers = [m for m in decoder.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d)] if decoder else []
    for layer in layers:
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.ConvTranspose2d):
            taps = layer.kernel_size[0] * layer.kernel_size[1] // (layer.stride[0] * layer.stride[1])
            he_normal_(layer.weight, layer.in_channels * max(taps, 1), generator)
        elif layer is layers[-1]:
            glorot_normal_(layer.weight, layer.in_features, layer.out_features, generator)
        else:
            he_normal_(layer.weight, layer.in_features, generator)
