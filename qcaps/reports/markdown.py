"""The report of a quantization as Markdown, short enough for the job summary of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.figures import class_rows, figure_rows
from qcaps.reports.markdown_table import escaped, markdown_table, percent
from qcaps.reports.quantization import Layer, QuantizationReport
from qcaps.reports.search_facts import SearchFacts, SearchRow

# A step summary above 1 MiB is dropped as a whole, and a comment ends at 65,536 characters.
CHARACTER_LIMIT = 60_000
ROW_LIMIT = 200


def markdown(report: QuantizationReport) -> str:
    """Write a report: verdict and promises first, then figures, layers and how they came about."""
    files = [model.file for model in report.result]
    final = report.baseline["report"]
    parts = [
        f"# {report.verdict[:1].upper()}{report.verdict[1:]}\n\n{report.message}\n",
        *_stopped(report.search),
        _section("Promises", ("promise", "limit", "found", "kept"), _promise_rows(report)),
        _section("Figures", ("", "float", *files), figure_rows(report)),
        *(f"> **Warning:** {escaped(warning)}\n" for warning in report.warnings),
        *_comparison(report),
        _routing(report),
        _section(
            f"Classes, {final.split}", ("class", "images", "float", *files), class_rows(report.result)[:ROW_LIMIT]
        ),
        _layers(report),
        _section("How it was found", ("", ""), _search_rows(report.search)),
        _section(
            "Inputs and versions", ("", ""), [(k, escaped(v)) for k, v in {**report.inputs, **report.versions}.items()]
        ),
    ]
    text = "\n".join(parts)
    return text if len(text) <= CHARACTER_LIMIT else text[: CHARACTER_LIMIT - 40] + "\n\nCut; see report.json.\n"


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"## {title}\n\n{markdown_table(head, rows)}"


def _stopped(search: SearchFacts) -> Iterator[str]:
    if search.stopped_early:
        why = escaped(search.stopped_early)
        yield f"> **Stopped early: {why}.** This is the best that was found until then.\n"


def _promise_rows(report: QuantizationReport) -> Iterator[Sequence[str]]:
    for p in report.promises:
        limit, found = (
            (format_size(int(p.limit)), format_size(int(p.found)))
            if p.unit == "bytes"
            else (f"{p.limit:.6g} {p.unit}", f"{p.found:.6g} {p.unit}")
        )
        yield p.name, limit, found, "yes" if p.kept else "**no**"


def _comparison(report: QuantizationReport) -> Iterator[str]:
    """Compare searches, figure by figure; seconds belong to the run."""
    if not report.comparison:
        return
    known = (report.run or {}).get("search_seconds")
    seconds = known if isinstance(known, dict) else {}

    def column(row: SearchRow) -> list[str]:
        return [
            "yes" if row.satisfied else "**no**",
            format_size(row.file_bytes),
            f"{format_size(row.payload_bytes)} ({row.weight_ratio:.2f}x)",
            f"{format_size(round(row.activation_bytes))} ({row.activation_ratio:.2f}x)",
            f"{row.weight_bits:.2f} / {row.activation_bits:.2f}",
            f"{percent(row.search_accuracy)} ({row.net_losses} lost net)",
            f"{row.image_forwards:,}",
            f"{row.without_rejection:,}",
            f"{row.whole:,}",
            f"{seconds[row.key]:.1f}" if row.key in seconds else "",
        ]

    names = (
        "satisfied",
        "file",
        "weight payload",
        "activations per image",
        "bits per weight / activation",
        f"accuracy, {report.baseline['search'].split}",
        "image-forwards",
        "without early rejection",
        "and nothing remembered",
        "seconds",
    )
    rows = zip(names, *map(column, report.comparison), strict=True)
    yield _section("Searches", ("", *(row.key for row in report.comparison)), rows)


def _routing(report: QuantizationReport) -> str:
    uniform, routing = report.uniform_routing, report.routing
    text = (
        f"With all coupling coefficients equal the quantized network scores {percent(uniform.quantized_accuracy)} and "
        f"the float one {percent(uniform.float_accuracy)}.\n"
    )
    rows = [
        (name, change.site, f"{change.in_float:.4f}", "" if after is None else f"{after:.4f}")
        for name, changes in (("entropy of coupling", routing.entropy), ("share of zero logits", routing.zero_logits))
        for change in changes
        for after in (change.quantized,)
    ]
    table = markdown_table((f"{routing.images} search images", "site", "float", "quantized"), rows) if rows else ""
    return f"## Routing\n\n{text}" + (f"\n{table}" if table else "")


def _layers(report: QuantizationReport) -> str:
    shown = report.layers[:ROW_LIMIT]
    head = ("site", "group", "bits", "integer bits", "values", "bytes", "saturated", "sensitivity")
    left = len(report.layers) - len(shown)
    return _section(f"Layers of {report.result[0].file}", head, map(_layer_row, shown)) + (
        f"\n{left} more rows in report.json\n" if left else ""
    )


def _layer_row(layer: Layer) -> Sequence[str]:
    return (
        layer.site,
        layer.group,
        str(layer.bits),
        "" if layer.scales is None else "…".join(map(str, dict.fromkeys(layer.scales))),
        f"{layer.values:,}",
        format_size(round(layer.bytes)),
        percent(layer.saturated),
        "" if layer.sensitivity is None else f"{layer.sensitivity:.2e}",
    )


def _search_rows(search: SearchFacts) -> list[Sequence[str]]:
    rows = {
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
        **{name.replace("_", " "): value for name, value in sorted(search.details.items())},
    }
    return [(escaped(name), escaped(value)) for name, value in rows.items()]
