"""The optimizer of a training run."""

from __future__ import annotations

import torch
from torch import nn

from qcaps.config.train import TrainConfig


def optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters that are not frozen."""
    learning = [p for p in network.parameters() if p.requires_grad]
    # Efficient-CapsNet trains with this epsilon; PyTorch's 1e-8 differs only where gradients vanish.
    return torch.optim.Adam(learning, lr=config.lr, eps=1e-7)
