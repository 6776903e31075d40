"""What networks make of the images of a split: lengths, confusions, the wrong ones, and a panel to reconstruct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qcaps.capsules.losses import ClassLoss
from qcaps.data.images import ImageSet
from qcaps.evaluation.outputs import Outputs

BINS = 50
# Wrong images that a report names, and images whose reconstructions it shows.
MOST_WRONG, PANEL = 48, 32
# What the scores are that a network is trained with; logits have no length.
SCORE_NAMES: Mapping[ClassLoss, str] = {"margin": "length", "spread": "activation", "cross-entropy": ""}


@dataclass(frozen=True)
class Lengths:
    """Class capsules by length, in 50 equal bins on [0, 1]: that of the label, the longest other one, and the rest."""

    label: tuple[int, ...]
    strongest_other: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True)
class Confusion:
    """How many images of one class are taken for another; both by their place among the class names."""

    label: int
    prediction: int
    images: int


@dataclass(frozen=True)
class NetworkFacts:
    """What one network makes of the images; `lengths` is None if its scores are logits."""

    name: str
    correct: int
    lengths: Lengths | None
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class WrongImage:
    """An image that the last network does not recognise.

    Parameters
    ----------
    index
        Its place in the source of the split.
    label, prediction
        By their place among the class names.
    label_score, score
        Of the label and of the prediction.
    lost
        Whether the first of several networks recognises it.
    """

    index: int
    label: int
    prediction: int
    label_score: float
    score: float
    lost: bool


@dataclass(frozen=True)
class PanelImage:
    """An image of the fixed panel; `errors`: network → mean squared error of the pixels drawn from its longest capsule.

    `label` and `prediction`, that of the last network, are places among the class names.
    """

    index: int
    label: int
    prediction: int
    errors: Mapping[str, float]


@dataclass(frozen=True)
class ImageFacts:
    """What networks make of the images of one split.

    Parameters
    ----------
    dataset, split, images, class_names, class_sizes
        The images.
    score_name
        What scores are: ``length``, ``activation``, or nothing for logits.
    networks
        In float first, the result last.
    wrong_images, wrong
        How many images the last network does not recognise, and those of the largest margins.
    panel
        Images that were reconstructed; empty without a decoder.
    """

    dataset: str
    split: str
    images: int
    class_names: tuple[str, ...]
    class_sizes: tuple[int, ...]
    score_name: str
    networks: tuple[NetworkFacts, ...]
    wrong_images: int
    wrong: tuple[WrongImage, ...]
    panel: tuple[PanelImage, ...] = ()


def image_facts(images: ImageSet, networks: Mapping[str, Outputs], loss: ClassLoss) -> ImageFacts:
    """Describe what networks said of the images of a split, all but the panel.

    Parameters
    ----------
    images
        In the order in which they were measured.
    networks
        Name → what was noted; the last one is the result, the first one what it is compared with.
    loss
        What they were trained with.
    """
    labels, names = images.labels, tuple(networks)
    scores = {name: noted.scores for name, noted in networks.items()}
    facts = tuple(_network_facts(name, scores[name], labels, loss) for name in names)
    before, after = scores[names[0]].argmax(1), scores[names[-1]].argmax(1)
    wrong = (after != labels).nonzero().flatten()
    return ImageFacts(
        dataset=images.dataset,
        split=images.split,
        images=len(images),
        class_names=images.class_names,
        class_sizes=tuple(labels.bincount(minlength=len(images.class_names)).tolist()),
        score_name=SCORE_NAMES[loss],
        networks=facts,
        wrong_images=len(wrong),
        wrong=tuple(_wrong(images, scores[names[-1]], before == labels, wrong)),
    )


def panel(labels: Tensor, seed: int) -> Tensor:
    """Choose the images of the fixed panel: by seed, spread over the classes.

    Parameters
    ----------
    labels
        Shape ``(n,)``.
    seed
        Of the draw.

    Returns
    -------
    Tensor
        Positions of at most 32 images, by class, shape ``(m,)``.
    """
    drawn = np.random.default_rng(seed).permutation(len(labels))
    classes = labels.numpy()[drawn]
    turn = np.zeros(len(drawn), dtype=np.int64)  # the how-manieth of its class an image is
    for label in np.unique(classes):
        mine = classes == label
        turn[mine] = np.arange(mine.sum())
    chosen = drawn[np.argsort(turn, kind="stable")[:PANEL]]
    return torch.from_numpy(chosen[np.lexsort((chosen, labels.numpy()[chosen]))])


def lengths_of(scores: Tensor, labels: Tensor) -> Lengths:
    """Count scores, shape ``(n, classes)``, by size; what lies outside of [0, 1] is in the first or the last bin."""
    bins = (scores.double() * BINS).floor().clamp(0, BINS - 1).long()
    places, label = torch.arange(len(labels)), labels[:, None]
    others = scores.scatter(1, label, -torch.inf)
    strongest = others.argmax(1) if scores.shape[1] > 1 else labels
    rest = torch.ones_like(scores, dtype=torch.bool)
    rest[places, labels] = False
    rest[places, strongest] = False

    def counts(chosen: Tensor) -> tuple[int, ...]:
        return tuple(chosen.flatten().bincount(minlength=BINS).tolist())

    return Lengths(counts(bins[places, labels]), counts(bins[places, strongest]), counts(bins[rest]))


def _network_facts(name: str, scores: Tensor, labels: Tensor, loss: ClassLoss) -> NetworkFacts:
    guesses, classes = scores.argmax(1), scores.shape[1]
    matrix = (labels * classes + guesses).bincount(minlength=classes**2).view(classes, classes)
    matrix.fill_diagonal_(0)
    found = [Confusion(label, guess, int(matrix[label, guess])) for label, guess in matrix.nonzero().tolist()]
    lengths = lengths_of(scores, labels) if SCORE_NAMES[loss] else None
    return NetworkFacts(name, int((guesses == labels).sum()), lengths, tuple(found))


def _wrong(images: ImageSet, scores: Tensor, were_right: Tensor, wrong: Tensor) -> list[WrongImage]:
    """Describe wrong images, those of the largest margins first."""
    of_label = scores[wrong, images.labels[wrong]]
    best, guesses = scores[wrong].max(1)
    order = torch.sort(best - of_label, descending=True, stable=True).indices[:MOST_WRONG]
    return [
        WrongImage(
            index=int(images.indices[wrong[i]]),
            label=int(images.labels[wrong[i]]),
            prediction=int(guesses[i]),
            label_score=float(of_label[i]),
            score=float(best[i]),
            lost=bool(were_right[wrong[i]]),
        )
        for i in order.tolist()
    ]
