"""The report of a quantization as Markdown, short enough for the job summary of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from qcaps.config.sizes import format_size
from qcaps.reports.figures import (
    class_rows,
    figure_rows,
    routing_rows,
    search_facts_rows,
    search_rows,
    uniform_sentence,
)
from qcaps.reports.markdown_table import escaped, markdown_table, percent
from qcaps.reports.promises import HEAD, promise_row
from qcaps.reports.quantization import Layer, QuantizationReport
from qcaps.reports.search_facts import SearchFacts

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
        _section("Promises", HEAD, map(_no_in_bold, map(promise_row, report.promises))),
        _section("Figures", ("", "float", *files), figure_rows(report)),
        *(f"> **Warning:** {escaped(warning)}\n" for warning in report.warnings),
        *_comparison(report),
        _routing(report),
        _section(
            f"Classes, {final.split}", ("class", "images", "float", *files), class_rows(report.result)[:ROW_LIMIT]
        ),
        _layers(report),
        _section("How it was found", ("", ""), _escaped_rows(search_facts_rows(report.search))),
        _section("Inputs and versions", ("", ""), _escaped_rows({**report.inputs, **report.versions})),
    ]
    text = "\n".join(parts)
    return text if len(text) <= CHARACTER_LIMIT else text[: CHARACTER_LIMIT - 40] + "\n\nCut; see report.json.\n"


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"## {title}\n\n{markdown_table(head, rows)}"


def _escaped_rows(facts: Mapping[str, str]) -> list[Sequence[str]]:
    return [(escaped(name), escaped(value)) for name, value in facts.items()]


def _stopped(search: SearchFacts) -> Iterator[str]:
    if search.stopped_early:
        why = escaped(search.stopped_early)
        yield f"> **Stopped early: {why}.** This is the best that was found until then.\n"


def _comparison(report: QuantizationReport) -> Iterator[str]:
    """Compare searches, figure by figure."""
    if report.comparison:
        head = ("", *(row.key for row in report.comparison))
        yield _section("Searches", head, map(_no_in_bold, search_rows(report)))


def _no_in_bold(row: Sequence[str]) -> list[str]:
    return ["**no**" if cell == "no" else cell for cell in row]


def _routing(report: QuantizationReport) -> str:
    rows = routing_rows(report.routing)
    head = (f"{report.routing.images} search images", "site", "float", "quantized")
    table = f"\n{markdown_table(head, rows)}" if rows else ""
    return f"## Routing\n\n{uniform_sentence(report.uniform_routing)}\n{table}"


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
