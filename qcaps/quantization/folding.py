"""Fold batch norms into the convolution before or behind them, where that is exact."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from qcaps.models.network import CapsuleNetwork, Fold
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
        The spec of the folded network and its tensors, computed in float64 and rounded to the type they had. In
        evaluation mode the outputs agree with the network as it was, up to that rounding.

    Notes
    -----
    With a = γ/√(σ² + ε) and d = β − a·μ, a norm behind a convolution becomes weights · a per output channel and the
    bias a·bias + d. A norm in front of one without padding becomes weights · a per input channel and a bias larger by
    Σ weights · d; with padding the border would see 0 instead of d.
    """
    network = build(spec)
    folded = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.")}
    for fold in network.folds:
        _fold(network, fold, folded)
    return spec.folded().without_decoder(), folded


def _fold(network: CapsuleNetwork, fold: Fold, tensors: dict[str, Tensor]) -> None:
    """Move one norm into its convolution, in place; whichever of them comes first in the network runs first."""
    norm, conv = network.stages.get_submodule(fold.norm), network.stages.get_submodule(fold.conv)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(conv, nn.Conv2d)
    gamma, beta, mean, variance = (
        tensors.pop(f"stages.{fold.norm}.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / (variance + norm.eps).sqrt()  # (channels,)
    shift = beta - scale * mean
    stored = tensors[f"stages.{fold.conv}.weight"]
    weight = stored.double()  # (out, in per group, rows, columns)
    bias = tensors.get(f"stages.{fold.conv}.bias", stored.new_zeros(len(stored))).double()
    order = [path for path, _ in network.stages.named_modules()]
    if order.index(fold.conv) < order.index(fold.norm):
        weight = weight * scale.view(-1, 1, 1, 1)
        bias = scale * bias + shift
    else:
        assert conv.padding == (0, 0)
        by_input = (-1, 1, 1, 1) if conv.groups > 1 else (1, -1, 1, 1)
        bias = bias + (weight * shift.view(by_input)).sum((1, 2, 3))
        weight = weight * scale.view(by_input)
    tensors[f"stages.{fold.conv}.weight"] = weight.to(stored.dtype)
    tensors[f"stages.{fold.conv}.bias"] = bias.to(stored.dtype)
