from __future__ import annotations

import csv
import io
import json

from qcaps.reports.history import history_csv, history_json
from qcaps.training.state import EpochRecord, Score
from qcaps.training.timing import Timing, total

FIRST = EpochRecord(1, 0.1, 0.5, 20.0, 4, 8, {"affnist": Score(1, 5)})
SECOND = EpochRecord(2, 0.05, 0.25, 10.0, 6, 8, {"affnist": Score(2, 5)})
TIMINGS = [Timing(100, 4.0, 1.0), Timing(100, 1.0, 0.0)]


def test_the_table_has_a_line_for_every_epoch_and_columns_for_every_set():
    rows = list(csv.DictReader(io.StringIO(history_csv([FIRST, SECOND]).decode())))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[1] == {
        "epoch": "2",
        "lr": "0.05",
        "class_loss": "0.25",
        "reconstruction_loss": "10.0",
        "validation_correct": "6",
        "validation_images": "8",
        "affnist_correct": "2",
        "affnist_images": "5",
    }


def test_the_document_says_what_the_table_says_and_keeps_times_apart():
    document = json.loads(history_json([FIRST, SECOND], TIMINGS))
    rows = csv.DictReader(io.StringIO(history_csv([FIRST, SECOND]).decode()))
    assert [{key: float(value) for key, value in row.items()} for row in rows] == document["epochs"]
    assert document["run"]["epochs"] == [
        {"images": 100, "seconds": 4.0, "images_per_second": 25.0, "waiting": 0.25},
        {"images": 100, "seconds": 1.0, "images_per_second": 100.0, "waiting": 0.0},
    ]


def test_a_reproducible_document_has_no_times():
    assert json.loads(history_json([FIRST], None)).keys() == {"schema", "epochs"}


def test_the_speed_of_all_epochs_is_that_of_their_images_and_seconds_together():
    found = total(TIMINGS)
    assert (found.images_per_second, found.waiting) == (40.0, 0.2)


def test_no_time_at_all_is_no_speed():
    assert (Timing().images_per_second, Timing().waiting) == (0.0, 0.0)
