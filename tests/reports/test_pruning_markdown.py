from __future__ import annotations

import dataclasses
import json

from toy_pruning_reports import toy_finalist, toy_pruning

from qcaps.reports.documents import json_text
from qcaps.reports.markdown import CHARACTER_LIMIT
from qcaps.reports.pruning import PruningReport, WidthChange, to_document
from qcaps.reports.pruning_markdown import pruning_markdown

HEADINGS = [
    "Accuracy",
    "Cost of one image",
    "Latency, median and range",
    "Kept widths",
    "Layers",
    "Finalists",
    "Fine-tuning",
    "How it was found",
    "Inputs and versions",
]


def rows(report: PruningReport, heading: str) -> list[list[str]]:
    section = pruning_markdown(report).split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def facts(report: PruningReport) -> dict[str, str]:
    return dict(rows(report, "How it was found"))


def test_the_result_comes_first_and_every_block_has_its_place():
    text = pruning_markdown(toy_pruning(warnings=("a | b",)))
    assert text.startswith("# Pruned\n\npruned: 50.0 % of the MACs kept\n\n> **Warning:** a \\| b\n")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == HEADINGS


def test_every_stand_is_told_on_both_splits_with_flips_and_losses():
    found = {row[0]: row[1:] for row in rows(toy_pruning(), "Accuracy")}
    assert list(found) == ["unpruned", "cut", "recalibrated", "fine-tuned", "random units, recalibrated"]
    interval = "(25.00 to 75.00)"
    assert found["unpruned"] == [f"96.00 % {interval}", "", "0.06250", f"96.00 % {interval}", "", "0.06250", ""]
    tuned = found["fine-tuned"]
    assert tuned[3:6] == [f"95.80 % {interval}", "5 / 3", "0.06250"]
    assert tuned[6].endswith(" pp")
    assert 0.2 < float(tuned[6].removesuffix(" pp")) < 1


def test_costs_are_told_before_and_after():
    assert rows(toy_pruning(), "Cost of one image") == [
        ["MACs", "30,000", "15,000", "50.00 %"],
        ["weight bytes", "650.000 kB", "325.000 kB", "50.00 %"],
    ]
    assert rows(toy_pruning(), "Layers") == [["conv1", "9,000 → 4,500", "800 → 400", "64 → 32"]]


def test_times_belong_to_the_run():
    (row,) = rows(toy_pruning(), "Latency, median and range")
    assert row == ["100", "40.00 ms (39.00 to 44.50)", "25.00 ms (24.50 to 30.00)", "62.50 %", "cpu", "2"]
    assert "Latency" not in pruning_markdown(toy_pruning(run=None))


def test_kept_widths_are_listed_and_what_is_uncut_is_named():
    assert rows(toy_pruning(), "Kept widths")[0] == ["conv1.channels", "32", "20", "62.50 %"]
    assert "\nUncut: primary.types.\n" in pruning_markdown(toy_pruning())
    assert "Uncut" not in pruning_markdown(toy_pruning(widths=(WidthChange("conv1.channels", 32, 20),)))


def test_finalists_are_told_with_their_scores_and_the_winner():
    assert rows(toy_pruning(), "Finalists") == [
        ["4", "0.11", "92.00 %", "96.00 %", "2", ""],
        ["0", "0.12", "92.40 %", "96.40 %", "2", "winner"],
        ["7", "0.135", "90.00 %", "94.00 %", "2", ""],
    ]


def test_the_search_is_described():
    found = facts(toy_pruning())
    assert (found["targets"], found["kept as predicted"]) == ("flops 0.5", "flops 0.4995, params 0.6100")
    assert found["candidates"] == "4, 3 of them drawn (bisection)"
    assert found["importance"] == "coupling (l1 for conv1.channels), layerwise"
    assert found["recalibration"] == "batch-norm, 2560 train images"
    assert (found["scored by"], found["chosen on"]) == ("loss, 2000 validation images", "500 other validation images")
    assert found["rank correlation of score and accuracy"] == "+0.50"
    assert facts(toy_pruning(rank_correlation=None))["rank correlation of score and accuracy"] == "no order to compare"


def test_a_report_without_a_target_tells_that_a_strategy_was_given():
    search = dataclasses.replace(toy_pruning().search, targets={}, stopped_early="time budget")
    assert facts(toy_pruning(search=search))["targets"] == "a strategy in a file"
    assert facts(toy_pruning(search=search))["stopped early"] == "time budget"


def test_many_layers_are_cut_short():
    (layer,) = toy_pruning().layers
    many = tuple(dataclasses.replace(layer, name=f"layer{n}") for n in range(1000))
    assert len(rows(toy_pruning(layers=many), "Layers")) == 200
    assert "\n800 more rows in report.json\n" in pruning_markdown(toy_pruning(layers=many))
    long = tuple(dataclasses.replace(layer, name="layer" * 100) for _ in range(200))
    assert len(pruning_markdown(toy_pruning(layers=long))) <= CHARACTER_LIMIT


def test_the_document_holds_everything_and_a_reproducible_one_no_times():
    document = json.loads(json_text(to_document(toy_pruning())))
    assert document["schema"] == "qcaps.prune/1"
    assert document["finalists"][1]["widths"] == dict(toy_finalist(0, 482).widths)
    assert document["run"]["seconds"] == 1.5
    assert "run" not in to_document(toy_pruning(run=None))
