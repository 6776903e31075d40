"""Losses of capsule networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from qcaps.capsules.squash import at_least_float32

# What scores are trained with: lengths the margin loss, EM activations the spread loss, logits cross-entropy.
ClassLoss = Literal["margin", "spread", "cross-entropy"]
# Sum of squares, mean of squares, sum of absolute values: of the differences of all pixels.
PixelLoss = Literal["sse", "mse", "l1"]
# Of Sabour et al., Efficient-CapsNet (the same at 28×28 pixels: 0.0005·784) and ethanleet/CapsNet.
PUBLISHED_WEIGHTS: Mapping[PixelLoss, float] = {"sse": 0.0005, "mse": 0.392, "l1": 0.0005}


@dataclass(frozen=True)
class Margins:
    """Constants of the margin loss: m⁺, m⁻ and the weight λ of absent classes."""

    present: float
    absent: float
    absent_weight: float


NORMAL_MARGINS = Margins(0.9, 0.1, 0.5)
# Hard training of Q-CapsNets, used in the second half of the epochs when asked for.
HARD_MARGINS = Margins(0.95, 0.05, 0.8)
# A narrow margin at first keeps capsules from dying early.
FIRST_SPREAD_MARGIN, LAST_SPREAD_MARGIN = 0.2, 0.9
# Probabilities this close to 0 or 1 are taken for certain, so that one class alone cannot make a divergence infinite.
CERTAIN = 1e-4
# Lengths and activations stand for logits once multiplied by this: 0.9 against 0.1 are odds of 3,000 to 1.
SHARPNESS = 10.0


def class_loss(
    kind: ClassLoss,
    scores: Tensor,
    labels: Tensor,
    *,
    margins: Margins = NORMAL_MARGINS,
    spread_margin: float = LAST_SPREAD_MARGIN,
) -> Tensor:
    """Compute the loss of every image that a network is trained with.

    Parameters
    ----------
    kind
        The loss.
    scores
        Of the network, shape ``(batch, classes)``.
    labels
        True classes, shape ``(batch,)``.
    margins, spread_margin
        Of the margin loss and of the spread loss; by default those at the end of training.

    Returns
    -------
    Tensor
        Shape ``(batch,)``.
    """
    if kind == "cross-entropy":
        return cross_entropy(at_least_float32(scores), labels, reduction="none")
    if kind == "spread":
        return spread_loss(scores, labels, spread_margin)
    return margin_loss(scores, labels, margins)


def divergence(kind: ClassLoss, target: Tensor, scores: Tensor) -> Tensor:
    """Compute how far the scores of a network are from those of another: the Kullback-Leibler divergence.

    Parameters
    ----------
    kind
        What both are trained with. The softmax of logits is one distribution over the classes; lengths and activations
        are the probabilities of as many presences, whose divergences add up.
    target, scores
        Of the network to come close to and of the other, shape ``(batch, classes)``.

    Returns
    -------
    Tensor
        In nats, shape ``(batch,)``.
    """
    if kind == "cross-entropy":
        return ranking_divergence(kind, target, scores)
    p, q = (at_least_float32(each).clamp(CERTAIN, 1 - CERTAIN) for each in (target, scores))
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)


def ranking_divergence(kind: ClassLoss, target: Tensor, scores: Tensor) -> Tensor:
    """Compute how far a network is from choosing classes as another does, whatever the scale of its scores.

    Parameters
    ----------
    kind
        What both are trained with; lengths and activations are sharpened first.
    target, scores
        Of the network to come close to and of the other, shape ``(batch, classes)``.

    Returns
    -------
    Tensor
        Kullback-Leibler divergence of the softmax over the classes, in nats, shape ``(batch,)``.

    References
    ----------
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    sharpness = 1.0 if kind == "cross-entropy" else SHARPNESS
    expected, found = ((sharpness * at_least_float32(each)).log_softmax(1) for each in (target, scores))
    return (expected.exp() * (expected - found)).sum(1)


def margin_loss(scores: Tensor, labels: Tensor, margins: Margins = NORMAL_MARGINS) -> Tensor:
    """Compute the margin loss of every image.

    Parameters
    ----------
    scores
        Lengths of the class capsules, shape ``(batch, classes)``.
    labels
        True classes, shape ``(batch,)``.
    margins
        Normal or hard.

    Returns
    -------
    Tensor
        Shape ``(batch,)``.

    References
    ----------
    Sabour, Frosst and Hinton, "Dynamic Routing Between Capsules", 2017, eq. 4.
    """
    present = one_hot(labels, scores.shape[1]).to(scores.dtype)
    missed = (margins.present - scores).clamp_min(0).square()
    false_alarm = (scores - margins.absent).clamp_min(0).square()
    return (present * missed + margins.absent_weight * (1 - present) * false_alarm).sum(1)


def spread_loss(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Compute the spread loss of every image, Σ over the other classes j of max(0, margin − (a_true − a_j))².

    Parameters
    ----------
    scores
        Activations of the class capsules, shape ``(batch, classes)``.
    labels
        True classes, shape ``(batch,)``.
    margin
        How far the true class should be ahead; see :func:`spread_margin`.

    Returns
    -------
    Tensor
        Shape ``(batch,)``.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, eq. 3.
    """
    lead = scores.gather(1, labels.unsqueeze(1)) - scores  # (batch, classes)
    others = 1 - one_hot(labels, scores.shape[1]).to(scores.dtype)
    return (others * (margin - lead).clamp_min(0).square()).sum(1)


def spread_margin(progress: float) -> float:
    """Give the margin of the spread loss, rising evenly from 0.2 to 0.9 as `progress` goes from 0 to 1.

    References
    ----------
    Hinton, Sabour and Frosst, "Matrix capsules with EM routing", 2018, section 4.1.
    """
    return FIRST_SPREAD_MARGIN + progress * (LAST_SPREAD_MARGIN - FIRST_SPREAD_MARGIN)


def reconstruction_loss(reconstructions: Tensor, images: Tensor, kind: PixelLoss = "sse") -> Tensor:
    """Compute the error of the reconstruction of every image: ``(batch, c, h, w)`` twice → ``(batch,)``."""
    apart = (reconstructions.float() - images).flatten(1)
    if kind == "l1":
        return apart.abs().sum(1)
    return apart.square().mean(1) if kind == "mse" else apart.square().sum(1)
