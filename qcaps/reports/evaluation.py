"""The report of an evaluation, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from qcaps.config.sizes import format_size
from qcaps.evaluation.cost import StageCost
from qcaps.evaluation.latency import Latency
from qcaps.reports.image_facts import ImageFacts
from qcaps.reports.quantization import Promise


@dataclass(frozen=True)
class ClassScore:
    """Images of one class, and how many of them were recognised."""

    name: str
    images: int
    correct: int


@dataclass(frozen=True)
class Evaluation:
    """What one file scores, weighs and costs.

    Parameters
    ----------
    file, sha256, kind, model
        The file, whether it is a ``checkpoint`` or an ``artifact``, and its architecture.
    dataset, split, note, images, correct, accuracy, interval
        The score, accuracy as a share of 1, with its 95 % interval; the note is what is to be said of the images beside
        it.
    per_class
        In the order of the labels.
    predictions_sha256
        Of all predictions in order: equal for two files that agree on every image.
    parameters, macs, stages
        Values to train, and multiply-accumulates of one image, in all and by stage.
    weight_bytes, file_bytes
        What the weights take, packed or in float, and the file on disk.
    facts
        What else it makes of the images.
    """

    file: str
    sha256: str
    kind: str
    model: str
    dataset: str
    split: str
    note: str
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    per_class: tuple[ClassScore, ...]
    predictions_sha256: str
    parameters: int
    macs: int
    stages: tuple[StageCost, ...]
    weight_bytes: int
    file_bytes: int
    facts: ImageFacts


def accuracy_promises(entries: Sequence[Evaluation], least: Decimal | None) -> tuple[Promise, ...]:
    """Judge every file by the least accuracy asked for, in percent; None asks for nothing."""
    if least is None:
        return ()
    return tuple(
        Promise(
            f"accuracy of {Path(e.file).name} on {e.dataset} {e.split}, at least",
            float(least),
            100 * e.accuracy,
            "%",
            100 * e.correct >= least * e.images,
        )
        for e in entries
    )


def evaluation_lines(e: Evaluation, latency: Sequence[Latency]) -> list[str]:
    """Tell people about one file, and how fast it was on one image and on a batch."""
    low, high = (100 * end for end in e.interval)
    per_class = "  ".join(f"{c.name} {100 * c.correct / max(c.images, 1):.2f}" for c in e.per_class)
    lines = [
        f"{e.file}: {e.kind}, {e.model} on {e.dataset} {e.split}",
        f"  accuracy     {100 * e.accuracy:.2f} % ({e.correct} of {e.images}; 95 %: {low:.2f} to {high:.2f})"
        + f"; {e.note}" * bool(e.note),
        f"  per class    {per_class}",
        f"  parameters   {e.parameters:,}",
        f"  MACs         {e.macs:,} per image",
        f"  weights      {format_size(e.weight_bytes)}",
        f"  file         {format_size(e.file_bytes)}",
    ]
    for timed in latency:
        name = "one image" if timed.batch_size == 1 else f"{timed.batch_size} images"
        lines.append(f"  latency      {timed.median_ms:.2f} ms for {name} ({timed.images_per_second:,.0f} images/s)")
    return lines
