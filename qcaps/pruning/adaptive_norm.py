"""Adaptive batch norm: the running statistics of a cut network, measured anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qcaps.data.images import ImageSet
from qcaps.models.network import CapsuleNetwork

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def norms_behind_cuts(network: CapsuleNetwork) -> tuple[nn.BatchNorm2d, ...]:
    """List the batch norms whose running statistics a cut can shift: those of the first stage see what they saw."""
    _first, *others = network.stages.values()
    return tuple(norm for stage in others for norm in _norms(stage))


def adapt_norms(network: CapsuleNetwork, batches: Sequence[ImageSet]) -> None:
    """Forget the running statistics of all batch norms, and average those of some batches.

    Parameters
    ----------
    network
        In evaluation mode, which it keeps. Only the statistics are replaced; tensors it may share with other networks
        are left alone.
    batches
        Calibration images. Every batch counts the same, so their order does not matter.

    Notes
    -----
    EagleEye keeps the old statistics and gives every batch a tenth of the weight, so that about 19 batches count of
    the 102 it computes. Every norm normalises by its batch while it averages, as all in front of it do: one pass is
    enough.

    References
    ----------
    Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020, section 3.3.
    """
    norms = _norms(network.stages)
    stages = list(network.stages.values())
    last = max((place for place, stage in enumerate(stages) if _norms(stage)), default=-1)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        for name in STATISTICS:
            norm.register_buffer(name, torch.zeros_like(norm.get_buffer(name)))
        norm.momentum = None  # a cumulative average
        norm.train()
    device = next(network.parameters()).device
    with torch.no_grad():
        for batch in batches:
            value = batch.prepared().to(device)
            for stage in stages[: last + 1]:
                value = stage(value)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _norms(stage: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
