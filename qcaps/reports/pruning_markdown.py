"""The report of a pruning as Markdown, short enough for the job summary of a CI system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qcaps.reports.markdown import CHARACTER_LIMIT, ROW_LIMIT
from qcaps.reports.markdown_table import escaped, markdown_table, percent
from qcaps.reports.pruning import PruningReport
from qcaps.reports.pruning_figures import (
    COST_HEAD,
    FINALIST_HEAD,
    LATENCY_HEAD,
    LAYER_HEAD,
    Row,
    accuracy_head,
    accuracy_rows,
    cost_rows,
    finalist_rows,
    input_rows,
    latency_rows,
    layer_row,
    search_facts_rows,
)


def pruning_markdown(report: PruningReport) -> str:
    """Write a report: what became of the network first, then its costs, its widths and how they came about."""
    parts = [
        f"# Pruned\n\n{report.message}\n",
        *(f"> **Warning:** {escaped(warning)}\n" for warning in report.warnings),
        _section("Accuracy", accuracy_head(report), accuracy_rows(report)),
        _section("Cost of one image", COST_HEAD, cost_rows(report.cost)),
        *_latency(report),
        _widths(report),
        _layers(report),
        _section("Finalists", FINALIST_HEAD, finalist_rows(report)),
        _section("Fine-tuning", ("", ""), _plain_rows(report.finetuning)),
        _section("How it was found", ("", ""), _plain_rows(search_facts_rows(report))),
        _section("Inputs and versions", ("", ""), _plain_rows(input_rows(report))),
    ]
    text = "\n".join(parts)
    return text if len(text) <= CHARACTER_LIMIT else text[: CHARACTER_LIMIT - 40] + "\n\nCut; see report.json.\n"


def _section(title: str, head: Row, rows: Iterable[Row]) -> str:
    return f"## {title}\n\n{markdown_table(head, rows)}"


def _latency(report: PruningReport) -> Iterator[str]:
    if rows := latency_rows(report):
        yield _section("Latency, median and range", LATENCY_HEAD, rows)


def _widths(report: PruningReport) -> str:
    rows = [(w.unit, str(w.before), str(w.kept), percent(w.kept / w.before)) for w in report.widths]
    uncut = [w.unit for w in report.widths if w.kept == w.before]
    said = f"\nUncut: {', '.join(uncut)}.\n" if uncut else ""
    return _section("Kept widths", ("unit", "before", "after", "kept"), rows[:ROW_LIMIT]) + said


def _layers(report: PruningReport) -> str:
    left = len(report.layers) - ROW_LIMIT
    said = f"\n{left} more rows in report.json\n" if left > 0 else ""
    return _section("Layers", LAYER_HEAD, map(layer_row, report.layers[:ROW_LIMIT])) + said


def _plain_rows(facts: Mapping[str, object]) -> list[Row]:
    return [(escaped(name.replace("_", " ")), escaped(value)) for name, value in facts.items()]
