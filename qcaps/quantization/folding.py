"""Fold batch norms into the next convolution, where that is exact."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, build


def fold_batch_norms(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Fold every batch norm that the network declares foldable, and drop the decoder.

    Parameters
    ----------
    spec, tensors
        A trained network.

    Returns
    -------
    tuple
        The spec of the folded network and its tensors, computed in float64. In evaluation mode the outputs agree
        with the network as it was, up to the rounding of floats.

    Notes
    -----
    With a = γ/√(σ² + ε) and d = β − a·μ, a norm in front of a convolution without padding becomes weights · a
    per input channel and a bias larger by Σ weights · d. With padding the border would see 0 instead of d.
    """
    network = build(spec)
    folded = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
    for normalised, following in network.folds:
        _fold(network, normalised, following, folded)
    return spec.folded().without_decoder(), folded


def _fold(network: CapsuleNetwork, normalised: str, following: str, tensors: dict[str, Tensor]) -> None:
    """Move the norm of one stage into the convolution of the next, in place."""
    norm, conv = network.stages[normalised].norm, network.stages[following].conv
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    assert conv.padding == (0, 0)
    gamma, beta, mean, variance = (
        tensors.pop(f"stages.{normalised}.norm.{part}").double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / (variance + norm.eps).sqrt()  # (channels,)
    shift = beta - scale * mean
    weight = tensors[f"stages.{following}.conv.weight"].double()  # (out, in per group, rows, columns)
    bias = tensors[f"stages.{following}.conv.bias"].double()
    depthwise = conv.groups > 1
    by_input = (-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)
    tensors[f"stages.{following}.conv.weight"] = (weight * scale.view(by_input)).float()
    added = (weight * shift.view(by_input)).sum((1, 2, 3))  # (out,)
    tensors[f"stages.{following}.conv.bias"] = (bias + added).to(torch.float32)
