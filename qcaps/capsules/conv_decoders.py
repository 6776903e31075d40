"""Decoders that draw with convolutions, each for images of one size."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu

from qcaps.capsules.decoders import Decoder, ImageShape

# In PyTorch's sense: the running statistics are mostly the last batch.
CONV_DECODER_MOMENTUM = 0.8


def _deconv_layers(
    inputs: int, classes: int, image: ImageShape, batch_norm: bool, *, side: int, widths: tuple[int, ...]
) -> nn.Module:
    """Turn the inputs into one map per class, side × side, and enlarge these; batch norm lies before every ReLU."""
    dense = classes * side * side
    layers: list[nn.Module] = [nn.Linear(inputs, dense)]
    layers += [nn.BatchNorm1d(dense)] if batch_norm else []
    layers += [nn.ReLU(), nn.Unflatten(1, (classes, side, side))]
    for index, (n_in, n_out) in enumerate(itertools.pairwise((classes, *widths))):
        layers += [nn.ConvTranspose2d(n_in, n_out, 9, stride=2 if index == 0 else 1)]
        layers += [nn.BatchNorm2d(n_out)] if batch_norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], image[0], 2), nn.Sigmoid())


class ConvDecoder(nn.Module):
    """Transposed convolutions with nothing between them, from 16 normalised maps.

    Parameters
    ----------
    inputs, channels
        Values after masking, and channels of the image.
    side
        Height and width of the 16 maps.
    widths
        Channels after the first convolution, which keeps the size, and after each of those that double it.
    doubling_kernel
        Kernel size of those that double it.

    Notes
    -----
    A ReLU ends it, so that pixels can exceed 1.
    """

    def __init__(self, inputs: int, channels: int, *, side: int, widths: tuple[int, ...], doubling_kernel: int) -> None:
        super().__init__()
        self.maps = (16, side, side)
        self.dense = nn.Linear(inputs, 16 * side * side)
        self.norm = nn.BatchNorm2d(16, momentum=CONV_DECODER_MOMENTUM)
        doubling = [
            nn.ConvTranspose2d(n_in, n_out, doubling_kernel, 2, padding=1, output_padding=doubling_kernel % 2)
            for n_in, n_out in itertools.pairwise(widths)
        ]
        first = nn.ConvTranspose2d(16, widths[0], 3, padding=1)
        last = nn.ConvTranspose2d(widths[-1], channels, 3, padding=1)
        self.convs = nn.Sequential(first, *doubling, last)

    def forward(self, masked: Tensor) -> Tensor:
        """Draw images ``(batch, channels, h, w)`` from values ``(batch, inputs)``."""
        maps = self.dense(masked).relu().unflatten(1, self.maps)
        return torch.relu(self.convs(self.norm(maps)))


class UpsampleDecoder(nn.Module):
    """One map of 8×8, doubled three times, each time followed by a convolution without padding.

    Parameters
    ----------
    inputs, channels
        Values after masking, and channels of the image.
    slope
        Of the activation after these three convolutions, for negative values.
    align_corners
        Whether doubling keeps the corner pixels where they are, rather than the outer edges of the map.
    """

    def __init__(self, inputs: int, channels: int, *, slope: float, align_corners: bool) -> None:
        super().__init__()
        self.slope, self.align_corners = slope, align_corners
        self.dense = nn.Linear(inputs, 64)
        self.convs = nn.ModuleList(nn.Conv2d(n_in, n_out, 3) for n_in, n_out in ((1, 64), (64, 128), (128, 128)))
        self.last = nn.Conv2d(128, channels, 3)

    def forward(self, masked: Tensor) -> Tensor:
        """Draw images ``(batch, channels, 48, 48)`` from values ``(batch, inputs)``."""
        maps = self.dense(masked).unflatten(1, (1, 8, 8))
        for conv in self.convs:
            doubled = interpolate(maps, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
            maps = leaky_relu(conv(doubled), self.slope)
        return torch.sigmoid(self.last(maps))


# The deconvolution decoders of ``ethanleet/CapsNet``.
DECONV28 = Decoder("deconv28", partial(_deconv_layers, side=6, widths=(32, 64)), size=28, takes_norm=True)
DECONV32 = Decoder("deconv32", partial(_deconv_layers, side=4, widths=(32, 64, 128)), size=32, takes_norm=True)
# The decoders of ``bbussolino/Q-CapsNets`` for DeepCaps.
CONVDECODER28 = Decoder(
    "convdecoder28",
    lambda inputs, _, image, __: ConvDecoder(inputs, image[0], side=7, widths=(64, 32, 16), doubling_kernel=3),
    size=28,
)
CONVDECODER64 = Decoder(
    "convdecoder64",
    lambda inputs, _, image, __: ConvDecoder(inputs, image[0], side=8, widths=(64, 32, 16, 8), doubling_kernel=4),
    size=64,
)
# The decoder of ``EscVM/Efficient-CapsNet`` for smallNORB, and how ``matthiasware/EfficientCN`` has it.
UPSAMPLE48 = Decoder(
    "upsample48",
    lambda inputs, _, image, __: UpsampleDecoder(inputs, image[0], slope=0.2, align_corners=False),
    size=48,
)
UPSAMPLE48_ALIGNED = Decoder(
    "upsample48-aligned",
    lambda inputs, _, image, __: UpsampleDecoder(inputs, image[0], slope=0.3, align_corners=True),
    size=48,
)
