"""The history of a training: as a table, and as JSON with the times that differ between identical runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from qcaps.reports.documents import json_text
from qcaps.training.state import EpochRecord
from qcaps.training.timing import Timing


def history_csv(history: Sequence[EpochRecord]) -> bytes:
    """Write one line for every epoch."""
    rows = [record.row() for record in history]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def history_json(history: Sequence[EpochRecord], timings: Sequence[Timing] | None) -> bytes:
    """Write the same as JSON; the key ``run`` alone holds times, none in a reproducible history."""
    document: dict[str, object] = {"schema": "qcaps.history/1", "epochs": [record.row() for record in history]}
    if timings is not None:
        document["run"] = {"epochs": [speed_facts(timing) for timing in timings]}
    return json_text(document).encode()


def speed_facts(timing: Timing) -> dict[str, int | float]:
    """Tell how fast images were learned from, and which share of the time was spent waiting for them."""
    return {
        "images": timing.images,
        "seconds": timing.seconds,
        "images_per_second": timing.images_per_second,
        "waiting": timing.waiting,
    }
