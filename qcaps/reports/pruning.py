"""The report of a pruning: plain data, from which every page is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qcaps.evaluation.statistics import PairedComparison
from qcaps.reports.image_facts import ImageFacts
from qcaps.reports.quantization import Score
from qcaps.training.state import EpochRecord

SCHEMA = "qcaps.prune/1"

# What a network is on its way; the last one is the baseline, which keeps as many units of each kind.
Stand = Literal["unpruned", "cut", "recalibrated", "fine-tuned", "random units, recalibrated"]


@dataclass(frozen=True)
class Seen:
    """What a network makes of some images.

    Parameters
    ----------
    score, loss
        Images recognised, and the mean of the loss that it is trained with.
    comparison
        With the unpruned network, image by image, no drop accepted; None of that itself.
    """

    score: Score
    loss: float
    comparison: PairedComparison | None


@dataclass(frozen=True)
class Milestone:
    """A network on its way, on the images that chose the winner and on those of the report."""

    stand: Stand
    validation: Seen
    test: Seen


@dataclass(frozen=True)
class Change:
    """A cost before and after, and the share that is kept."""

    before: int
    after: int
    kept: float


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after; activations are the bytes of its arrays in single precision."""

    name: str
    macs: Change
    parameters: Change
    activation_bytes: Change


@dataclass(frozen=True)
class WidthChange:
    """One kind of unit: how many there were and how many stay."""

    unit: str
    before: int
    kept: int


@dataclass(frozen=True)
class CandidateRow:
    """A candidate of the search.

    Parameters
    ----------
    number, origin
        See :class:`~qcaps.pruning.candidates.Candidate`.
    score, error
        Mean over the scoring images, less is better, and the standard error of its difference to the best one.
    top1
        Share of the scoring images recognised.
    shares
        Kind of target → share that is kept.
    """

    number: int
    origin: str
    score: float
    error: float
    top1: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class FinalistRow:
    """A candidate that was fine-tuned: choosing images recognised before and after; epoch 0 if it was best before."""

    number: int
    widths: Mapping[str, int]
    images: int
    recalibrated_correct: int
    correct: int
    best_epoch: int
    won: bool


@dataclass(frozen=True)
class ImagesUsed:
    """Some images: split, how many, their hash, and their places in the training file, ascending."""

    split: str
    images: int
    sha256: str
    indices: str


@dataclass(frozen=True)
class PruneSearch:
    """How the search went.

    Parameters
    ----------
    targets
        Kind → share to keep.
    counting, importance, by_l1, scope, sampler, recalibration, criterion, seed
        How costs were counted, units ranked (some by l1 where the importance says nothing of them), strategies drawn,
        and candidates recalibrated and scored.
    calibration, scoring, choosing
        Images that each of this was done with.
    ranked
        All candidates, best first.
    tied
        How many that were not fine-tuned are within a standard error of the last that was.
    image_forwards
        Scoring images times candidates.
    stopped_early
        What ended it before it was done, or nothing.
    """

    targets: Mapping[str, float]
    counting: str
    importance: str
    by_l1: tuple[str, ...]
    scope: str
    sampler: str
    recalibration: str
    criterion: str
    seed: int
    calibration: ImagesUsed
    scoring: ImagesUsed
    choosing: ImagesUsed
    ranked: tuple[CandidateRow, ...]
    tied: int
    image_forwards: int
    stopped_early: str


@dataclass(frozen=True)
class Timed:
    """Median milliseconds of a batch before and after, and the least and the most."""

    batch_size: int
    before_ms: float
    after_ms: float
    before_range_ms: tuple[float, float]
    after_range_ms: tuple[float, float]
    device: str
    threads: int


@dataclass(frozen=True)
class PruningReport:
    """Everything that is known after a pruning.

    Parameters
    ----------
    message
        The result in one line.
    file, sha256
        Of the checkpoint.
    milestones, by_chance
        In the order in which the network came about, the result last; and the baseline beside it.
    cost
        ``MACs``, ``parameters``, ``weight bytes``, ``activation bytes``, ``activation bytes at their peak``,
        ``capsules`` and ``file bytes``.
    layers, widths
        Every layer, and every kind of unit.
    capsules
        Layer → ``types``, ``dims`` and ``positions`` that are left.
    finalists, rank_correlation
        The candidates that were fine-tuned, best first, and whether their scores foresaw their order: 1 if so.
    finetuning, history
        Every option of the fine-tuning, and its epochs.
    search
        How the strategy was found.
    images
        What the network makes of the test images, before and after.
    first
        Name and hash of the first checkpoint of the chain.
    run
        What differs between identical runs, times among it; None in a reproducible report.
    """

    message: str
    file: str
    sha256: str
    milestones: tuple[Milestone, ...]
    by_chance: Milestone
    cost: Mapping[str, Change]
    layers: tuple[LayerChange, ...]
    widths: tuple[WidthChange, ...]
    capsules: Mapping[str, Mapping[str, int]]
    finalists: tuple[FinalistRow, ...]
    rank_correlation: float | None
    finetuning: Mapping[str, object]
    history: tuple[EpochRecord, ...]
    search: PruneSearch
    images: ImageFacts
    first: Mapping[str, str]
    warnings: tuple[str, ...]
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    run: Mapping[str, object] | None


def to_document(report: PruningReport) -> dict[str, object]:
    """Turn a report into plain data for JSON."""
    document = {"schema": SCHEMA, **dataclasses.asdict(report)}
    if report.run is None:
        del document["run"]
    return document
