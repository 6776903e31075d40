"""Convolutions in front of the capsules."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from qcaps.capsules.sites import Sites

Norm = Literal["none", "batch", "instance"]
NormOrder = Literal["after_activation", "before_activation"]


class FeatureConv(nn.Module):
    """A convolution, an activation and possibly a norm.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride, padding
        Of the convolution.
    slope
        Of the activation for negative values: 0 is ReLU.
    norm
        ``none`` once a batch norm is folded into the next layer.
    norm_eps, norm_momentum, norm_affine
        Of the norm; momentum in PyTorch's sense, unused by an instance norm.
    norm_order
        Whether the norm comes after the activation or before it.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        slope: float = 0.0,
        norm: Norm = "none",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        norm_affine: bool = True,
        norm_order: NormOrder = "after_activation",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size, stride, padding)
        self.norm: nn.Module | None = None
        if norm == "batch":
            self.norm = nn.BatchNorm2d(channels_out, norm_eps, norm_momentum, affine=norm_affine)
        elif norm == "instance":
            self.norm = nn.InstanceNorm2d(channels_out, norm_eps, affine=norm_affine)
        self.slope, self.norm_first = slope, norm_order == "before_activation"
        self.sites = Sites("out", weights={"weight": "conv.weight", "bias": "conv.bias"})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in, h, w)`` to ``(batch, out, h', w')``."""
        x = self.conv(x)
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        # In place, for a pass over the maps costs as much as a small convolution.
        x = x.relu_() if self.slope == 0 else leaky_relu(x, self.slope, inplace=True)
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        return self.sites("out", x)
