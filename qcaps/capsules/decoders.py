"""Decoders: from one class capsule back to the image.

Every factory takes the same four arguments, so that a registry name is all a network needs to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import nn

from qcaps.capsules.masking import MaskLayout
from qcaps.errors import UsageError
from qcaps.registry import DECODERS

ImageShape = tuple[int, int, int]
DecoderFactory = Callable[[int, int, ImageShape, bool], nn.Module | None]


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
        If the name is unknown, or the decoder cannot draw such images.
    """
    factory = cast("DecoderFactory", DECODERS.load(name, where="decoder"))
    return factory(dim * (classes if layout == "zeros" else 1), classes, image, batch_norm)


def no_decoder(inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> None:
    """Build nothing: the network is trained on the margin loss alone."""


def fc_decoder(inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> nn.Module:
    """Build the fully connected decoder inputs → 512 → 1024 → pixels.

    Parameters
    ----------
    inputs
        Values after masking.
    classes
        Not used by this decoder.
    image
        Channels, height and width of the image to draw.
    batch_norm
        Normalise both hidden layers before their ReLU.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, figure 2.
    """
    channels, height, width = image
    layers: list[nn.Module] = []
    for n_in, n_out in ((inputs, 512), (512, 1024)):
        layers += [nn.Linear(n_in, n_out)]
        layers += [nn.BatchNorm1d(n_out)] if batch_norm else []
        layers += [nn.ReLU()]
    layers += [nn.Linear(1024, channels * height * width), nn.Sigmoid(), nn.Unflatten(1, image)]
    return nn.Sequential(*layers)


def deconv28_decoder(inputs: int, classes: int, image: ImageShape, batch_norm: bool) -> nn.Module:
    """Build the transposed-convolution decoder for 28×28 pixels.

    Parameters
    ----------
    inputs, classes
        The first layer turns `inputs` values into `classes` maps of 6×6.
    image
        Must be 28×28 with one channel.
    batch_norm
        Normalise after the first layer and after each hidden transposed convolution.

    Raises
    ------
    UsageError
        If the image has another shape.

    References
    ----------
    The deconvolution decoder of the CapsNet reproduction ``ethanleet/CapsNet``; 250,121 parameters for 160 inputs.
    """
    if image != (1, 28, 28):
        shape = "x".join(map(str, image))
        raise UsageError(f"decoder 'deconv28' draws 1x28x28 images, not {shape}", do="use decoder 'fc'")
    layers: list[nn.Module] = [nn.Linear(inputs, 36 * classes)]
    layers += [nn.BatchNorm1d(36 * classes)] if batch_norm else []
    layers += [nn.ReLU(), nn.Unflatten(1, (classes, 6, 6))]
    for n_in, n_out, stride in ((classes, 32, 2), (32, 64, 1)):
        layers += [nn.ConvTranspose2d(n_in, n_out, 9, stride)]
        layers += [nn.BatchNorm2d(n_out)] if batch_norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(64, 1, 2), nn.Sigmoid())
