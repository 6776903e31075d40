"""Bias correction: what rounding a weight shifts its outputs by on average is taken off the bias behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from qcaps.capsules.sites import Sites
from qcaps.models.network import CapsuleNetwork


@dataclass(frozen=True)
class Correctable:
    """A weight site whose shift a bias can take.

    Parameters
    ----------
    bias
        Site of the bias.
    layer
        Path of the convolution or linear layer within the network.
    gain
        What its products are multiplied by before the bias is added.
    """

    bias: str
    layer: str
    gain: float


def correctable(network: CapsuleNetwork) -> dict[str, Correctable]:
    """List every 2-D convolution and linear layer that has a bias behind it: weight site → how to correct it."""
    found = {}
    for sites in network.stages.modules():
        if not isinstance(sites, Sites) or not {"weight", "bias"} <= sites.weights.keys():
            continue
        layer, _, parameter = f"stages.{sites.owner}.{sites.weights['weight']}".rpartition(".")
        if parameter == "weight" and isinstance(network.get_submodule(layer), nn.Conv2d | nn.Linear):
            found[f"{sites.owner}.weight"] = Correctable(f"{sites.owner}.bias", layer, sites.weight_gain)
    return found


@contextmanager
def watching_inputs(network: CapsuleNetwork, sums: dict[str, Tensor]) -> Iterator[None]:
    """Add up the mean input of every correctable weight over all images that pass inside the block.

    Parameters
    ----------
    network
        In float.
    sums
        Weight site → sum over images of what one output is given on average over the map, in the shape of one row of
        the weight, ``(in, rows, columns)`` or ``(in,)``; filled here, float64. A depthwise weight has a row of its own
        for every channel.
    """
    handles = []
    for site, place in correctable(network).items():

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], site: str = site) -> None:
            if not inputs[0].is_meta:  # where a network only tells its shapes
                sums[site] = sums.get(site, 0) + mean_input(layer, inputs[0]) * len(inputs[0])

        handles.append(network.get_submodule(place.layer).register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def corrected_bias(layer: nn.Module, bias: Tensor, error: Tensor, mean_input: Tensor, gain: float) -> Tensor:
    """Take the mean shift off a bias.

    Parameters
    ----------
    layer, gain
        As for :class:`Correctable`.
    bias
        In float, any shape with one value per output.
    error
        Rounded weight less the weight.
    mean_input
        As `watching_inputs` gives it, divided by the images.

    References
    ----------
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2, here
    with inputs seen on training images.
    """
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    rows = error.double().reshape(groups, len(error) // groups, -1)  # (groups, out per group, products)
    shift = gain * torch.einsum("gop,gp->go", rows, mean_input.reshape(groups, -1))
    return (bias.double() - shift.view_as(bias)).to(bias.dtype)


def mean_input(layer: nn.Module, x: Tensor) -> Tensor:
    """Average what one output is given over the images and the map.

    Parameters
    ----------
    layer
        2-D convolution or linear layer, zeros its padding.
    x
        Its input, ``(batch, in, h, w)`` or ``(batch, ..., in)``.

    Returns
    -------
    Tensor
        float64, shape ``(in, rows, columns)`` of the kernel, or ``(in,)``.
    """
    mean = x.double().mean(0)
    if not isinstance(layer, nn.Conv2d):
        return mean.view(-1, mean.shape[-1]).mean(0)
    (up, left), (down, right) = layer.stride, layer.dilation
    rows, columns = layer.kernel_size
    above, beside = (int(size) for size in layer.padding)
    padded = pad(mean, (beside, beside, above, above))
    height = (padded.shape[1] - down * (rows - 1) - 1) // up + 1
    width = (padded.shape[2] - right * (columns - 1) - 1) // left + 1
    window = padded.new_full((1, 1, height, width), 1 / (height * width))
    means = conv2d(padded[:, None], window, dilation=(up, left))[:, 0]  # (in, places of a kernel's corner)
    return means[:, : down * rows : down, : right * columns : right]
