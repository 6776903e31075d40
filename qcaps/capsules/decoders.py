"""Decoders: from one class capsule back to the image.

Every decoder is made from the same four arguments, so that a registry name is all a network needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from qcaps.capsules.masking import MaskLayout
from qcaps.errors import UsageError
from qcaps.registry import DECODERS

ImageShape = tuple[int, int, int]
DecoderFactory = Callable[[int, int, ImageShape, bool], nn.Module | None]


@dataclass(frozen=True)
class Decoder:
    """What is registered under the name of a decoder: call it to build one.

    Parameters
    ----------
    name
        Registry name.
    layers
        Builds the decoder; takes the arguments of the call, which are then known to fit.
    size
        Height and width of the images it can draw, with any number of channels; 0 if it draws any size.
    takes_norm
        Whether there is a variant with batch norm in the hidden layers.
    """

    name: str
    layers: Callable[[int, int, ImageShape, bool], nn.Module]
    size: int = 0
    takes_norm: bool = False

    def __call__(self, inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> nn.Module:
        """Build the decoder.

        Parameters
        ----------
        inputs
            Values after masking.
        classes
            Decides the width of the hidden layers of some decoders.
        image
            Channels, height and width of the image to draw.
        batch_norm
            Normalise the hidden layers.

        Raises
        ------
        UsageError
            If the decoder cannot draw images of this size, or has no variant with batch norm.
        """
        if not self.draws(image):
            height, width = image[1:]
            others = [repr(decoder.name) for decoder in _drawing(image)]
            raise UsageError(
                f"decoder {self.name!r} draws {self.size}x{self.size} pixels, not {height}x{width}",
                do=f"use {' or '.join(others)}",
            )
        if batch_norm and not self.takes_norm:
            raise UsageError(f"decoder {self.name!r} has no variant with batch norm", do="leave decoder_norm false")
        return self.layers(inputs, classes, image, batch_norm)

    def draws(self, image: ImageShape) -> bool:
        """Tell whether it can draw images of this shape."""
        return self.size == 0 or image[1:] == (self.size, self.size)


def _drawing(image: ImageShape) -> list[Decoder]:
    """List the decoders that can draw an image, those made for its size first."""
    registered = (DECODERS.load(name) for name in DECODERS.names())
    able = [decoder for decoder in registered if isinstance(decoder, Decoder) and decoder.draws(image)]
    return sorted(able, key=lambda decoder: decoder.size == 0)


def build_decoder(
    name: str, *, classes: int, dim: int, layout: MaskLayout, image: ImageShape, batch_norm: bool
) -> nn.Module | None:
    """Build the decoder of a network by its registry name.

    Parameters
    ----------
    name
        Registry name.
    classes, dim
        Of the class capsules.
    layout
        What the decoder is given; see :func:`~qcaps.capsules.masking.mask_capsules`.
    image
        Channels, height and width of the image to draw.
    batch_norm
        Normalise the hidden layers.

    Raises
    ------
    UsageError
        If the name is unknown, the decoder cannot draw such images or has no variant with batch norm.
    """
    factory = cast("DecoderFactory", DECODERS.load(name, where="decoder"))
    return factory(dim * (1 if layout == "select" else classes), classes, image, batch_norm)


def no_decoder(inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> None:
    """Build nothing: the network is trained on its scores alone."""


def _dense_layers(inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> nn.Module:
    """Build inputs → 512 → 1024 → pixels; batch norm lies before the ReLU of both hidden layers."""
    channels, height, width = image
    layers: list[nn.Module] = []
    for n_in, n_out in ((inputs, 512), (512, 1024)):
        layers += [nn.Linear(n_in, n_out)]
        layers += [nn.BatchNorm1d(n_out)] if batch_norm else []
        layers += [nn.ReLU()]
    layers += [nn.Linear(1024, channels * height * width), nn.Sigmoid(), nn.Unflatten(1, image)]
    return nn.Sequential(*layers)


# Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, figure 2.
FC = Decoder("fc", _dense_layers, takes_norm=True)
