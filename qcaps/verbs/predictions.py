"""What ``qcaps eval --predictions`` writes: a line for every image of every file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qcaps.artifacts.writing import atomic_write
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import Measurement
from qcaps.verbs.outcome import make_folder

COLUMNS = ("file", "index", "label", "prediction", "correct", "score", "score_of_label")


@dataclass(frozen=True, eq=False)
class Predicted:
    """One file on some images: what it predicted, and its class scores, shape ``(n, classes)``."""

    file: str
    images: ImageSet
    measured: Measurement
    scores: Tensor


def write_predictions(path: Path, predicted: Sequence[Predicted]) -> None:
    """Write a line for every image; an index is the place of an image in its source.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in predicted:
        writer.writerows(_rows(one))
    make_folder(path.parent)
    atomic_write(path, text.getvalue().encode(errors="replace"))


def _rows(one: Predicted) -> Iterator[tuple[object, ...]]:
    names = one.images.class_names
    guesses, labels = one.measured.predictions.tolist(), one.measured.labels.tolist()
    scores = _score_texts(one, guesses, labels)
    for index, label, guess, score in zip(one.images.indices.tolist(), labels, guesses, scores, strict=True):
        yield one.file, index, names[label], names[guess], int(label == guess), *score


def _score_texts(one: Predicted, guesses: Sequence[int], labels: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Give the score of the prediction and that of the label."""
    rows = torch.arange(len(labels))
    for pair in zip(one.scores[rows, guesses].tolist(), one.scores[rows, labels].tolist(), strict=True):
        yield f"{pair[0]:.6g}", f"{pair[1]:.6g}"
