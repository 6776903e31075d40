"""Short tuning: a few gradient steps, as many for every candidate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qcaps.capsules.losses import class_loss
from qcaps.data.images import ImageSet
from qcaps.models.network import CapsuleNetwork

LEARNING_RATE = 1e-3


def tune(network: CapsuleNetwork, batches: Sequence[ImageSet]) -> None:
    """Learn once from every batch, by the network's own class loss and Adam.

    Parameters
    ----------
    network
        In evaluation mode, which it keeps: norms keep their statistics. Its stages are given parameters of their own,
        so that no other network is changed.
    batches
        Calibration images.
    """
    places = [name.rpartition(".") for name, _ in network.stages.named_parameters()]
    tuned = [_own(network.stages.get_submodule(path), name) for path, _, name in places]
    optimizer = torch.optim.Adam(tuned, lr=LEARNING_RATE, eps=1e-7)
    for batch in batches:
        images, labels = batch.prepared().to(tuned[0].device), batch.labels.to(tuned[0].device)
        torch.autograd.backward(class_loss(network.loss, network(images).scores, labels).mean())
        optimizer.step()
        optimizer.zero_grad()
    network.requires_grad_(requires_grad=False)


def _own(module: nn.Module, name: str) -> nn.Parameter:
    """Replace a parameter by a copy that learns."""
    copy = nn.Parameter(module.get_parameter(name).detach().clone())
    setattr(module, name, copy)
    return copy
