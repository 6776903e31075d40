"""An ensemble: several networks score the same images, and the mean of their class scores decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.errors import UsageError
from qcaps.evaluation.measure import Predict, in_blocks, measure
from qcaps.evaluation.statistics import wilson_interval
from qcaps.models.network import Output
from qcaps.progress import OnProgress
from qcaps.quantization.artifact import predictions_sha256
from qcaps.quantization.loading import Loaded


@dataclass(frozen=True)
class EnsembleScore:
    """What several files reach together; accuracy is a share of 1, with its 95 % interval."""

    files: tuple[str, ...]
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    predictions_sha256: str


def check_ensemble(members: Sequence[Loaded]) -> None:
    """Refuse networks whose scores have no mean.

    Raises
    ------
    UsageError
        If there are not at least two, or they are trained with different losses or for different images or classes.
    """
    if len(members) < 2:
        raise UsageError("an ensemble has at least two members", where="--ensemble", do="name more files")
    first, *others = members
    for other in others:
        if other.network.loss != first.network.loss:
            what = f"its scores are for the {other.network.loss} loss, those of {first.path} for {first.network.loss}"
            raise UsageError(what, where=str(other.path), do="leave it out of the ensemble")


def score_together(
    members: Sequence[Loaded],
    images: Sequence[ImageSet],
    *,
    batch_size: int,
    seed: int | None = None,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> EnsembleScore:
    """Score images by the mean of the class scores of several networks.

    Parameters
    ----------
    members
        Checked, see :func:`check_ensemble`.
    images
        As each member wants them prepared: the same images.
    batch_size, on_progress, stop
        As for :func:`~qcaps.evaluation.measure.measure`.
    seed
        Of stochastic rounding; None takes that of each artifact.

    Raises
    ------
    UsageError
        If two members see different images.
    StoppedError
        If `stop` said so.
    """
    for member, own in zip(members[1:], images[1:], strict=True):
        if own.sha256() != images[0].sha256():
            what = f"it sees other images than {members[0].path}, or prepared in another way"
            raise UsageError(what, where=str(member.path), do="leave it out of the ensemble")
    predict = mean_predictor([class_scores(member, seed) for member in members])
    found = measure(
        predict, images[0], batch_size=batch_size, phase="evaluate together", on_progress=on_progress, stop=stop
    )
    files = tuple(str(member.path) for member in members)
    interval = wilson_interval(found.correct, found.images)
    sha256 = predictions_sha256(found.predictions)
    return EnsembleScore(files, found.images, found.correct, found.accuracy, interval, sha256)


def mean_predictor(members: Sequence[Predict]) -> Predict:
    """Make the candidate that predicts the class with the largest mean score; of equals the lowest index."""

    def predict(pixels: Tensor, indices: Tensor) -> Tensor:
        scores = torch.stack([member(pixels, indices).double() for member in members])  # (members, batch, classes)
        return scores.mean(0).argmax(1)

    return predict


def class_scores(member: Loaded, seed: int | None) -> Predict:
    """Make what gives the class scores ``(batch, classes)`` of a network; of logits their softmax."""
    network, rounder = member.network, None if member.artifact is None else member.artifact.rounder(seed)

    def scores(pixels: Tensor, indices: Tensor) -> Tensor:
        output: Output = network(pixels) if rounder is None else rounder.forward(network, pixels, indices)
        return output.scores.softmax(1) if network.loss == "cross-entropy" else output.scores

    return in_blocks(network, scores)


def ensemble_line(e: EnsembleScore) -> str:
    """Tell people about an ensemble."""
    low, high = (100 * end for end in e.interval)
    score = f"{100 * e.accuracy:.2f} % ({e.correct} of {e.images}; 95 %: {low:.2f} to {high:.2f})"
    return f"the {len(e.files)} files together, by the mean of their class scores: accuracy {score}"
