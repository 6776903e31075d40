"""The pages of reports that never happened."""

from __future__ import annotations

import dataclasses

import torch
from toy_pruning_reports import toy_epoch, toy_pruning
from toy_reports import toy_images, toy_report

from qcaps.evaluation.cost import StageCost
from qcaps.evaluation.latency import Latency
from qcaps.reports.evaluation import ClassScore, Evaluation
from qcaps.reports.html.evaluation import evaluation_page
from qcaps.reports.html.pruning import pruning_page
from qcaps.reports.html.quantization import quantization_page
from qcaps.reports.html.training import TrainingFacts, training_page
from qcaps.reports.image_facts import PanelImage
from qcaps.reports.pictures import Pictures, png

PANEL = (PanelImage(5, 1, 0, {"satisfied.pt": 0.25}),)
STAGES = (
    StageCost("conv1", 320, 72_000, 18_432, ((32, 24, 24),)),
    StageCost("class_caps", 5120, 9_000, 160, ((10, 16),)),
)


def toy_pictures() -> Pictures:
    """Draw a wrong image and one of the panel."""
    picture = png(torch.arange(64, dtype=torch.uint8).view(1, 8, 8))
    return Pictures({17: picture, 3: picture}, {5: picture}, ("the image",), ("the image", "what is left out"), 8, 8)


def toy_training(**changes: object) -> TrainingFacts:
    """Describe a training of three epochs, the second of which is the best."""
    facts = TrainingFacts(
        file="checkpoint.pt",
        model="efficient-capsnet",
        dataset="digits",
        parameters=5440,
        stages=STAGES,
        history=(toy_epoch(1, 400), toy_epoch(2, 480), toy_epoch(3, 470)),
        best_epoch=2,
        options={"epochs": 3, "lr": 0.001},
        versions={"torch": "2.10"},
    )
    return dataclasses.replace(facts, **changes)


def toy_evaluation(file: str = "runs/a/checkpoint.pt", **changes: object) -> Evaluation:
    """Describe what a file scores on 1,000 images of two classes."""
    entry = Evaluation(
        file=file,
        sha256="ab" * 32,
        kind="checkpoint",
        model="efficient-capsnet",
        dataset="digits",
        split="test",
        note="",
        images=1000,
        correct=895,
        accuracy=0.895,
        interval=(0.874, 0.913),
        per_class=(ClassScore("zero", 400, 376), ClassScore("one", 600, 519)),
        predictions_sha256="cd" * 32,
        parameters=5440,
        macs=81_000,
        stages=STAGES,
        weight_bytes=21_760,
        file_bytes=30_000,
        facts=toy_images(panel=PANEL),
    )
    return dataclasses.replace(entry, **changes)


def toy_latency() -> tuple[Latency, ...]:
    """Describe how fast a network is."""
    return (Latency(batch_size=1, batches=7, median_ms=2.5, images_per_second=400.0),)


PAGES = {
    "quantization": lambda: quantization_page(toy_report(images=toy_images(panel=PANEL)), toy_pictures()),
    "pruning": lambda: pruning_page(toy_pruning(images=toy_images(panel=PANEL)), toy_pictures()),
    "training": lambda: training_page(toy_training()),
    "evaluation": lambda: evaluation_page(
        [toy_evaluation(), toy_evaluation("runs/b/satisfied.pt")], [toy_pictures()] * 2, [toy_latency(), ()]
    ),
}
