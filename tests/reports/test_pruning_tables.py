from __future__ import annotations

import csv
import io

import pytest
import torch

from qcaps.pruning.candidates import Candidate
from qcaps.pruning.scoring import Score
from qcaps.reports.pruning_tables import candidates_csv

BEST = Candidate(
    number=3,
    origin="improved from 1",
    widths={"a.channels": 5, "b.dims": 2},
    shares={"params": 0.5, "flops": 0.25},
    score=Score(torch.tensor([0.0, 0.5, 0.5]), 2),
)
OTHER = Candidate(
    number=1,
    origin="drawn",
    widths={"a.channels": 4, "b.dims": 3},
    shares={"params": 0.625, "flops": 0.24},
    score=Score(torch.tensor([0.5, 0.5, 0.5]), 1),
)


def test_every_candidate_has_a_row_with_its_strategy():
    text = candidates_csv([BEST, OTHER], {3: 90})
    best, other = csv.DictReader(io.StringIO(text))
    assert best == {
        "number": "3",
        "origin": "improved from 1",
        "rank": "1",
        "score": "0.333333",
        "error": "0",
        "top1": "0.666667",
        "choosing_correct": "90",
        "flops": "0.25",
        "params": "0.5",
        "a.channels": "5",
        "b.dims": "2",
    }
    assert (other["rank"], other["choosing_correct"], other["b.dims"]) == ("2", "", "3")
    # Differences 0.5, 0, 0: deviation sqrt(1/12) by n - 1, over the root of 3.
    assert float(other["error"]) == pytest.approx((1 / 12 / 3) ** 0.5, abs=1e-3)


def test_no_candidate_gives_the_head_alone():
    assert candidates_csv([], {}) == "number,origin,rank,score,error,top1,choosing_correct\n"
