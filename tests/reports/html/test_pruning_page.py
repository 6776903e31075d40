from __future__ import annotations

import dataclasses

from pages import check_page, parsed
from toy_pruning_reports import WIDTHS, toy_finalist, toy_pruning
from toy_reports import toy_images

from qcaps.reports.html.pruning import pruning_page, score_chart
from qcaps.reports.pictures import Pictures
from qcaps.reports.pruning import PruningReport, WidthChange

SECTIONS = [
    *("accuracy", "cost", "strategy", "layers", "training", "images-lengths", "images-confusion", "images-wrong"),
    *("images-reconstructions", "search", "inputs"),
]


def page(report: PruningReport | None = None) -> str:
    return pruning_page(
        report or toy_pruning(), Pictures({17: b"png"}, wrong_tiles=("the image",), width=28, height=28)
    )


def test_the_page_keeps_the_rules_of_all_pages():
    root = check_page(page())
    assert [section.attributes["id"] for section in root.all("section")] == SECTIONS


def test_the_result_comes_first():
    (header,) = parsed(page()).all("header")
    cards = {card.text for card in header.all("div")}
    # 960 of 1,000 images before, 958 after.
    assert {"Accuracy, test 95.80 % -0.20 pp to before", "Lost / gained images 5 / 3 of 1,000"} <= cards
    assert "MACs 50.00 % kept" in cards


def test_every_unit_has_a_bar_and_the_widths_of_every_finalist():
    table = next(parsed(page()).by_id("strategy").all("table"))
    head, *rows = table.rows()
    assert head == ["unit", "before", "kept", "", "share", "candidate 4", "candidate 7"]
    assert [row[0] for row in rows] == list(WIDTHS)
    assert rows[0] == ["conv1.channels", "32", "20", "", "62.50 %", "24", "27"]
    bars = [element.attributes["style"] for element in table.all("b")]
    assert bars == ["width:62.50%", "width:100.00%", "width:75.00%"]


def test_finalists_are_drawn_by_score_and_accuracy():
    chart = score_chart(toy_pruning())
    points = {series.name: [(point.x, point.y) for point in series.points] for series in chart.series}
    assert points == {"the winner": [(0.12, 96.4)], "other finalists": [(0.11, 96.0), (0.135, 94.0)]}
    assert chart.description == "The rank correlation is +0.50."


def test_a_single_finalist_has_nothing_to_be_compared_with():
    root = check_page(page(toy_pruning(finalists=(toy_finalist(0, 482, won=True),), rank_correlation=None)))
    assert not list(root.by_id("strategy").all("figure"))


def test_the_fine_tuning_is_drawn_epoch_by_epoch():
    section = parsed(page()).by_id("training")
    titles = [figure.text.split(" From")[0] for figure in section.all("figcaption")]
    assert titles == [
        "Validation accuracy",
        "Class loss of an image",
        "Reconstruction loss of an image",
        "Learning rate",
    ]
    rows = next(table for table in section.all("table") if "Epochs" in table.text).rows()
    assert rows[2] == ["2", "0.25000", "20.000", "96.40 %", "0.0005"]


def test_without_fine_tuning_a_sentence_says_so():
    root = check_page(page(toy_pruning(history=())))
    assert "was not fine-tuned" in root.by_id("training").text


def test_times_are_those_of_the_run():
    assert "25.00 ms (24.50 to 30.00)" in parsed(page()).by_id("cost").text
    assert "ms" not in parsed(page(toy_pruning(run=None))).by_id("cost").text.split()


def test_names_from_strangers_stay_text():
    name = "<script>alert(1)</script>"
    report = toy_pruning(
        message=name, warnings=(name,), inputs={name: name}, images=toy_images(class_names=("a", name))
    )
    root = check_page(page(dataclasses.replace(report, widths=(*report.widths[:2], WidthChange("primary.dims", 8, 6)))))
    assert "<script>alert(1)</script>" in root.text
