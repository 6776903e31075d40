"""Reports of quantizations that never happened, with figures of one's choice."""

from __future__ import annotations

import dataclasses

from qcaps.evaluation.statistics import compare_paired
from qcaps.reports.quantization import (
    Layer,
    Promise,
    QuantizationReport,
    QuantizedModel,
    Score,
    SplitResult,
    UniformRouting,
)

IMAGES = 1000


def toy_split(lost: int, allowed: int, *, gained: int = 0, split: str = "validation") -> SplitResult:
    """Describe a split of 1,000 images of which the float network recognises 900."""
    correct = 900 - lost + gained
    comparison = compare_paired(lost=lost, gained=gained, images=IMAGES, margin=allowed / IMAGES)
    score = Score(split, IMAGES, correct, correct / IMAGES, (0.85, 0.95))
    return SplitResult(score, lost, gained, allowed, lost - gained <= allowed, (correct,), comparison)


def toy_model(
    file: str = "satisfied.pt",
    *,
    bits: int = 4,
    file_bytes: int = 90_500,
    payload_bytes: int = 81_250,
    search: SplitResult | None = None,
    report: SplitResult | None = None,
) -> QuantizedModel:
    """Describe an artifact that keeps every promise unless told otherwise."""
    return QuantizedModel(
        file=file,
        sha256="ab" * 32,
        bits=bits,
        file_bytes=file_bytes,
        payload_bytes=payload_bytes,
        float_bytes=650_000,
        weight_ratio=8.0,
        activation_bytes=1234.5,
        activation_ratio=7.5,
        search=search or toy_split(5, 9, gained=2),
        report=report or toy_split(7, 10, gained=1, split="test"),
    )


def toy_layer(site: str, scale: int | None = 0) -> Layer:
    """Describe one site."""
    return Layer(site, "weights", "fixed_point", 4, scale, 12_345, 6173.0, 0.0125)


def toy_report(**changes: object) -> QuantizationReport:
    """Describe a quantization that went well unless told otherwise."""
    report = QuantizationReport(
        verdict="satisfied",
        message="satisfied: 4 bits in 90.500 kB",
        promises=(
            Promise("accuracy on the search split", 9, 3, "images lost", True),
            Promise("memory budget (file)", 100_000, 90_500, "bytes", True),
        ),
        baseline={
            "search": Score("validation", IMAGES, 900, 0.9, (0.88, 0.917)),
            "report": Score("test", IMAGES, 901, 0.901, (0.881, 0.918)),
        },
        result=(toy_model(),),
        layers=(toy_layer("conv1.weight"), toy_layer("class_caps.out", None)),
        search={"rounding": "truncation", "image_forwards": 6000},
        uniform_routing=UniformRouting(0.8123, 0.8456, "routing is on"),
        warnings=("the split is small",),
        inputs={"checkpoint": "a.pt"},
        versions={"torch": "2.10"},
        run={"seconds": 1.5},
    )
    return dataclasses.replace(report, **changes)
