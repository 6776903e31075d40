"""Layers of the backbones: convolution, batch norm and ReLU, alone or in the blocks of ResNet-50 and MobileNetV1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from qcaps.capsules.sites import Sites


@dataclass(frozen=True)
class BatchNormSpec:
    """Numbers of a batch norm, momentum in PyTorch's sense."""

    eps: float
    momentum: float


class ConvNorm(nn.Module):
    """A convolution, batch norm and ReLU; an odd kernel is padded so that a stride of 1 keeps the size.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride
        Of the convolution.
    norm
        None once the norm is folded into the convolution, which has a bias only then.
    depthwise
        One filter per channel.
    relu, max_pool
        What follows the norm; the maximum is over 3×3 with stride 2.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int = 1,
        norm: BatchNormSpec | None,
        depthwise: bool = False,
        relu: bool = True,
        max_pool: bool = False,
    ) -> None:
        super().__init__()
        self.relu, self.max_pool = relu, max_pool
        self.conv = nn.Conv2d(
            channels_in,
            channels_out,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=channels_in if depthwise else 1,
            bias=norm is None,
        )
        self.norm = None if norm is None else nn.BatchNorm2d(channels_out, norm.eps, norm.momentum)
        roles = ["weight", "bias"] if norm is None else ["weight"]
        self.sites = Sites("out", weights={role: f"conv.{role}" for role in roles})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h', w')``."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        x = self.sites("out", x.relu_() if self.relu else x)
        return max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.max_pool else x


class Bottleneck(nn.Module):
    """Three convolutions with a path around them, as in ResNet-50.

    Parameters
    ----------
    channels_in
        Of the input.
    widths
        Output channels of the 1×1, the 3×3 and the last 1×1 convolution.
    stride
        Of the 3×3 convolution, as torchvision has it; the paper puts it into the first one.
    downsample
        Whether the path around is a 1×1 convolution rather than the input as it is.
    norm
        See :class:`ConvNorm`.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", 2016, figure 5.
    """

    def __init__(
        self,
        channels_in: int,
        widths: tuple[int, int, int],
        *,
        stride: int,
        downsample: bool,
        norm: BatchNormSpec | None,
    ) -> None:
        super().__init__()
        first, second, out = widths
        self.conv1 = ConvNorm(channels_in, first, kernel_size=1, norm=norm)
        self.conv2 = ConvNorm(first, second, kernel_size=3, stride=stride, norm=norm)
        self.conv3 = ConvNorm(second, out, kernel_size=1, norm=norm, relu=False)
        self.downsample: ConvNorm | None = None
        if downsample:
            self.downsample = ConvNorm(channels_in, out, kernel_size=1, stride=stride, norm=norm, relu=False)
        self.sites = Sites("sum_out")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h', w')``; its site lies after the ReLU of the sum."""
        residual = self.conv3(self.conv2(self.conv1(x)))
        around = x if self.downsample is None else self.downsample(x)
        return self.sites("sum_out", torch.relu(residual + around))


class SeparableConv(nn.Module):
    """A 3×3 convolution of every channel by itself, then a 1×1 convolution over them.

    Parameters
    ----------
    channels_in, channels_out, norm
        See :class:`ConvNorm`.
    stride
        Of the depthwise convolution.

    References
    ----------
    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017, figure 3.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, norm: BatchNormSpec | None) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels_in, channels_in, kernel_size=3, stride=stride, norm=norm, depthwise=True)
        self.pointwise = ConvNorm(channels_in, channels_out, kernel_size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h', w')``."""
        x = self.pointwise(self.depthwise(x))
        return x


class MeanClassifier(nn.Module):
    """The mean over the map and a linear layer to logits: the end of a plain network.

    Parameters
    ----------
    channels, classes
        Inputs and outputs of the linear layer.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)
        self.sites = Sites("input", "out", weights={"weight": "linear.weight", "bias": "linear.bias"})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, channels, h, w)`` to the logits, ``(batch, classes, 1)`` and ``(batch, classes)``."""
        logits = self.sites("out", self.linear(self.sites("input", x.mean((2, 3)))))
        return logits.unsqueeze(2), logits
