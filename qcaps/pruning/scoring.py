"""Scores of candidates: how good a recalibrated network is before it was fine-tuned, image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcaps.capsules.losses import class_loss, divergence
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork

Criterion = Literal["loss", "margin", "kl"]


@dataclass(frozen=True, eq=False)
class Score:
    """What a network makes of the scoring images; less is better.

    Parameters
    ----------
    per_image
        By the criterion, float32, shape ``(n,)``.
    correct
        Images recognised.
    """

    per_image: Tensor
    correct: int

    @property
    def mean(self) -> float:
        """Give the mean over the images; infinite where a score is no number."""
        mean = float(self.per_image.double().mean())
        return math.inf if math.isnan(mean) else mean

    @property
    def top1(self) -> float:
        """Give the share of images recognised, in [0, 1]."""
        return self.correct / len(self.per_image)

    def error_against(self, other: Score) -> float:
        """Give the standard error of the mean difference to another score on the same images."""
        difference = (self.per_image - other.per_image).double()
        return float(difference.std(correction=1)) / math.sqrt(len(difference))


def class_scores(network: CapsuleNetwork, images: ImageSet) -> Tensor:
    """Run a network in evaluation mode over images: their class scores, shape ``(n, classes)``."""
    device = next(network.parameters()).device
    pixels = images.prepared()
    with torch.no_grad():
        blocks = pixels.chunk(even_blocks(network)(pixels))
        return torch.cat([network(block.to(device)).scores.float().cpu() for block in blocks])


def score(
    network: CapsuleNetwork,
    images: ImageSet,
    *,
    criterion: Criterion = "loss",
    unpruned: Tensor | None = None,
) -> Score:
    """Score a network.

    Parameters
    ----------
    network
        In evaluation mode.
    images
        The same for all candidates; neither calibration nor test images.
    criterion
        ``loss``, the network's own class loss as at the end of training: margin loss, spread loss or cross-entropy.
        ``margin``, by how much the best wrong class is ahead of the true one. ``kl``, the divergence from the unpruned
        network.
    unpruned
        Its :func:`class_scores` on these images, for ``kl``.
    """
    scores, labels = class_scores(network, images), images.labels
    if criterion == "kl":
        assert unpruned is not None
        per_image = divergence(network.loss, unpruned, scores)
    elif criterion == "margin":
        true = scores.gather(1, labels.unsqueeze(1))  # (n, 1)
        others = scores.scatter(1, labels.unsqueeze(1), -math.inf)
        per_image = others.amax(1) - true.squeeze(1)
    else:
        per_image = class_loss(network.loss, scores, labels)
    return Score(per_image, int((scores.argmax(1) == labels).sum()))


def tied_with_best(scores: Sequence[Score], k: int) -> list[int]:
    """List the k best and all that are not clearly worse, best first.

    Parameters
    ----------
    scores
        Of all candidates, on the same images.
    k
        At least 1.

    Returns
    -------
    list
        Their places. Beyond the first k, those whose mean is within one standard error of the k-th best, which is that
        of the paired difference. Where two means are equal the earlier candidate is better.
    """
    order = sorted(range(len(scores)), key=lambda place: scores[place].mean)
    sure, others = order[:k], order[k:]
    if not others:
        return sure
    last = scores[sure[-1]]
    close = (p for p in others if scores[p].mean - last.mean <= scores[p].error_against(last))
    return [*sure, *close]
