"""The figures of quantized networks side by side: sizes, accuracies and what they allow one to claim."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.markdown_table import percent, points
from qcaps.reports.quantization import ClassChange, QuantizationReport, QuantizedModel, Score

Row = Sequence[str]


def figure_rows(report: QuantizationReport) -> list[Row]:
    """Give a row for every figure: its name, the float network, and every quantized one."""
    return [*_size_rows(report.result), *_accuracy_rows(report), *_claim_rows(report)]


def class_rows(models: Sequence[QuantizedModel]) -> list[Row]:
    """Give a row for every class of the report split: name, images, float accuracy, and the change in every network."""

    def change(found: ClassChange) -> str:
        return f"-{found.lost} / +{found.gained} ({points((found.gained - found.lost) / found.images, sign='+')})"

    return [
        (first.name, f"{first.images:,}", percent(first.correct / first.images), *map(change, (first, *others)))
        for first, *others in zip(*(model.classes for model in models), strict=True)
        if first.images
    ]


def _size_rows(models: Sequence[QuantizedModel]) -> list[Row]:
    first = models[0]
    row = _rows_of(models)
    return [
        row("bits per weight", "32", lambda m: f"{m.weight_bits:.2f}"),
        row("bits per activation", "32", lambda m: f"{m.activation_bits:.2f}"),
        row("file", "", lambda m: format_size(m.file_bytes)),
        row("weight payload", format_size(first.float_bytes), lambda m: _smaller(m.payload_bytes, m.weight_ratio)),
        row(
            "activations per image",
            format_size(first.float_activation_bytes),
            lambda m: _smaller(m.activation_bytes, m.activation_ratio),
        ),
        row(
            "activations at their peak",
            format_size(first.float_activation_peak_bytes),
            lambda m: _smaller(m.activation_peak_bytes, m.float_activation_peak_bytes / m.activation_peak_bytes),
        ),
        row(
            f"weights by {first.reference.label}",
            "",
            lambda m: _smaller(m.reference.weight_bytes, m.reference.weight_ratio),
        ),
        row("activations by the same", "", lambda m: f"{m.reference.activation_ratio:.2f}x smaller"),
    ]


def _accuracy_rows(report: QuantizationReport) -> list[Row]:
    search, final = report.baseline["search"], report.baseline["report"]
    row = _rows_of(report.result)
    return [
        row(
            f"accuracy, {search.split} ({search.images} images)",
            percent(search.accuracy),
            lambda m: percent(m.search.score.accuracy),
        ),
        row(
            f"accuracy, {final.split} ({final.images} images)",
            _interval(final),
            lambda m: _interval(m.report.score),
        ),
        row(f"lost / gained, {search.split}", "", lambda m: f"{m.search.lost} / {m.search.gained}"),
        row(f"lost / gained, {final.split}", "", lambda m: f"{m.report.lost} / {m.report.gained}"),
        row(
            f"best of {report.search.plans_tried} plans: likely too high on {search.split} by",
            "",
            lambda m: points(m.winners_curse),
        ),
    ]


def _claim_rows(report: QuantizationReport) -> list[Row]:
    """Say what the flips on the report split allow one to claim."""
    row = _rows_of(report.result)
    at = f"at {report.confidence:g} %"
    return [
        row(
            "drop, and the drop accepted",
            "",
            lambda m: f"{points(m.report.comparison.drop)}, {points(m.report.margin)}",
        ),
        row(f"drop at most, {at}", "", lambda m: points(m.report.comparison.bound)),
        row(f"claim {at}", "", lambda m: m.report.comparison.verdict),
        row("standard error of the drop", "", lambda m: points(m.report.comparison.standard_error)),
        row("McNemar p", "", lambda m: f"{m.report.comparison.mcnemar_p:.3g}"),
        row(
            "smallest drop this split can show",
            "",
            lambda m: points(m.report.comparison.minimum_detectable_drop),
        ),
    ]


def _rows_of(models: Iterable[QuantizedModel]) -> Callable[[str, str, Callable[[QuantizedModel], str]], Row]:
    return lambda name, first, of: (name, first, *map(of, models))


def _smaller(size_bytes: float, ratio: float) -> str:
    return f"{format_size(round(size_bytes))} ({ratio:.2f}x smaller)"


def _interval(score: Score) -> str:
    low, high = score.interval
    return f"{percent(score.accuracy)} ({100 * low:.2f} to {100 * high:.2f})"
