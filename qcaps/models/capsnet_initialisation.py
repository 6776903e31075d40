"""Initial values of ShallowCapsNet, as the published codes draw them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from qcaps.capsules.layers import ClassCapsules, PrimaryCapsules, RoutedPrimaryCapsules
from qcaps.models.initialisation import fill_xavier_normal, initialise_norms_and_decoder, torch_default_, uniform_
from qcaps.models.network import CapsuleNetwork

CapsNetFlavour = Literal["qcapsnets", "sabour", "keras", "efficientcn", "ethanleet"]

SABOUR_STD = 0.1
ETHANLEET_GAIN, ETHANLEET_CLASS_GAIN = 0.02, 0.002


def initialise_capsnet(network: CapsuleNetwork, flavour: CapsNetFlavour, generator: torch.Generator) -> None:
    """Fill a network of convolutions, primary capsules and class capsules.

    Parameters
    ----------
    network
        Changed in place.
    flavour
        ``qcapsnets``: PyTorch's default, class weights Kaiming-uniform, class bias 0.1. ``sabour``: class weights
        normal, standard deviation 0.1. ``keras``: Glorot-uniform, biases 0. ``efficientcn``: class weights uniform in
        ±1/√(number of primary capsules). ``ethanleet``: Xavier-normal with tiny gains.
    generator
        Source of every draw.
    """
    for stage in network.stages.values():
        if isinstance(stage, ClassCapsules):
            _fill_class_capsules(stage, flavour, generator)
            continue
        conv = stage.conv
        assert isinstance(conv, nn.Conv2d)
        # ethanleet makes every dimension with a convolution of its own.
        outputs = stage.types if isinstance(stage, PrimaryCapsules) else conv.out_channels
        _fill_convolution(conv, outputs, flavour, generator)
        if isinstance(stage, RoutedPrimaryCapsules):
            nn.init.zeros_(stage.bias)
    initialise_norms_and_decoder(network, network.decoder, generator)
    if flavour == "ethanleet" and network.decoder is not None:
        fill_xavier_normal(network.decoder, ETHANLEET_GAIN, generator)


def _fill_convolution(conv: nn.Conv2d, outputs: int, flavour: CapsNetFlavour, generator: torch.Generator) -> None:
    taps = conv.weight[0, 0].numel()
    torch_default_(conv, generator)
    if flavour == "keras":
        uniform_(conv.weight, math.sqrt(6 / ((conv.in_channels + conv.out_channels) * taps)), generator)
    elif flavour == "ethanleet":
        std = ETHANLEET_GAIN * math.sqrt(2 / ((conv.in_channels + outputs) * taps))
        nn.init.normal_(conv.weight, std=std, generator=generator)
    if flavour == "keras" and conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _fill_class_capsules(stage: ClassCapsules, flavour: CapsNetFlavour, generator: torch.Generator) -> None:
    n_in, n_out, d_in, d_out = stage.weight.shape
    if flavour == "qcapsnets":
        uniform_(stage.weight, math.sqrt(6 / (d_in * d_out * n_out)), generator)
    elif flavour == "sabour":
        nn.init.trunc_normal_(stage.weight, std=SABOUR_STD, a=-2 * SABOUR_STD, b=2 * SABOUR_STD, generator=generator)
    elif flavour == "keras":
        # Keras takes the first axis of (N, d, K·D) for a receptive field.
        uniform_(stage.weight, math.sqrt(6 / (n_in * (d_in + n_out * d_out))), generator)
    elif flavour == "efficientcn":
        uniform_(stage.weight, 1 / math.sqrt(n_in), generator)
    else:
        # PyTorch takes the first two axes of (1, N, K, D, d) for outputs and inputs.
        std = ETHANLEET_CLASS_GAIN * math.sqrt(2 / ((n_in + 1) * n_out * d_out * d_in))
        nn.init.normal_(stage.weight, std=std, generator=generator)
    for name, parameter in stage.routing.named_parameters():
        nn.init.zeros_(parameter)
        if name == "bias" and stage.routing.spec.bias == "in_loop":
            _fill_class_bias(parameter, flavour, generator)


def _fill_class_bias(bias: nn.Parameter, flavour: CapsNetFlavour, generator: torch.Generator) -> None:
    if flavour in ("qcapsnets", "sabour"):
        nn.init.constant_(bias, 0.1)
    elif flavour == "ethanleet":
        nn.init.normal_(bias, std=ETHANLEET_CLASS_GAIN / math.sqrt(bias.numel()), generator=generator)
