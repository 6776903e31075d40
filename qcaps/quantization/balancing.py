"""Balance the channels between two convolutions: the same network, whose weights lose less when they are rounded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qcaps.models.spec import ModelSpec, build

# No channel is made larger or smaller by more than two to this power.
MOST_DOUBLINGS = 8


def balance_channels(spec: ModelSpec, tensors: Mapping[str, Tensor], *, per_channel: bool) -> dict[str, Tensor]:
    """Make the input channels of every chained convolution about equally large.

    Parameters
    ----------
    spec, tensors
        A network whose norms are folded.
    per_channel
        Whether every output channel will have a scale of its own: the convolution in front then takes any factor, and
        that behind is balanced fully. With one scale for a whole tensor the two share what is uneven.

    Returns
    -------
    dict
        All tensors. A channel is doubled behind a ReLU as often as it is halved in front of it, so that every score
        stays the same bit for bit.

    References
    ----------
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1, here
    with powers of two, and with root mean squares in place of ranges.
    """
    balanced = dict(tensors)
    # From the last one on, since what a convolution gives is scaled before what it is given.
    for chain in reversed(build(spec).chains):
        names = f"stages.{chain.first}.weight", f"stages.{chain.first}.bias", f"stages.{chain.second}.weight"
        front, bias, behind = (balanced[name] for name in names)
        factors = torch.exp2(_doublings(front, behind, per_channel=per_channel)).to(front.dtype)
        balanced[names[0]] = front / factors.view(-1, 1, 1, 1)
        balanced[names[1]] = bias / factors
        balanced[names[2]] = behind * factors.view(1, -1, 1, 1)
    return balanced


def _doublings(front: Tensor, behind: Tensor, *, per_channel: bool) -> Tensor:
    """Choose how often each channel is doubled behind; one without weights stays as it is."""
    inputs = behind.double().square().mean((0, 2, 3)).sqrt()  # (channels,)
    outputs = front.double().square().mean((1, 2, 3)).sqrt()
    used = (inputs > 0) & (outputs > 0)
    if not used.any():
        return torch.zeros_like(inputs)
    wanted = -torch.log2(inputs / inputs[used].median())
    if not per_channel:
        wanted = (wanted + torch.log2(outputs / outputs[used].median())) / 2
    return wanted.round().clamp(-MOST_DOUBLINGS, MOST_DOUBLINGS).where(used, 0.0)
