"""Learning rate and loss by the progress of training."""

from __future__ import annotations

import math

from qcaps.capsules.losses import HARD_MARGINS, NORMAL_MARGINS, Margins, spread_margin
from qcaps.config.train import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Give the learning rate of a step, never below the floor: lr · rate^(t / period), or half a cosine down to 0.

    Parameters
    ----------
    config
        `decay_per` says what t counts: steps (smooth, as Q-CapsNets) or whole epochs (as Efficient-CapsNet). The cosine
        counts steps.
    step
        Steps finished since the start of training.
    steps_per_epoch
        Steps in one epoch.
    """
    if config.schedule == "cosine":
        progress = step / (config.epochs * steps_per_epoch)
        return max(config.lr * (1 + math.cos(math.pi * progress)) / 2, config.lr_floor)
    t = step if config.decay_per == "step" else step // steps_per_epoch
    decay: float = config.decay_rate ** (t / config.decay_steps)
    return max(config.lr * decay, config.lr_floor)


def margins(config: TrainConfig, epoch: int) -> Margins:
    """Give the margins of an epoch, counted from 0: hard ones in the last half, rounded down, if asked for."""
    first_hard = config.epochs - config.epochs // 2
    return HARD_MARGINS if config.hard_training and epoch >= first_hard else NORMAL_MARGINS


def epoch_spread_margin(config: TrainConfig, epoch: int) -> float:
    """Give the margin of the spread loss in an epoch, counted from 0: it rises evenly from the first to the last."""
    return spread_margin(epoch / max(config.epochs - 1, 1))
