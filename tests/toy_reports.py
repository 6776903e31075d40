"""Reports of quantizations that never happened, with figures of one's choice."""

from __future__ import annotations

import dataclasses

from qcaps.evaluation.statistics import compare_paired
from qcaps.reports.image_facts import BINS, Confusion, ImageFacts, Lengths, NetworkFacts, WrongImage
from qcaps.reports.quantization import (
    ClassChange,
    Layer,
    Promise,
    QuantizationReport,
    QuantizedModel,
    ReferenceCount,
    RoutingChange,
    Score,
    SiteChange,
    SplitResult,
    UniformRouting,
)
from qcaps.reports.search_facts import SearchFacts, SearchRow, Sensitivity, TriedPlan

IMAGES = 1000


def toy_split(
    lost: int, allowed: int, *, gained: int = 0, split: str = "validation", confidence: float = 0.95
) -> SplitResult:
    """Describe a split of 1,000 images of which the float network recognises 900."""
    correct, margin = 900 - lost + gained, allowed / IMAGES
    comparison = compare_paired(lost=lost, gained=gained, images=IMAGES, margin=margin, confidence=confidence)
    score = Score(split, IMAGES, correct, correct / IMAGES, (0.85, 0.95))
    return SplitResult(score, lost, gained, allowed, lost - gained <= allowed, (correct,), margin, comparison)


def toy_model(
    file: str = "satisfied.pt",
    *,
    weight_bits: float = 2.43,
    activation_bits: float = 5.06,
    file_bytes: int = 90_500,
    payload_bytes: int = 81_250,
    activation_bytes: float = 1234.5,
    search: SplitResult | None = None,
    report: SplitResult | None = None,
) -> QuantizedModel:
    """Describe an artifact that keeps every promise unless told otherwise."""
    return QuantizedModel(
        file=file,
        sha256="ab" * 32,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        file_bytes=file_bytes,
        payload_bytes=payload_bytes,
        float_bytes=650_000,
        weight_ratio=8.0,
        activation_bytes=activation_bytes,
        float_activation_bytes=9_260,
        activation_ratio=7.5,
        activation_peak_bytes=1000.0,
        float_activation_peak_bytes=8_000,
        reference=ReferenceCount(80_000.5, 8.1, 6.25, "reference accounting"),
        search=search or toy_split(5, 9, gained=2),
        report=report or toy_split(7, 10, gained=1, split="test"),
        winners_curse=0.00456,
        classes=(
            ClassChange("zero", 400, 380, 5, 1),
            ClassChange("one", 600, 521, 2, 0),
            ClassChange("none", 0, 0, 0, 0),
        ),
    )


def toy_layer(site: str, scales: tuple[int, int] | None = (0, 0), sensitivity: float | None = None) -> Layer:
    """Describe one site."""
    return Layer(site, "weights", "fixed_point", 4, scales, 12_345, 6173.0, 0.0125, sensitivity)


def toy_search(**changes: object) -> SearchFacts:
    """Describe how a search went."""
    facts = SearchFacts(
        strategy="pareto",
        rounding="truncation",
        scales="tensor",
        seeds=(42,),
        plans_tried=23,
        image_forwards=6_000,
        without_rejection=23_000,
        whole=24_000,
        sequential=15_000,
        stopped_early="",
        evaluation_path="float",
        batch_norm_folded=True,
        prepared=True,
        details={},
    )
    return dataclasses.replace(facts, **changes)


def toy_row(name: str = "pareto", **changes: object) -> SearchRow:
    """Describe one of several searches."""
    row = SearchRow(
        name=name,
        rounding="truncation",
        satisfied=True,
        weight_bits=2.43,
        activation_bits=5.06,
        file_bytes=90_500,
        payload_bytes=81_250,
        weight_ratio=8.0,
        activation_bytes=1234.5,
        activation_ratio=7.5,
        search_accuracy=0.897,
        net_losses=3,
        image_forwards=6_000,
        without_rejection=23_000,
        whole=24_000,
    )
    return dataclasses.replace(row, **changes)


def toy_lengths(label_bin: int) -> Lengths:
    """Describe class capsules, those of the labels all in one bin."""
    one_bin = tuple(IMAGES * (place == label_bin) for place in range(BINS))
    none, low = (0,) * BINS, (IMAGES, *(0,) * (BINS - 1))
    return Lengths(one_bin, low, none)


def toy_images(**changes: object) -> ImageFacts:
    """Describe what two networks make of 1,000 images of two classes: one is taken for the other 99 and 105 times."""
    facts = ImageFacts(
        dataset="digits",
        split="test",
        images=IMAGES,
        class_names=("zero", "one"),
        class_sizes=(400, 600),
        score_name="length",
        networks=(
            NetworkFacts("float", 901, toy_lengths(45), (Confusion(0, 1, 20), Confusion(1, 0, 79))),
            NetworkFacts("satisfied.pt", 895, toy_lengths(40), (Confusion(0, 1, 24), Confusion(1, 0, 81))),
        ),
        wrong_images=105,
        wrong=(WrongImage(17, 1, 0, 0.25, 0.875, True), WrongImage(3, 0, 1, 0.5, 0.75, False)),
    )
    return dataclasses.replace(facts, **changes)


def toy_plan(payload_bytes: int, lost: int, *, seen: int = IMAGES, **changes: object) -> TriedPlan:
    """Describe a plan that was tried and may lose 9 images."""
    plan = TriedPlan(
        rounding="truncation",
        phase="front",
        payload_bytes=payload_bytes,
        activation_bytes=1234.5,
        seen=seen,
        lost=lost,
        gained=0,
        passed=lost <= 9,
        certain=True,
        on_front=False,
        chosen=False,
    )
    return dataclasses.replace(plan, **changes)


def toy_report(**changes: object) -> QuantizationReport:
    """Describe a quantization that went well unless told otherwise."""
    report = QuantizationReport(
        verdict="satisfied",
        message="satisfied: 2.4 bits a weight",
        promises=(
            Promise("accuracy on the search split", 9, 3, "images lost", True),
            Promise("memory budget (file)", 100_000, 90_500, "bytes", True),
        ),
        confidence=95.0,
        baseline={
            "search": Score("validation", IMAGES, 900, 0.9, (0.88, 0.917)),
            "report": Score("test", IMAGES, 901, 0.901, (0.881, 0.918)),
        },
        result=(toy_model(),),
        layers=(toy_layer("conv1.weight"), toy_layer("class_caps.out", None)),
        search=toy_search(),
        comparison=(),
        uniform_routing=UniformRouting(0.8123, 0.8456, "routing is on"),
        routing=RoutingChange(
            256,
            (SiteChange("class_caps.coupling@1", 1.0, 0.98765), SiteChange("class_caps.coupling@2", 0.75, None)),
            (SiteChange("class_caps.logits@1", 0.0, 0.5),),
        ),
        candidates=(
            toy_plan(120_000, 2),
            toy_plan(100_000, 4),
            toy_plan(90_000, 12, seen=64),
            toy_plan(95_000, 11),
            toy_plan(81_250, 5, on_front=True, chosen=True),
        ),
        sensitivity=(
            Sensitivity("conv1.weight", "weights", 800, (4,), {2: 36.0, 3: 9.0, 4: 1.25, 8: 0.0, 16: 0.0}, (2, 4)),
            Sensitivity("class_caps.out", "activations", 160, (8,), {2: 4.0, 4: 0.5, 8: 0.01, 16: 0.0}, (2, 4, 8)),
        ),
        images=toy_images(),
        warnings=("the split is small",),
        inputs={"checkpoint": "a.pt"},
        versions={"torch": "2.10"},
        run={"seconds": 1.5},
    )
    return dataclasses.replace(report, **changes)
