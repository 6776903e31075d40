"""Learning rate and losses by the progress of training: functions of the step or epoch and plain numbers."""

from __future__ import annotations

import bisect
import math

from qcaps.capsules.losses import HARD_MARGINS, NORMAL_MARGINS, PUBLISHED_WEIGHTS, Margins, spread_margin
from qcaps.config.train import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Give the learning rate of a step: what the schedule says, never below the floor, times the share of the warm-up.

    Parameters
    ----------
    config
        `decay_per` says what a decay period counts: steps (smooth, as Q-CapsNets) or whole epochs (as
        Efficient-CapsNet). The cosine counts the steps after the warm-up.
    step
        Steps finished since the start of training.
    steps_per_epoch
        Steps in one epoch.
    """
    warmup = config.warmup * (1 if config.warmup_per == "step" else steps_per_epoch)
    rate = max(config.lr * _share(config, step, steps_per_epoch, warmup), config.lr_floor)
    return rate * (step + 1) / warmup if step < warmup else rate


def _share(config: TrainConfig, step: int, steps_per_epoch: int, warmup: int) -> float:
    """Give what the schedule leaves of the first learning rate."""
    epoch = step // steps_per_epoch
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        progress = max(step - warmup, 0) / max(config.epochs * steps_per_epoch - warmup, 1)
        return (1 + math.cos(math.pi * progress)) / 2
    periods = (step if config.decay_per == "step" else epoch) / config.decay_steps
    if config.schedule == "step":
        periods = bisect.bisect(config.milestones, epoch) if config.milestones else math.floor(periods)
    share: float = config.decay_rate**periods
    return share


def reconstruction_weight(config: TrainConfig, epoch: int) -> float:
    """Give the weight of the reconstruction loss in an epoch, counted from 0.

    References
    ----------
    The two annealings are those of ethanleet/CapsNet.
    """
    given = config.regularization_scale
    weight = PUBLISHED_WEIGHTS[config.reconstruction] if given is None else given
    if config.anneal_reconstruction == "1":
        return weight * (math.tanh((epoch + 1) / 8 - math.pi) + 1) / 2
    return weight * math.tanh((epoch + 1) / 16) if config.anneal_reconstruction == "2" else weight


def margins(config: TrainConfig, epoch: int) -> Margins:
    """Give the margins of an epoch, counted from 0: hard ones in the last half, rounded down, if asked for."""
    first_hard = config.epochs - config.epochs // 2
    return HARD_MARGINS if config.hard_training and epoch >= first_hard else NORMAL_MARGINS


def epoch_spread_margin(config: TrainConfig, epoch: int) -> float:
    """Give the margin of the spread loss in an epoch, counted from 0: it rises evenly from the first to the last."""
    return spread_margin(epoch / max(config.epochs - 1, 1))
