from __future__ import annotations

import dataclasses

from pages import check_page, parsed
from toy_pages import toy_training
from toy_pruning_reports import toy_epoch

from qcaps.reports.html.training import training_charts, training_page
from qcaps.training.state import Score


def test_the_page_keeps_the_rules_of_all_pages():
    root = check_page(training_page(toy_training()))
    assert [section.attributes["id"] for section in root.all("section")] == ["training", "stages", "inputs"]


def test_the_best_epoch_comes_first():
    (header,) = parsed(training_page(toy_training())).all("header")
    assert "Epoch 2 of 3 recognises 480 of 500 validation images." in header.text
    assert "Validation accuracy 96.00 % epoch 2" in header.text


def test_the_curves_are_those_of_the_history():
    charts = {chart.title: chart for chart in training_charts(toy_training().history, 2)}
    accuracy, best = charts["Validation accuracy"].series
    assert [(point.x, point.y) for point in accuracy.points] == [(1, 80), (2, 96), (3, 94)]
    assert [(point.x, point.y) for point in best.points] == [(2, 96)]
    assert [point.y for point in charts["Class loss of an image"].series[0].points] == [0.5, 0.25, 0.5 / 3]


def test_a_loss_that_is_always_zero_is_not_drawn():
    history = [dataclasses.replace(toy_epoch(number, 400), reconstruction_loss=0.0) for number in (1, 2)]
    assert "Reconstruction loss of an image" not in [chart.title for chart in training_charts(history, 1)]


def test_a_single_epoch_is_a_point():
    page = training_page(toy_training(history=(toy_epoch(1, 400),), best_epoch=1))
    check_page(page)
    assert page.count("<circle") >= 4


def test_nothing_is_drawn_of_no_training():
    assert training_charts((), 0) == []


def test_names_from_strangers_stay_text():
    root = check_page(training_page(toy_training(model="<b onclick=x>", options={"a": "<script>"})))
    assert "<b onclick=x>" in root.text


def test_further_data_sets_are_drawn_beside_and_fit_the_axis():
    history = [dataclasses.replace(toy_epoch(n, 400), also={"affnist": Score(100 * n, 500)}) for n in (1, 2)]
    chart = training_charts(history, 1)[0]
    further = chart.series[-1]
    assert (further.name, [point.y for point in further.points]) == ("affnist", [20, 40])
    assert chart.y.low <= 20
    check_page(training_page(toy_training(history=tuple(history), best_epoch=1)))
