"""Initial values in the forms the papers use, always from a given generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qcaps.capsules.conv_decoders import ConvDecoder, UpsampleDecoder

WeightLayer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d

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
    """Fill a dense layer or a convolution as PyTorch does: weight and bias uniform in ±1/√fan_in.

    For the fan-in of a transposed convolution PyTorch takes out · kernel².
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    bound = 1 / math.sqrt(weight[0].numel())
    uniform_(weight, bound, generator)
    if isinstance(module.bias, Tensor):
        uniform_(module.bias, bound, generator)


def reset_norms(network: nn.Module) -> None:
    """Set every batch norm to the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_parameters()


def weight_layers(module: nn.Module) -> list[WeightLayer]:
    """List the dense layers and convolutions of a module, in order."""
    return [layer for layer in module.modules() if isinstance(layer, WeightLayer)]


def initialise_norms_and_decoder(network: nn.Module, decoder: nn.Module | None, generator: torch.Generator) -> None:
    """Reset every batch norm, and fill a decoder as the code it was published with does.

    ``convdecoder*`` has PyTorch's default, ``upsample48`` is Glorot-uniform with biases 0, the others are He-normal
    with biases 0.
    """
    reset_norms(network)
    layers = weight_layers(decoder) if decoder is not None else []
    for layer in layers:
        if isinstance(decoder, ConvDecoder):
            torch_default_(layer, generator)
        else:
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            if isinstance(decoder, UpsampleDecoder):
                fans = layer.weight[0].numel() + layer.weight[:, 0].numel()
                uniform_(layer.weight, math.sqrt(6 / fans), generator)
            else:
                _keras_normal(layer, is_last=layer is layers[-1], generator=generator)


def _keras_normal(layer: WeightLayer, *, is_last: bool, generator: torch.Generator) -> None:
    """Fill with He-normal values, a dense layer that comes last with Glorot-normal ones.

    Of a transposed convolution each output sees only in · kernel² / stride² inputs, which is the fan-in used.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        taps = layer.kernel_size[0] * layer.kernel_size[1] // (layer.stride[0] * layer.stride[1])
        he_normal_(layer.weight, layer.in_channels * max(taps, 1), generator)
    elif is_last:
        glorot_normal_(layer.weight, layer.weight[0].numel(), layer.weight[:, 0].numel(), generator)
    else:
        he_normal_(layer.weight, layer.weight[0].numel(), generator)


def fill_torch_default(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every layer of a network, its decoder included, with PyTorch's default, and reset every batch norm."""
    reset_norms(network)
    for layer in weight_layers(network):
        torch_default_(layer, generator)


def fill_xavier_normal(module: nn.Module, gain: float, generator: torch.Generator) -> None:
    """Fill the weights of every layer of a module Xavier-normal, their biases with PyTorch's default."""
    for layer in weight_layers(module):
        torch_default_(layer, generator)
        nn.init.xavier_normal_(layer.weight, gain=gain, generator=generator)
