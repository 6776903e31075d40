"""The figures of a quantization as rows of text, from which every page makes its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.markdown_table import percent, points
from qcaps.reports.quantization import (
    ClassChange,
    QuantizationReport,
    QuantizedModel,
    RoutingChange,
    Score,
    UniformRouting,
)
from qcaps.reports.search_facts import SearchFacts, SearchRow

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


def search_rows(report: QuantizationReport) -> list[Row]:
    """Give a row for every figure of the searches that are compared; seconds belong to the run."""
    known = (report.run or {}).get("search_seconds")
    seconds = known if isinstance(known, dict) else {}

    def row(name: str, of: Callable[[SearchRow], str]) -> Row:
        return (name, *map(of, report.comparison))

    return [
        row("satisfied", lambda s: "yes" if s.satisfied else "no"),
        row("file", lambda s: format_size(s.file_bytes)),
        row("weight payload", lambda s: f"{format_size(s.payload_bytes)} ({s.weight_ratio:.2f}x)"),
        row("activations per image", lambda s: f"{format_size(round(s.activation_bytes))} ({s.activation_ratio:.2f}x)"),
        row("bits per weight / activation", lambda s: f"{s.weight_bits:.2f} / {s.activation_bits:.2f}"),
        row(
            f"accuracy, {report.baseline['search'].split}",
            lambda s: f"{percent(s.search_accuracy)} ({s.net_losses} lost net)",
        ),
        row("image-forwards", lambda s: f"{s.image_forwards:,}"),
        row("without early rejection", lambda s: f"{s.without_rejection:,}"),
        row("and nothing remembered", lambda s: f"{s.whole:,}"),
        row("seconds", lambda s: f"{seconds[s.key]:.1f}" if s.key in seconds else ""),
    ]


def uniform_sentence(uniform: UniformRouting) -> str:
    """Say what both networks score without routing."""
    return (
        f"With all coupling coefficients equal the quantized network scores {percent(uniform.quantized_accuracy)} and "
        f"the float one {percent(uniform.float_accuracy)}."
    )


def routing_rows(routing: RoutingChange) -> list[Row]:
    """Give a row for every figure of every site of the routing: its name, the site, and both networks."""
    return [
        (
            name,
            change.site,
            f"{change.in_float:.4f}",
            "" if change.quantized is None else f"{change.quantized:.4f}",
        )
        for name, changes in (("entropy of coupling", routing.entropy), ("share of zero logits", routing.zero_logits))
        for change in changes
    ]


def search_facts_rows(search: SearchFacts) -> Mapping[str, str]:
    """Say how a search went, by name."""
    found = {
        "search": search.strategy,
        "rounding": search.rounding,
        "scales": f"one per {search.scales}",
        "seeds": ", ".join(map(str, search.seeds)),
        "plans tried": f"{search.plans_tried:,}",
        "image-forwards": f"{search.image_forwards:,}",
        "without early rejection": f"{search.without_rejection:,}",
        "and nothing remembered": f"{search.whole:,}",
        "the sequential search of Q-CapsNets, at least": f"{search.sequential:,}",
        "stopped early": search.stopped_early or "no",
        "evaluated with": search.evaluation_path,
        "batch norms folded": "yes" if search.batch_norm_folded else "no",
        "channels balanced, biases corrected": "yes" if search.prepared else "no",
    }
    return found | {name.replace("_", " "): str(value) for name, value in sorted(search.details.items())}


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
