from __future__ import annotations

import dataclasses
import re

import pytest
from pages import check_page, parsed
from toy_reports import toy_images, toy_layer, toy_model, toy_plan, toy_report, toy_row, toy_search

from qcaps.reports.html.quantization import pareto_chart, quantization_page
from qcaps.reports.image_facts import Confusion, NetworkFacts, PanelImage
from qcaps.reports.pictures import Pictures
from qcaps.reports.quantization import Promise, QuantizationReport

SECTIONS = [
    "figures",
    "layers",
    "pareto",
    "sensitivity",
    "routing",
    "images-lengths",
    "classes",
    "images-confusion",
    "images-wrong",
    "images-reconstructions",
    "search",
    "inputs",
]
HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202e\n\x1b[31m"
PICTURES = Pictures({17: b"png", 3: b"png"}, {5: b"png"}, ("the image",), ("the image", "float"), 28, 28)


def page(report: QuantizationReport | None = None, pictures: Pictures = PICTURES) -> str:
    return quantization_page(report or toy_report(), pictures)


def test_the_page_keeps_the_rules_of_all_pages():
    root = check_page(page())
    assert [section.attributes["id"] for section in root.all("section")] == SECTIONS
    links = [link.attributes["href"][1:] for nav in root.all("nav") for link in nav.all("a")]
    assert links == SECTIONS


def test_the_verdict_and_the_promises_come_before_anything_else():
    report = toy_report(promises=(*toy_report().promises, Promise("accuracy, report", 9, 12, "images lost", False)))
    (header,) = check_page(page(report)).all("header")
    assert [heading.text for heading in header.all("h1")] == ["✓ Satisfied"]
    table = next(header.all("table"))
    assert table.rows()[1:] == [
        ["accuracy on the search split", "9 images lost", "3 images lost", "✓ yes"],
        ["memory budget (file)", "100.000 kB", "90.500 kB", "✓ yes"],
        ["accuracy, report", "9 images lost", "12 images lost", "✗ no"],
    ]


def test_a_broken_verdict_is_told_by_a_mark_and_a_word():
    (header,) = parsed(page(toy_report(verdict="not satisfied", message="not satisfied: too large"))).all("header")
    assert header.text.split(" too large")[0].endswith("✗ Not satisfied")


def test_a_policy_forbids_every_request():
    (policy,) = [
        meta.attributes["content"]
        for meta in parsed(page()).all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_same_report_gives_the_same_bytes():
    assert page() == page()


def test_every_layer_has_its_bits_and_bytes_with_bars_in_proportion():
    layers = (toy_layer("conv1.weight"), dataclasses.replace(toy_layer("conv2.weight"), values=24_690, bits=8))
    table = next(parsed(page(toy_report(layers=layers))).by_id("layers").all("table"))
    first, second = table.rows()[1:3]
    assert (first[0], first[1], first[3], first[4]) == ("conv1.weight", "4", "49.380 kB", "6.173 kB")
    assert second[:2] == ["conv2.weight", "8"]
    widths = [bar.attributes["style"] for bar in table.all() if bar.attributes.get("style", "").startswith("width")]
    # Bits of 32; float bytes and packed bytes of the largest site in float, 98,760 bytes.
    assert widths[:4] == ["width:100.00%", "width:12.50%", "width:50.00%", "width:6.25%"]
    assert widths[4:6] == ["width:100.00%", "width:25.00%"]


def test_the_bytes_of_weights_and_container_add_up_to_the_file():
    rows = {row[0]: row[4] for row in next(parsed(page()).by_id("layers").all("table")).rows()}
    # Two sites of 6,173 bytes, a payload of 81,250 and a file of 90,500.
    assert rows["together"] == "12.346 kB"
    assert rows["other tensors, in float"] == "68.904 kB"
    assert rows["header, scales and checksums"] == "9.250 kB"
    assert rows["file"] == "90.500 kB"


def test_every_plan_has_a_mark_that_tells_its_widths():
    chart = next(parsed(page()).by_id("pareto").all("svg"))
    titles = [title.text for title in chart.all("title")][1:]
    assert len([title for title in titles if "front: " in title]) == 5 + 1  # the chosen one twice
    assert "truncation, front: 81.250 kB, 2.43 bits a weight, 5.06 an activation; -5 / +0 in 1,000 images" in titles


def test_the_front_holds_no_plan_that_another_one_beats():
    chart = pareto_chart(toy_report())
    (front,) = (series for series in chart.series if series.line)
    assert [(point.x, point.y) for point in front.points] == [
        (81_250, pytest.approx(89.5)),
        (100_000, pytest.approx(89.6)),
        (120_000, pytest.approx(89.8)),
    ]


def test_a_plan_that_was_given_up_is_shown_apart_from_measured_ones():
    chart = pareto_chart(toy_report())
    by_name = {series.name: [point.x for point in series.points] for series in chart.series}
    assert by_name["ended early: at most this accuracy"] == [90_000]
    assert by_name["all images seen, failed"] == [95_000]


def test_what_is_asked_for_is_drawn_as_lines():
    chart = pareto_chart(toy_report())
    limits = {limit.axis: limit.value for limit in chart.limits}
    # 900 of 1,000 images less the 9 that may be lost; the budget less the 9,250 bytes beside the payload.
    assert limits == {"x": 90_750, "y": pytest.approx(89.1)}
    assert chart.allowed == (90_750, pytest.approx(89.1))


def test_several_seeds_are_averaged():
    report = toy_report(search=toy_search(seeds=(1, 2, 3, 4)), candidates=(toy_plan(100_000, 20),))
    (point,) = next(series for series in pareto_chart(report).series if series.mark == "cross").points
    assert point.y == pytest.approx(89.5)


def test_a_search_without_plans_or_sensitivity_says_so():
    root = check_page(page(toy_report(candidates=(), sensitivity=())))
    assert "tried no plan" in root.by_id("pareto").text
    assert "measured no sensitivity" in root.by_id("sensitivity").text


def test_the_heat_map_tells_losses_what_was_measured_and_what_was_chosen():
    root = parsed(page())
    table = next(root.by_id("sensitivity").all("table"))
    assert table.rows() == [
        ["site", "2", "3", "4", "8"],  # 16 bits lose nothing and were not chosen
        ["conv1.weight", "36", "9.0", "1.2", "0"],
        ["class_caps.out", "4.0", "", "0.5", "0"],
    ]
    classes = [[cell.attributes["class"].split() for cell in row.all("td")] for row in table.all("tr")][1:]
    assert classes[0] == [["hot"], ["missing"], ["chosen"], ["missing"]]
    assert classes[1] == [[], ["missing"], [], ["chosen"]]


def test_the_confusion_matrix_holds_every_image_once():
    table = next(parsed(page()).by_id("images-confusion").all("table"))
    assert table.rows() == [["label", "zero", "one"], ["zero", "376", "24"], ["one", "81", "519"]]


def test_many_classes_are_told_by_their_commonest_confusions():
    names = tuple(f"c{number}" for number in range(30))
    network = NetworkFacts("satisfied.pt", 895, None, (Confusion(3, 4, 5), Confusion(29, 0, 100)))
    facts = toy_images(class_names=names, class_sizes=(40,) * 30, networks=(network,), score_name="")
    section = parsed(page(toy_report(images=facts))).by_id("images-confusion")
    assert next(section.all("table")).rows()[1:] == [["c29", "c0", "100"], ["c3", "c4", "5"]]
    assert "it takes c29 for c0, 100 times" in section.text


def test_logits_have_no_lengths():
    networks = tuple(dataclasses.replace(one, lengths=None) for one in toy_images().networks)
    root = check_page(page(toy_report(images=toy_images(networks=networks, score_name=""))))
    assert "logits" in root.by_id("images-lengths").text


def test_wrong_images_are_shown_with_label_guess_and_scores():
    items = list(parsed(page()).by_id("images-wrong").all("li"))
    assert [item.text for item in items] == [
        "one taken for zero lost 0.25 against 0.88, no. 17",
        "zero taken for one 0.50 against 0.75, no. 3",
    ]
    assert next(items[0].all("img")).attributes["alt"] == "Image 17: one, taken for zero"


def test_a_network_without_a_mistake_has_a_sentence_in_place_of_a_gallery():
    perfect = NetworkFacts("satisfied.pt", 1000, None, ())
    facts = toy_images(networks=(perfect,), wrong_images=0, wrong=(), score_name="")
    root = parsed(page(toy_report(images=facts)))
    assert "recognises every image of the test split" in root.by_id("images-wrong").text
    assert "recognises every one of 1,000 images" in root.by_id("images-confusion").text


def test_without_a_decoder_a_sentence_names_the_way_to_one():
    section = parsed(page()).by_id("images-reconstructions")
    assert "--decoder-from" in section.text
    assert not list(section.all("img"))


def test_reconstructions_are_told_with_their_errors():
    panel = (PanelImage(5, 1, 0, {"float": 0.5, "satisfied.pt": 0.25}),)
    section = parsed(page(toy_report(images=toy_images(panel=panel)))).by_id("images-reconstructions")
    (image,) = section.all("img")
    assert image.attributes["alt"] == "Image 5, one, and its reconstructions: mean squared error 0.2500"
    assert next(section.all("li")).text == "one as zero ✗"
    assert "Mean squared error of float: 0.5000." in section.text


def test_a_comparison_of_searches_and_the_time_of_the_run_are_shown():
    report = toy_report(comparison=(toy_row(), toy_row("qcapsnets")), run={"seconds": 1.5})
    root = check_page(page(report))
    assert "qcapsnets, truncation" in root.by_id("search").text
    assert "Took 1.5 s." in root.by_id("inputs").text
    assert "Took" not in page(toy_report(run=None))


def test_an_early_end_is_told_in_the_first_screen():
    (header,) = parsed(page(toy_report(search=toy_search(stopped_early="time budget")))).all("header")
    assert "Stopped early: time budget." in header.text


def test_names_from_strangers_stay_text():
    facts = toy_images(class_names=("zero", HOSTILE))
    report = toy_report(
        message=HOSTILE,
        images=facts,
        layers=(toy_layer(HOSTILE),),
        inputs={"checkpoint": HOSTILE, HOSTILE: HOSTILE},
        warnings=(HOSTILE,),
        result=(toy_model(HOSTILE),),
        candidates=(toy_plan(100_000, 2, phase=HOSTILE),),
    )
    text = page(report)
    root = check_page(text)
    assert not [image for image in root.all("img") if image.attributes.get("src") == "x"]
    assert "<img src=x onerror=alert(1)>" in root.text
    assert not re.search("[\u202e\x1b]", text)
