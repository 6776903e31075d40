"""Files side by side: what they cost, where they differ, and which images they tell apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.config.sizes import format_size
from qcaps.reports.markdown_table import percent
from qcaps.reports.promises import HEAD, promise_row
from qcaps.reports.quantization import Promise
from qcaps.reports.typeset import Cell, typeset


@dataclass(frozen=True)
class Flips:
    """Images of one split: recognised, and lost and gained against the first file."""

    split: str
    images: int
    correct: int
    lost: int
    gained: int


@dataclass(frozen=True)
class RecordedScore:
    """What a file says of its own accuracy: images of the split that chose it."""

    split: str
    images: int
    correct: int


@dataclass(frozen=True)
class ComparedFile:
    """One checkpoint or artifact.

    Parameters
    ----------
    file, sha256, kind, model
        The file, whether it is a ``checkpoint`` or an ``artifact``, and its architecture.
    rounding
        Scheme of an artifact, else nothing.
    weight_bits, activation_bits
        Mean over all values of the encoder, scales included, and over all values of one image.
    parameters, macs
        Of the encoder, for one image.
    weight_bytes, file_bytes, growth
        Packed or in float; on disk; and by what share the latter is larger than that of the first file.
    recorded
        None if the file says nothing of its accuracy.
    flips
        None if nothing was scored.
    bits, units
        Site → bits, and kind of prunable unit → how many there are.
    """

    file: str
    sha256: str
    kind: str
    model: str
    rounding: str
    weight_bits: float
    activation_bits: float
    parameters: int
    macs: int
    weight_bytes: int
    file_bytes: int
    growth: float
    recorded: RecordedScore | None
    flips: Flips | None
    bits: Mapping[str, int]
    units: Mapping[str, int]


Form = Literal["text", "markdown", "csv", "latex"]
COLUMNS = (
    *("file", "sha256", "kind", "model", "rounding", "weight_bits", "activation_bits", "parameters", "macs"),
    *("weight_bytes", "file_bytes", "growth"),
)
SCORES = {"recorded": ("split", "images", "correct"), "flips": ("split", "images", "correct", "lost", "gained")}


def comparison_lines(files: Sequence[ComparedFile], promises: Sequence[Promise], form: Form) -> list[str]:
    """Write the tables: the files, where their bits and widths differ, and the promises; CSV has the first alone."""
    if form == "csv":
        return _csv(files).splitlines()
    names = short_names([one.file for one in files])
    tables = [typeset(form, *_columns(names, files))]
    if rows := list(_differences(files)):
        tables.append(typeset(form, ("differs", *names), rows))
    if promises:
        tables.append(typeset(form, HEAD, [promise_row(promise) for promise in promises]))
    return "\n\n".join(tables).splitlines()


def short_names(files: Sequence[str]) -> list[str]:
    """Name files by as many of their last parts as it takes to tell them apart."""
    parts = [Path(file).parts for file in files]
    count = next(
        (n for n in range(1, max(map(len, parts))) if len({p[-n:] for p in parts}) == len(set(parts))),
        max(map(len, parts)),
    )
    return [str(Path(*p[-count:])) for p in parts]


def _columns(names: Sequence[str], files: Sequence[ComparedFile]) -> tuple[list[str], list[tuple[Cell, ...]]]:
    """Give a row for every file; a column that would be empty is left out."""
    columns: dict[str, list[Cell]] = {
        "file": list(names),
        "network": [one.model for one in files],
        "rounding": [one.rounding for one in files],
        "bits W / A": [f"{one.weight_bits:.2f} / {one.activation_bits:.2f}" for one in files],
        "parameters": [one.parameters for one in files],
        "MACs": [one.macs for one in files],
        "weights": [format_size(one.weight_bytes) for one in files],
        "file size": [f"{format_size(one.file_bytes)}{_growth(one)}" for one in files],
        "recorded": [_recorded(one.recorded) for one in files],
        "accuracy": ["" if one.flips is None else _accuracy(one.flips) for one in files],
        "lost / gained": ["" if one.flips is None else f"{one.flips.lost} / {one.flips.gained}" for one in files],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return list(shown), list(zip(*shown.values(), strict=True))


def _growth(one: ComparedFile) -> str:
    return "" if one.growth == 0 else f" ({100 * one.growth:+.1f} %)"


def _recorded(score: RecordedScore | None) -> str:
    return "" if score is None else f"{percent(score.correct / score.images)} {score.split}"


def _accuracy(flips: Flips) -> str:
    return f"{percent(flips.correct / flips.images)} {flips.split}"


def _differences(files: Sequence[ComparedFile]) -> Iterator[tuple[Cell, ...]]:
    """List kinds of unit and sites that are not the same in every file, in the order of the first that has them."""
    for found, unit in (([one.units for one in files], ""), ([one.bits for one in files], " bits")):
        for name in dict.fromkeys(name for of_file in found for name in of_file):
            values = [of_file.get(name) for of_file in found]
            if len(set(values)) > 1:
                yield name, *("" if value is None else f"{value}{unit}" for value in values)


def _csv(files: Sequence[ComparedFile]) -> str:
    """Write a row for every file, figures as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{part}_{name}" for part, names in SCORES.items() for name in names)])
    for one in files:
        parts = [(getattr(one, part), names) for part, names in SCORES.items()]
        scores = ["" if part is None else getattr(part, name) for part, names in parts for name in names]
        writer.writerow([*(getattr(one, column) for column in COLUMNS), *scores])
    return text.getvalue()
