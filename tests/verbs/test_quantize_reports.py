from __future__ import annotations

import csv
import json

import pytest
from pages import check_page

import qcaps
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.data.load import load_split
from qcaps.evaluation.liveness import array_lives
from qcaps.evaluation.measure import measure
from qcaps.models.network import array_sites
from qcaps.models.spec import build, image_of
from qcaps.quantization.loading import load

OPTIONS = {"accuracy_tolerance": 3, "memory_budget": "14kB", "compare_baseline": "common-width"}


@pytest.fixture(scope="module")
def quantized(tiny_checkpoint, tmp_path_factory):
    """Quantize with a baseline beside, once for all tests."""
    out = tmp_path_factory.mktemp("quantized")
    outcome = qcaps.quantize(tiny_checkpoint, **OPTIONS, out=out)
    return out, json.loads((out / "report.json").read_text()), outcome


def test_the_peak_of_the_activations_is_that_of_a_walk_through_the_network(quantized):
    out, report, _ = quantized
    spec = load(out / "satisfied.pt").model
    network = build(spec).eval()
    lives, values = array_lives(network, image_of(spec)), array_sites(network, image_of(spec))
    widths = {layer["site"]: layer["bits"] for layer in report["layers"]}
    steps = range(len(values) + 1)
    peaks = {"quantized": 0.0, "float": 0.0}
    for step in steps:
        alive = [site for site in values if lives[site].first <= step <= lives[site].last]
        peaks["quantized"] = max(peaks["quantized"], sum(values[site] * widths[site] / 8 for site in alive))
        peaks["float"] = max(peaks["float"], 4 * sum(values[site] for site in alive))
    found = report["result"][0]
    assert (found["activation_peak_bytes"], found["float_activation_peak_bytes"]) == (
        peaks["quantized"],
        peaks["float"],
    )


def test_every_activation_is_counted_at_its_width(quantized):
    report = quantized[1]
    arrays = [layer for layer in report["layers"] if layer["group"] != "weights"]
    found = report["result"][0]
    assert found["activation_bytes"] == sum(layer["values"] * layer["bits"] / 8 for layer in arrays)
    assert found["float_activation_bytes"] == 4 * sum(layer["values"] for layer in arrays)


def test_classes_add_up_to_the_report_split(quantized, tiny_checkpoint):
    out, report, _ = quantized
    found, classes = report["result"][0]["report"], report["result"][0]["classes"]
    images = load_split(read_checkpoint(tiny_checkpoint)[0].data, "test")
    assert [one["name"] for one in classes] == list(images.class_names)
    assert sum(one["images"] for one in classes) == len(images)
    assert sum(one["lost"] for one in classes) == found["lost"]
    assert sum(one["gained"] for one in classes) == found["gained"]
    measured = measure(load(out / "satisfied.pt").predictor(), images, batch_size=90)
    assert found["score"]["correct"] == measured.correct


def test_sites_have_the_sensitivity_that_the_search_measured(quantized):
    layers = quantized[1]["layers"]
    assert all(layer["sensitivity"] >= 0 for layer in layers)
    assert any(layer["sensitivity"] > 0 for layer in layers)


def test_the_router_is_looked_at_in_both_networks(quantized):
    found = quantized[1]["routing"]
    (entropy,), (zero,) = found["entropy"], found["zero_logits"]
    assert (entropy["site"], zero["site"]) == ("class_caps.coupling", "class_caps.logits")
    assert 0 < entropy["in_float"] < 1
    assert 0 < entropy["quantized"] < 1
    assert 0 <= zero["in_float"] <= zero["quantized"] < 1


def test_both_searches_stand_side_by_side_and_their_seconds_in_the_run(quantized):
    report = quantized[1]
    first, second = report["comparison"]
    assert (first["name"], second["name"]) == ("pareto", "common-width")
    assert first["payload_bytes"] == report["result"][0]["payload_bytes"]
    assert first["image_forwards"] == report["search"]["image_forwards"]
    assert second["without_rejection"] > second["image_forwards"] > 0
    assert report["run"]["search_seconds"].keys() == {"pareto, round_to_nearest", "common-width, round_to_nearest"}
    assert "seconds" not in first


def test_every_plan_tried_has_a_row_and_the_best_one_is_on_the_front(quantized):
    out, report, _ = quantized
    with (out / "pareto.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report["search"]["plans_tried"]
    found = report["result"][0]
    sizes = str(found["payload_bytes"]), f"{found['activation_bytes']:.6g}"
    (best,) = [
        row for row in rows if row["on_front"] == "1" and (row["payload_bytes"], row["activation_bytes"]) == sizes
    ]
    widths = {layer["site"]: str(layer["bits"]) for layer in report["layers"]}
    assert {site: best[site] for site in widths} == widths


def test_the_sensitivity_of_every_site_is_in_its_table_and_in_the_report(quantized):
    out, report, _ = quantized
    with (out / "sensitivity.csv").open(newline="") as file:
        rows = {row["group"]: row for row in csv.DictReader(file)}
    for layer in report["layers"]:
        assert float(rows[layer["site"]][f"{layer['bits']} bits"]) == pytest.approx(layer["sensitivity"], rel=1e-5)


def test_the_sequential_search_is_counted_beside_ours(quantized):
    # 6 blocks, none of them with several passes, and 300 images.
    assert quantized[1]["search"]["sequential"] == (9 + 2 * 6) * 300


def test_what_was_counted_twice_is_the_same_but_for_the_run(quantized, tiny_checkpoint, tmp_path):
    report = quantized[1]
    qcaps.quantize(tiny_checkpoint, **OPTIONS, reproducible=True, out=tmp_path)
    again = json.loads((tmp_path / "report.json").read_text())
    assert {**again, "run": report["run"]} == report


def test_a_confidence_that_the_report_split_cannot_show_is_a_broken_promise(quantized, tiny_checkpoint):
    out, report, _ = quantized
    # The drop is within the tolerance, but never by so many standard errors.
    outcome = qcaps.quantize(tiny_checkpoint, **OPTIONS, confidence=99.99, out=out)
    assert report["verdict"] == "satisfied"
    found = outcome.document["result"][0]["report"]
    assert (found["passed"], found["comparison"]["verdict"]) == (True, "inconclusive")
    assert (outcome.exit_code, outcome.document["verdict"]) == (1, "not proven")
    assert outcome.lines[0].startswith("not proven: ")


def test_the_page_tells_what_the_report_tells(quantized):
    out, report, _ = quantized
    root = check_page((out / "report.html").read_text())
    assert len(list(root.by_id("layers").all("tbody"))) == len({layer["group"] for layer in report["layers"]})
    titles = [title.text for title in root.by_id("pareto").all("title")]
    chosen = sum(plan["chosen"] for plan in report["candidates"])
    assert len([title for title in titles if " bits a weight" in title]) == report["search"]["plans_tried"] + chosen
    matrix = [row[1:] for row in next(root.by_id("images-confusion").all("table")).rows()[1:]]
    assert sum(int(row[place]) for place, row in enumerate(matrix)) == report["result"][0]["report"]["score"]["correct"]


def test_every_image_and_every_capsule_is_counted_once(quantized):
    images, found = quantized[1]["images"], quantized[1]["result"][0]["report"]["score"]
    float_network, result = images["networks"]
    assert (float_network["name"], result["name"]) == ("float", "satisfied.pt")
    assert result["correct"] == found["correct"]
    assert sum(one["images"] for one in result["confusions"]) == images["wrong_images"] == 360 - found["correct"]
    lengths = result["lengths"]
    assert [sum(lengths[kind]) for kind in ("label", "strongest_other", "others")] == [360, 360, 8 * 360]


def test_lost_images_are_those_of_the_report(quantized):
    report = quantized[1]
    lost = [one for one in report["images"]["wrong"] if one["lost"]]
    assert len(lost) == report["result"][0]["report"]["lost"]


def test_the_plan_of_the_artifact_is_among_the_plans_tried(quantized):
    report = quantized[1]
    (chosen,) = {plan["payload_bytes"] for plan in report["candidates"] if plan["chosen"]}
    assert chosen == report["result"][0]["payload_bytes"]
    assert len(report["candidates"]) == report["search"]["plans_tried"]


def test_the_sensitivity_of_the_page_is_in_images(quantized):
    rows = quantized[1]["sensitivity"]
    assert {row["losses"]["32"] for row in rows} == {0}
    assert all(abs(loss) < 300 for row in rows for loss in row["losses"].values())
    assert max(row["losses"]["2"] for row in rows) > 1
    assert all(set(map(str, row["measured"])) <= row["losses"].keys() for row in rows)
