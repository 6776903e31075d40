"""The report of an evaluation as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from qcaps.config.sizes import format_size
from qcaps.evaluation.latency import Latency
from qcaps.reports.evaluation import Evaluation
from qcaps.reports.html.images import image_views
from qcaps.reports.html.rendering import render
from qcaps.reports.inspection import shape_text
from qcaps.reports.markdown_table import percent
from qcaps.reports.pictures import Pictures
from qcaps.reports.promises import promise_row
from qcaps.reports.quantization import Promise

FILE_HEAD = ("file", "kind", "accuracy", "95 % interval", "recognised", "weights", "file size", "sha256")
CLASS_HEAD = ("class", "images", "recognised", "accuracy")
STAGE_HEAD = ("stage", "output", "parameters", "MACs")
LATENCY_HEAD = ("file", "images in a batch", "median [ms]", "images per second")


def evaluation_page(
    entries: Sequence[Evaluation],
    pictures: Sequence[Pictures],
    latency: Sequence[Sequence[Latency]],
    promises: Sequence[Promise] = (),
) -> str:
    """Write the page of an evaluation.

    Parameters
    ----------
    entries, pictures
        Of every file.
    latency
        Of every file; times are left out where none were measured.
    promises
        What was asked for.
    """
    names = short_names([entry.file for entry in entries])
    best = max(range(len(entries)), key=lambda place: entries[place].accuracy)
    several = len(entries) > 1
    return render(
        "evaluation.html",
        {
            "title": f"Evaluation of {', '.join(names)}",
            "kind": "Evaluation",
            "good": all(one.kept for one in promises) if promises else None,
            "heading": f"{percent(entries[best].accuracy)}" + (f", {names[best]}" if several else ""),
            "message": _message(entries[best], names[best]),
            "kept": [promise_row(one) for one in promises],
            "file_head": FILE_HEAD,
            "files": [_file_row(entry, name) for entry, name in zip(entries, names, strict=True)],
            "latency_head": LATENCY_HEAD,
            "latency": [
                (name, str(one.batch_size), f"{one.median_ms:.2f}", f"{one.images_per_second:,.0f}")
                for name, each in zip(names, latency, strict=True)
                for one in each
            ],
            "class_head": CLASS_HEAD,
            "stage_head": STAGE_HEAD,
            "parts": [
                {
                    "name": name,
                    "classes": _class_rows(entry),
                    "stages": _stage_rows(entry),
                    "images": image_views(
                        entry.facts, seen, name=f"images{place}" if several else "images", of=name if several else ""
                    ),
                }
                for place, (entry, name, seen) in enumerate(zip(entries, names, pictures, strict=True))
            ],
        },
    )


def short_names(files: Sequence[str]) -> list[str]:
    """Name files without their folders, or by the last one where two have the same name."""
    paths = [PurePath(file) for file in files]
    count = Counter(path.name for path in paths)
    return [path.name if count[path.name] == 1 else "/".join(path.parts[-2:]) for path in paths]


def _message(entry: Evaluation, name: str) -> str:
    low, high = (100 * end for end in entry.interval)
    return (
        f"{name} recognises {entry.correct:,} of {entry.images:,} {entry.dataset} {entry.split} images; the 95 % "
        f"interval is {low:.2f} to {high:.2f} %."
    )


def _file_row(entry: Evaluation, name: str) -> Sequence[str]:
    low, high = (100 * end for end in entry.interval)
    sizes = format_size(entry.weight_bytes), format_size(entry.file_bytes)
    score = percent(entry.accuracy), f"{low:.2f} to {high:.2f}", f"{entry.correct:,} of {entry.images:,}"
    return name, f"{entry.kind}, {entry.model}", *score, *sizes, entry.sha256[:12]


def _class_rows(entry: Evaluation) -> list[Sequence[str]]:
    return [
        (one.name, f"{one.images:,}", f"{one.correct:,}", percent(one.correct / one.images))
        for one in entry.per_class
        if one.images
    ]


def _stage_rows(entry: Evaluation) -> list[Sequence[str]]:
    return [
        (one.name, " + ".join(map(shape_text, one.outputs)), f"{one.parameters:,}", f"{one.macs:,}")
        for one in entry.stages
    ]
