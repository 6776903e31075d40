from __future__ import annotations

import csv
import dataclasses
import io
import math

from qcaps.quantization.search.groups import Group
from qcaps.quantization.search.judging import Judgement
from qcaps.quantization.search.task import Tried
from qcaps.reports.spreadsheets import candidates_csv, sensitivity_csv

WEIGHT = Group("conv1.weight", "weights", ("conv1.weight",), 100)
LOGITS = Group("caps.logits", "routing", ("caps.logits@1", "caps.logits@2"), 30)
NARROW = {"conv1.weight": 3, "caps.logits@1": 5, "caps.logits@2": 5}


def tried(payload: int, activations: float, *, passed: bool = True, widths=NARROW, score: float = 0.25) -> Tried:
    return Tried("front", widths, payload, activations, score, 9, Judgement(passed, 12, 4, 640))


def rows(text: str) -> list[dict[str, str]]:
    assert text.endswith("\n")
    assert "\r" not in text
    return list(csv.DictReader(io.StringIO(text)))


def test_every_candidate_has_a_row_with_the_width_of_every_group() -> None:
    (row,) = rows(candidates_csv([WEIGHT, LOGITS], {"truncation": [tried(1000, 22.5)]}))
    assert row == {
        "rounding": "truncation",
        "phase": "front",
        "payload_bytes": "1000",
        "activation_bytes": "22.5",
        "predicted_damage": "0.25",
        "images_seen": "640",
        "lost": "12",
        "gained": "4",
        "allowed": "9",
        "passed": "1",
        "certain": "1",
        "on_front": "1",
        "conv1.weight": "3",
        "caps.logits": "5",
    }


def test_a_candidate_without_a_prediction_leaves_its_cell_empty() -> None:
    (row,) = rows(candidates_csv([WEIGHT], {"truncation": [tried(1, 1, score=math.nan)]}))
    assert row["predicted_damage"] == ""


def test_sites_of_a_group_that_differ_are_all_told_and_missing_ones_are_not() -> None:
    widths = {"conv1.weight": 32, "caps.logits@1": 8, "caps.logits@2": 4}
    both, none = rows(
        candidates_csv([LOGITS], {"truncation": [tried(1, 1, widths=widths), tried(1, 1, widths={"conv1.weight": 2})]})
    )
    assert (both["caps.logits"], none["caps.logits"]) == ("4/8", "")


def test_the_front_holds_what_passed_and_is_beaten_by_nothing() -> None:
    points = [(10, 5.0, True), (20, 4.0, True), (20, 6.0, True), (15, 5.0, True), (5, 1.0, False), (30, 3.0, True)]
    candidates = [tried(payload, activations, passed=passed) for payload, activations, passed in points]
    found = rows(candidates_csv([WEIGHT], {"truncation": candidates[:3], "logarithmic": candidates[3:]}))

    def beaten(point: tuple[int, float, bool]) -> bool:
        return any(p and (a, b) != point[:2] and a <= point[0] and b <= point[1] for a, b, p in points)

    assert [row["on_front"] == "1" for row in found] == [p[2] and not beaten(p) for p in points]
    assert [row["rounding"] for row in found] == ["truncation"] * 3 + ["logarithmic"] * 3


def test_a_pass_that_only_steered_is_told_apart_and_is_not_on_the_front() -> None:
    steering = dataclasses.replace(tried(1, 1), judgement=Judgement(True, 0, 0, 64, certain=False))
    first, second = rows(candidates_csv([WEIGHT], {"truncation": [steering, tried(2, 2)]}))
    assert (first["passed"], first["certain"], first["on_front"]) == ("1", "0", "0")
    assert second["on_front"] == "1"


def test_sensitivity_has_a_column_for_every_width() -> None:
    scores = {"conv1.weight": {2: 1.5, 4: 1e-3, 32: 0.0}, "caps.logits": {2: 0.125, 8: 2e-9}}
    text = sensitivity_csv([WEIGHT, LOGITS, Group("caps.out", "activations", ("caps.out",), 7)], scores)
    assert text == (
        "group,kind,values,2 bits,4 bits,8 bits,32 bits\n"
        "conv1.weight,weights,100,1.5,0.001,,0\n"
        "caps.logits,routing,30,0.125,,2e-09,\n"
        "caps.out,activations,7,,,,\n"
    )
