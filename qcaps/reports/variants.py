"""The variants of a recipe side by side: what each kept, how accurate it is and how small."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcaps.config.sizes import format_size
from qcaps.reports.markdown_table import percent
from qcaps.reports.quantization import SCHEMA
from qcaps.reports.typeset import Cell, typeset

HEAD = ("variant", "verdict", "accuracy", "lost / gained", "bits W / A", "file", "weights")


@dataclass(frozen=True)
class VariantRow:
    """One variant; figures are those of its last quantization, None where it has none.

    Parameters
    ----------
    name, verdict
        As the matrix names it; ``done`` where nothing was promised.
    accuracy, lost, gained
        On the report split.
    weight_bits, activation_bits, file_bytes, weight_ratio
        See :class:`~qcaps.reports.quantization.QuantizedModel`.
    """

    name: str
    verdict: str
    accuracy: float | None = None
    lost: int | None = None
    gained: int | None = None
    weight_bits: float | None = None
    activation_bits: float | None = None
    file_bytes: int | None = None
    weight_ratio: float | None = None


def variant_row(name: str, documents: Sequence[Mapping[str, object]], exit_code: int) -> VariantRow:
    """Take the figures of a variant out of the documents of its steps."""
    reports = [document for document in documents if document.get("schema") == SCHEMA and document.get("result")]
    if not reports:
        return VariantRow(name, "not kept" if exit_code else "done")
    result = _first(reports[-1].get("result"))
    report = _mapping(result.get("report"))
    score = _mapping(report.get("score"))
    return VariantRow(
        name,
        str(reports[-1].get("verdict")),
        accuracy=_float(score.get("accuracy")),
        lost=_int(report.get("lost")),
        gained=_int(report.get("gained")),
        weight_bits=_float(result.get("weight_bits")),
        activation_bits=_float(result.get("activation_bits")),
        file_bytes=_int(result.get("file_bytes")),
        weight_ratio=_float(result.get("weight_ratio")),
    )


def variants_lines(rows: Sequence[VariantRow]) -> list[str]:
    """Write the table for a terminal; nothing for a recipe without variants."""
    return ["", *typeset("text", HEAD, [_cells(row) for row in rows]).splitlines()] if rows else []


def variants_markdown(recipe: str, rows: Sequence[VariantRow]) -> str:
    """Write the table for the summary of a job."""
    kept = sum(row.verdict in {"satisfied", "done"} for row in rows)
    table = typeset("markdown", HEAD, [_cells(row) for row in rows])
    return f"# {recipe}: {kept} of {len(rows)} variants keep what was asked for\n\n{table}\n"


def variants_csv(rows: Sequence[VariantRow]) -> str:
    """Write the figures as they are, a row for every variant."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(VariantRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return text.getvalue()


def _cells(row: VariantRow) -> tuple[Cell, ...]:
    flips = "" if row.lost is None else f"{row.lost} / {row.gained}"
    bits = "" if row.weight_bits is None else f"{row.weight_bits:.2f} / {row.activation_bits or 0:.2f}"
    accuracy = "" if row.accuracy is None else percent(row.accuracy)
    size = "" if row.file_bytes is None else format_size(row.file_bytes)
    smaller = "" if row.weight_ratio is None else f"{row.weight_ratio:.2f}x smaller"
    return row.name, row.verdict, accuracy, flips, bits, size, smaller


def _first(value: object) -> Mapping[str, object]:
    return _mapping(value[0]) if isinstance(value, list | tuple) and value else {}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None
