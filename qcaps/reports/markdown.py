"""The report of a quantization as Markdown, short enough for the job summary of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcaps.config.sizes import format_size
from qcaps.errors import one_line
from qcaps.reports.quantization import QuantizationReport, QuantizedModel, Score

# A step summary above 1 MiB is dropped as a whole, and a comment ends at 65,536 characters.
CHARACTER_LIMIT = 60_000
ROW_LIMIT = 200


def markdown(report: QuantizationReport) -> str:
    """Write a report: verdict and promises first, then figures, layers and how they came about."""
    parts = [
        f"# {report.verdict[:1].upper()}{report.verdict[1:]}\n\n{report.message}\n",
        "## Promises\n\n" + _table(("promise", "limit", "found", "kept"), _promise_rows(report)),
        "## Figures\n\n" + _table(("", *_columns(report)), _figure_rows(report)),
        _routing(report),
        *(f"> **Warning:** {_escaped(warning)}\n" for warning in report.warnings),
        "## Layers\n\n" + _layers(report),
        "## How it was found\n\n" + _table(("", ""), [(k, _escaped(v)) for k, v in sorted(report.search.items())]),
        "## Inputs and versions\n\n"
        + _table(("", ""), [(k, _escaped(v)) for k, v in {**report.inputs, **report.versions}.items()]),
    ]
    text = "\n".join(parts)
    return text if len(text) <= CHARACTER_LIMIT else text[: CHARACTER_LIMIT - 40] + "\n\nCut; see report.json.\n"


def percent(share: float) -> str:
    """Write a share as percent with two decimals."""
    return f"{100 * share:.2f} %"


def _promise_rows(report: QuantizationReport) -> Iterable[Sequence[str]]:
    for p in report.promises:
        limit, found = (
            (format_size(int(p.limit)), format_size(int(p.found)))
            if p.unit == "bytes"
            else (f"{p.limit:g}", f"{p.found:g}")
        )
        unit = "" if p.unit == "bytes" else f" {p.unit}"
        yield p.name, limit + unit, found + unit, "yes" if p.kept else "**no**"


def _columns(report: QuantizationReport) -> tuple[str, ...]:
    return ("float", *(model.file for model in report.result))


def _figure_rows(report: QuantizationReport) -> list[Sequence[str]]:
    models = report.result
    search, final = report.baseline["search"], report.baseline["report"]
    float_bytes = models[0].float_bytes

    def row(name: str, first: str, of: Iterable[str]) -> Sequence[str]:
        return (name, first, *of)

    return [
        row("bits", "32", (str(m.bits) for m in models)),
        row("file", "", (format_size(m.file_bytes) for m in models)),
        row("weight payload", format_size(float_bytes), (_payload(m) for m in models)),
        row("activations per image", "", (_activations(m) for m in models)),
        row(
            f"accuracy, {search.split} ({search.images} images)",
            percent(search.accuracy),
            (percent(m.search.score.accuracy) for m in models),
        ),
        row(
            f"accuracy, {final.split} ({final.images} images)",
            _interval(final),
            (_interval(m.report.score) for m in models),
        ),
        row(f"lost / gained, {search.split}", "", (f"{m.search.lost} / {m.search.gained}" for m in models)),
        row(f"lost / gained, {final.split}", "", (f"{m.report.lost} / {m.report.gained}" for m in models)),
        row("claim at 95 %", "", (m.report.comparison.verdict for m in models)),
        row(
            "smallest drop this split can show",
            "",
            (f"{100 * m.report.comparison.minimum_detectable_drop:.2f} pp" for m in models),
        ),
    ]


def _payload(model: QuantizedModel) -> str:
    return f"{format_size(model.payload_bytes)} ({model.weight_ratio:.2f}x smaller)"


def _activations(model: QuantizedModel) -> str:
    return f"{format_size(round(model.activation_bytes))} ({model.activation_ratio:.2f}x smaller)"


def _interval(score: Score) -> str:
    low, high = score.interval
    return f"{percent(score.accuracy)} ({100 * low:.2f} to {100 * high:.2f})"


def _routing(report: QuantizationReport) -> str:
    uniform = report.uniform_routing
    return (
        f"With all coupling coefficients equal the quantized network scores {percent(uniform.quantized_accuracy)} and "
        f"the float one {percent(uniform.float_accuracy)}.\n"
    )


def _layers(report: QuantizationReport) -> str:
    rows = [
        (
            layer.site,
            layer.group,
            str(layer.bits),
            "" if layer.scale is None else str(layer.scale),
            f"{layer.values:,}",
            format_size(round(layer.bytes)),
            percent(layer.saturated),
        )
        for layer in report.layers[:ROW_LIMIT]
    ]
    table = _table(("site", "group", "bits", "scale", "values", "bytes", "saturated"), rows)
    left = len(report.layers) - len(rows)
    return table + (f"\n{left} more rows in report.json\n" if left else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def _escaped(value: object) -> str:
    """Write a value so that it cannot break out of a table cell."""
    return one_line(str(value)).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
