from __future__ import annotations

import dataclasses

import pytest
from toy_reports import toy_layer, toy_model, toy_report, toy_row, toy_search, toy_split

from qcaps.reports.markdown import CHARACTER_LIMIT, ROW_LIMIT, markdown
from qcaps.reports.markdown_table import percent, points
from qcaps.reports.quantization import Promise, QuantizationReport, RoutingChange, to_document

HEADINGS = [
    "Promises",
    "Figures",
    "Routing",
    "Classes, test",
    "Layers of satisfied.pt",
    "How it was found",
    "Inputs and versions",
]


def rows(report: QuantizationReport, heading: str) -> list[list[str]]:
    """Give the cells of the table below a heading, read as Markdown reads them."""
    section = markdown(report).split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [line.replace("\\\\", "\x00").replace("\\|", "\x01").split("|")[1:-1] for line in lines]
    return [[cell.strip().replace("\x01", "|").replace("\x00", "\\") for cell in row] for row in cells]


def figures(report: QuantizationReport) -> dict[str, list[str]]:
    return {name: values for name, *values in rows(report, "Figures")}


def test_the_verdict_and_the_promises_come_first() -> None:
    text = markdown(toy_report())
    assert text.startswith("# Satisfied\n\nsatisfied: 2.4 bits a weight\n")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == HEADINGS


def test_a_search_that_was_stopped_early_says_so_before_anything_else() -> None:
    text = markdown(toy_report(search=toy_search(stopped_early="time budget")))
    assert text.split("\n## ")[0].endswith(
        "> **Stopped early: time budget.** This is the best that was found until then.\n"
    )
    assert "Stopped" not in markdown(toy_report())


def test_promises_are_listed_with_their_units() -> None:
    broken = Promise("accuracy on the report split", 9, 12, "images lost", False)
    unproven = Promise("accuracy at 95 %", 18.802, 23.4567891, "images lost at most", False)
    report = toy_report(promises=(*toy_report().promises, broken, unproven))
    assert rows(report, "Promises")[2:] == [
        ["accuracy on the search split", "9 images lost", "3 images lost", "yes"],
        ["memory budget (file)", "100.000 kB", "90.500 kB", "yes"],
        ["accuracy on the report split", "9 images lost", "12 images lost", "**no**"],
        ["accuracy at 95 %", "18.802 images lost at most", "23.4568 images lost at most", "**no**"],
    ]


def test_every_model_has_a_column_of_figures() -> None:
    other = toy_model("accuracy.pt", weight_bits=7, search=toy_split(1, 9), report=toy_split(30, 10, split="test"))
    found = figures(toy_report(result=(toy_model("memory.pt"), other)))
    assert found[""] == ["float", "memory.pt", "accuracy.pt"]
    assert found["bits per weight"] == ["32", "2.43", "7.00"]
    assert found["bits per activation"] == ["32", "5.06", "5.06"]
    assert found["file"] == ["", "90.500 kB", "90.500 kB"]
    assert found["weight payload"] == ["650.000 kB", *["81.250 kB (8.00x smaller)"] * 2]
    assert found["activations per image"] == ["9.260 kB", *["1.234 kB (7.50x smaller)"] * 2]
    assert found["activations at their peak"] == ["8.000 kB", *["1.000 kB (8.00x smaller)"] * 2]
    assert found["weights by reference accounting"] == ["", *["80.000 kB (8.10x smaller)"] * 2]
    assert found["activations by the same"] == ["", *["6.25x smaller"] * 2]
    assert found["accuracy, validation (1000 images)"] == ["90.00 %", "89.70 %", "89.90 %"]
    assert found["accuracy, test (1000 images)"][0] == "90.10 % (88.10 to 91.80)"
    assert found["accuracy, test (1000 images)"][2] == "87.00 % (85.00 to 95.00)"
    assert found["lost / gained, validation"] == ["", "5 / 2", "1 / 0"]
    assert found["lost / gained, test"] == ["", "7 / 1", "30 / 0"]
    assert found["best of 23 plans: likely too high on validation by"] == ["", "0.46 pp", "0.46 pp"]
    assert found["drop, and the drop accepted"][2] == "3.00 pp, 1.00 pp"
    assert found["claim at 95 %"][2] == "fail"
    # 30 losses and no gain: 2^-30, and sqrt(30 - 30^2 / 1000) / 1000.
    assert found["McNemar p"][2] == "9.31e-10"
    assert found["standard error of the drop"][2] == "0.54 pp"
    assert found["drop at most, at 95 %"][2] == "3.89 pp"


def test_the_claim_is_told_with_the_confidence_it_was_made_with() -> None:
    found = figures(toy_report(confidence=99.5))
    assert {"claim at 99.5 %", "drop at most, at 99.5 %"} <= found.keys()


def test_the_smallest_drop_that_a_split_can_show_is_printed_in_points() -> None:
    # (1.645 + 0.842) · √8 / 1000
    assert figures(toy_report())["smallest drop this split can show"] == ["", "0.70 pp"]


def test_uniform_routing_stands_beside_the_result() -> None:
    assert "the quantized network scores 81.23 % and the float one 84.56 %." in markdown(toy_report())


def test_what_rounding_did_to_the_routing_is_told_by_iteration() -> None:
    head, _, *found = rows(toy_report(), "Routing")
    assert head == ["256 search images", "site", "float", "quantized"]
    assert found == [
        ["entropy of coupling", "class_caps.coupling@1", "1.0000", "0.9877"],
        ["entropy of coupling", "class_caps.coupling@2", "0.7500", ""],
        ["share of zero logits", "class_caps.logits@1", "0.0000", "0.5000"],
    ]


def test_a_network_without_routing_has_no_table_of_it() -> None:
    assert rows(toy_report(routing=RoutingChange(256, (), ())), "Routing") == []


def test_every_class_with_images_is_told_with_what_it_lost_and_gained() -> None:
    models = (toy_model("memory.pt"), toy_model("accuracy.pt"))
    assert rows(toy_report(result=models), "Classes, test") == [
        ["class", "images", "float", "memory.pt", "accuracy.pt"],
        ["---"] * 5,
        ["zero", "400", "95.00 %", *["-5 / +1 (-1.00 pp)"] * 2],
        ["one", "600", "86.83 %", *["-2 / +0 (-0.33 pp)"] * 2],
    ]


def test_searches_are_compared_column_by_column() -> None:
    other = toy_row("qcapsnets", satisfied=False, image_forwards=12_345, net_losses=-2)
    run = {"search_seconds": {"pareto, truncation": 12.34}}
    head, _, *found = rows(toy_report(comparison=(toy_row(), other), run=run), "Searches")
    assert head == ["", "pareto, truncation", "qcapsnets, truncation"]
    cells = {name: values for name, *values in found}
    assert cells["satisfied"] == ["yes", "**no**"]
    assert cells["file"] == ["90.500 kB"] * 2
    assert cells["weight payload"] == ["81.250 kB (8.00x)"] * 2
    assert cells["activations per image"] == ["1.234 kB (7.50x)"] * 2
    assert cells["bits per weight / activation"] == ["2.43 / 5.06"] * 2
    assert cells["accuracy, validation"] == ["89.70 % (3 lost net)", "89.70 % (-2 lost net)"]
    assert cells["image-forwards"] == ["6,000", "12,345"]
    assert cells["without early rejection"] == ["23,000"] * 2
    assert cells["and nothing remembered"] == ["24,000"] * 2
    assert cells["seconds"] == ["12.3", ""]


def test_a_reproducible_comparison_holds_no_seconds() -> None:
    found = rows(toy_report(comparison=(toy_row(),), run=None), "Searches")
    assert found[-1] == ["seconds", ""]


def test_how_it_was_found_tells_the_cost_beside_that_of_the_sequential_search() -> None:
    found = dict(rows(toy_report(search=toy_search(details={"dropped_iterations": 1})), "How it was found")[2:])
    assert found == {
        "search": "pareto",
        "rounding": "truncation",
        "scales": "one per tensor",
        "seeds": "42",
        "plans tried": "23",
        "image-forwards": "6,000",
        "without early rejection": "23,000",
        "and nothing remembered": "24,000",
        "the sequential search of Q-CapsNets, at least": "15,000",
        "stopped early": "no",
        "evaluated with": "float",
        "batch norms folded": "yes",
        "channels balanced, biases corrected": "yes",
        "dropped iterations": "1",
    }


def test_every_warning_is_shown() -> None:
    text = markdown(toy_report(warnings=("too small", "routing is off")))
    assert "> **Warning:** too small\n" in text
    assert "> **Warning:** routing is off\n" in text


def test_a_layer_shows_its_format_its_saturation_and_its_sensitivity() -> None:
    layers = (toy_layer("conv1.weight", (-2, 1), 0.001234), toy_layer("conv1.bias", (3, 3)), toy_layer("a.out", None))
    first, second, third = rows(toy_report(layers=layers), "Layers of satisfied.pt")[2:]
    assert first == ["conv1.weight", "weights", "4", "-2…1", "12,345", "6.173 kB", "1.25 %", "1.23e-03"]
    assert (second[3], second[7], third[3]) == ("3", "", "")


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for heading in HEADINGS:
        assert len({len(row) for row in rows(toy_report(), heading)}) == 1, heading


@pytest.mark.parametrize("extra", [0, 1, 57])
def test_long_tables_are_cut_and_say_so(extra: int) -> None:
    layers = tuple(toy_layer(f"conv{i}.weight") for i in range(ROW_LIMIT + extra))
    text = markdown(toy_report(layers=layers))
    assert len(rows(toy_report(layers=layers), "Layers of satisfied.pt")) == ROW_LIMIT + 2
    assert (f"{extra} more rows in report.json" in text) is (extra > 0)


def test_a_full_table_of_long_names_stays_below_the_limit() -> None:
    layers = tuple(toy_layer("block4.capsules.class_caps.coupling@3" + "x" * 60) for _ in range(5000))
    assert len(markdown(toy_report(layers=layers))) < CHARACTER_LIMIT < 65_536


@pytest.mark.parametrize("length", [CHARACTER_LIMIT - 3000, 2 * CHARACTER_LIMIT])
def test_whatever_is_written_stays_within_the_limit(length: int) -> None:
    text = markdown(toy_report(inputs={"checkpoint": "x" * length}))
    assert len(text) <= CHARACTER_LIMIT
    assert text.endswith("Cut; see report.json.\n") is (length > CHARACTER_LIMIT)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a|b.pt", "a\\|b.pt"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a\\|b", "a\\\\\\|b"),
        ("a\n| forged | row |", "a \\| forged \\| row \\|"),
        ("a\r\nb", "a  b"),
        ("a\rb", "a b"),
        ("a\u2028b", "a b"),
        ("a\x1b[2Jb", "a [2Jb"),
    ],
)
def test_a_hostile_name_stays_in_its_cell(name: str, written: str) -> None:
    text = markdown(toy_report(inputs={"checkpoint": name}, versions={}))
    assert f"| checkpoint | {written} |\n" in text
    assert rows(toy_report(inputs={"checkpoint": name}, versions={}), "Inputs and versions")[2:] == [
        ["checkpoint", written.replace("\\\\", "\x00").replace("\\|", "|").replace("\x00", "\\")]
    ]


@pytest.mark.parametrize("text", ["5 < 6 | 7", "<img src=x>"])
def test_warnings_and_search_figures_are_escaped_too(text: str) -> None:
    found = markdown(toy_report(warnings=(text,), search=toy_search(details={"note": text})))
    assert found.count(text.replace("<", "&lt;").replace("|", "\\|")) == 2
    assert text not in found


@pytest.mark.parametrize(
    ("share", "written"), [(0, "0.00 %"), (1, "100.00 %"), (0.12345, "12.35 %"), (2 / 3, "66.67 %")]
)
def test_a_share_is_written_as_percent_with_two_decimals(share: float, written: str) -> None:
    assert percent(share) == written


def test_a_difference_is_written_in_points_with_its_sign_if_asked() -> None:
    assert [points(0.01234), points(-0.005), points(0.01, sign="+"), points(0.0, sign="+")] == [
        "1.23 pp",
        "-0.50 pp",
        "+1.00 pp",
        "+0.00 pp",
    ]


def test_a_document_holds_everything_under_its_schema() -> None:
    report = toy_report()
    document = to_document(report)
    fields = {field.name for field in dataclasses.fields(report)}
    assert document.keys() == fields | {"schema"}
    assert document["schema"] == "qcaps.report/1"
    assert document["promises"] == (
        {"name": "accuracy on the search split", "limit": 9, "found": 3, "unit": "images lost", "kept": True},
        {"name": "memory budget (file)", "limit": 100_000, "found": 90_500, "unit": "bytes", "kept": True},
    )


def test_a_reproducible_document_has_no_run() -> None:
    assert "run" not in to_document(toy_report(run=None))
    assert to_document(toy_report())["run"] == {"seconds": 1.5}
