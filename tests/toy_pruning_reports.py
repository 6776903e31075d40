"""Reports of prunings that never happened, with figures of one's choice."""

from __future__ import annotations

import dataclasses

from toy_reports import toy_images

from qcaps.evaluation.statistics import compare_paired
from qcaps.reports.pruning import (
    CandidateRow,
    Change,
    FinalistRow,
    ImagesUsed,
    LayerChange,
    Milestone,
    PruneSearch,
    PruningReport,
    Seen,
    Stand,
    Timed,
    WidthChange,
)
from qcaps.reports.quantization import Score
from qcaps.training.state import EpochRecord

WIDTHS = {"conv1.channels": (32, 20), "primary.types": (16, 16), "primary.dims": (8, 6)}


def toy_seen(correct: int, *, images: int = 1000, split: str = "test", lost: int | None = None) -> Seen:
    """Describe what a network recognises of 1,000 images; `lost` is None of the unpruned one."""
    score = Score(split, images, correct, correct / images, (0.25, 0.75))
    compared = None if lost is None else compare_paired(lost=lost, gained=3, images=images, margin=0.0)
    return Seen(score, 0.0625, compared)


def toy_milestone(stand: Stand, correct: int, lost: int | None = None) -> Milestone:
    """Describe a network on its way."""
    half = None if lost is None else lost // 2
    validation = toy_seen(correct // 2, images=500, split="validation", lost=half)
    return Milestone(stand, validation, toy_seen(correct, lost=lost))


def toy_finalist(number: int, correct: int, *, won: bool = False) -> FinalistRow:
    """Describe a candidate that was fine-tuned."""
    kept = {unit: kept for unit, (_, kept) in WIDTHS.items()} | {"conv1.channels": 20 + number}
    return FinalistRow(number, kept, 500, correct - 20, correct, 2, won)


def toy_candidate(number: int, score: float, origin: str = "drawn") -> CandidateRow:
    """Describe a candidate."""
    return CandidateRow(number, origin, score, 0.001, 0.9, {"flops": 0.4995, "params": 0.61})


def toy_epoch(epoch: int, correct: int) -> EpochRecord:
    """Describe an epoch of a training."""
    return EpochRecord(epoch, 0.001 / epoch, 0.5 / epoch, 40.0 / epoch, correct, 500)


def toy_pruning(**changes: object) -> PruningReport:
    """Describe a pruning with three finalists."""
    report = PruningReport(
        message="pruned: 50.0 % of the MACs kept",
        file="checkpoint.pt",
        sha256="ab" * 32,
        milestones=(
            toy_milestone("unpruned", 960),
            toy_milestone("cut", 400, 561),
            toy_milestone("recalibrated", 900, 63),
            toy_milestone("fine-tuned", 958, 5),
        ),
        by_chance=toy_milestone("random units, recalibrated", 700, 263),
        cost={"MACs": Change(30_000, 15_000, 0.5), "weight bytes": Change(650_000, 325_000, 0.5)},
        layers=(LayerChange("conv1", Change(9_000, 4_500, 0.5), Change(800, 400, 0.5), Change(64, 32, 0.5)),),
        widths=tuple(WidthChange(unit, before, kept) for unit, (before, kept) in WIDTHS.items()),
        capsules={"primary": {"types": 16, "dims": 6}},
        finalists=(toy_finalist(4, 480), toy_finalist(0, 482, won=True), toy_finalist(7, 470)),
        rank_correlation=0.5,
        finetuning={"epochs": 3, "weight_decay": 0.0},
        search=PruneSearch(
            targets={"flops": 0.5},
            counting="qcaps",
            importance="coupling",
            by_l1=("conv1.channels",),
            scope="layerwise",
            sampler="bisection",
            recalibration="batch-norm",
            criterion="loss",
            seed=42,
            calibration=ImagesUsed("train", 2560, "cd" * 32, "3 5 8"),
            scoring=ImagesUsed("validation", 2000, "ef" * 32, "1 2"),
            choosing=ImagesUsed("validation", 500, "01" * 32, "4 6"),
            ranked=(
                toy_candidate(4, 0.11),
                toy_candidate(0, 0.12),
                toy_candidate(7, 0.135, "improved from 4"),
                toy_candidate(1, 0.4),
            ),
            tied=1,
            image_forwards=8_000,
            stopped_early="",
        ),
        history=(toy_epoch(1, 470), toy_epoch(2, 482)),
        images=toy_images(),
        first={"file": "a.pt", "sha256": "23" * 32},
        warnings=(),
        inputs={"checkpoint": "a.pt"},
        versions={"torch": "2.10"},
        run={
            "seconds": 1.5,
            "latency": [dataclasses.asdict(Timed(100, 40.0, 25.0, (39.0, 44.5), (24.5, 30.0), "cpu", 2))],
        },
    )
    return dataclasses.replace(report, **changes)
