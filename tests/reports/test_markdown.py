from __future__ import annotations

import dataclasses

import pytest
from toy_reports import toy_layer, toy_model, toy_report, toy_split

from qcaps.reports.markdown import CHARACTER_LIMIT, ROW_LIMIT, markdown, percent
from qcaps.reports.quantization import Promise, QuantizationReport, to_document


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
    assert text.startswith("# Satisfied\n\nsatisfied: 4 bits in 90.500 kB\n")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Promises", "## Figures", "## Layers", "## How it was found", "## Inputs and versions"]


def test_promises_are_listed_with_their_units() -> None:
    broken = Promise("accuracy on the report split", 9, 12, "images lost", False)
    report = toy_report(promises=(*toy_report().promises, broken))
    assert rows(report, "Promises")[2:] == [
        ["accuracy on the search split", "9 images lost", "3 images lost", "yes"],
        ["memory budget (file)", "100.000 kB", "90.500 kB", "yes"],
        ["accuracy on the report split", "9 images lost", "12 images lost", "**no**"],
    ]


def test_every_model_has_a_column_of_figures() -> None:
    other = toy_model("accuracy.pt", bits=7, search=toy_split(1, 9), report=toy_split(30, 10, split="test"))
    found = figures(toy_report(result=(toy_model("memory.pt"), other)))
    assert found[""] == ["float", "memory.pt", "accuracy.pt"]
    assert found["bits"] == ["32", "4", "7"]
    assert found["file"] == ["", "90.500 kB", "90.500 kB"]
    assert found["weight payload"] == ["650.000 kB", *["81.250 kB (8.00x smaller)"] * 2]
    assert found["activations per image"] == ["", *["1.234 kB (7.50x smaller)"] * 2]
    assert found["accuracy, validation (1000 images)"] == ["90.00 %", "89.70 %", "89.90 %"]
    assert found["accuracy, test (1000 images)"][0] == "90.10 % (88.10 to 91.80)"
    assert found["accuracy, test (1000 images)"][2] == "87.00 % (85.00 to 95.00)"
    assert found["lost / gained, validation"] == ["", "5 / 2", "1 / 0"]
    assert found["lost / gained, test"] == ["", "7 / 1", "30 / 0"]
    assert found["claim at 95 %"][2] == "fail"


def test_the_smallest_drop_that_a_split_can_show_is_printed_in_points() -> None:
    # (1.645 + 0.842) · √8 / 1000
    assert figures(toy_report())["smallest drop this split can show"] == ["", "0.70 pp"]


def test_uniform_routing_stands_beside_the_result() -> None:
    assert "the quantized network scores 81.23 % and the float one 84.56 %." in markdown(toy_report())


def test_every_warning_is_shown() -> None:
    text = markdown(toy_report(warnings=("too small", "routing is off")))
    assert "> **Warning:** too small\n" in text
    assert "> **Warning:** routing is off\n" in text


def test_a_layer_shows_its_format_and_its_saturation() -> None:
    first, second = rows(toy_report(), "Layers")[2:]
    assert first == ["conv1.weight", "weights", "4", "0", "12,345", "6.173 kB", "1.25 %"]
    assert second[3] == ""


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for heading in ("Promises", "Figures", "Layers", "How it was found", "Inputs and versions"):
        assert len({len(row) for row in rows(toy_report(), heading)}) == 1, heading


@pytest.mark.parametrize("extra", [0, 1, 57])
def test_long_tables_are_cut_and_say_so(extra: int) -> None:
    layers = tuple(toy_layer(f"conv{i}.weight") for i in range(ROW_LIMIT + extra))
    text = markdown(toy_report(layers=layers))
    assert len(rows(toy_report(layers=layers), "Layers")) == ROW_LIMIT + 2
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
    found = markdown(toy_report(warnings=(text,), search={"note": text}))
    assert found.count(text.replace("<", "&lt;").replace("|", "\\|")) == 2
    assert text not in found


@pytest.mark.parametrize(
    ("share", "written"), [(0, "0.00 %"), (1, "100.00 %"), (0.12345, "12.35 %"), (2 / 3, "66.67 %")]
)
def test_a_share_is_written_as_percent_with_two_decimals(share: float, written: str) -> None:
    assert percent(share) == written


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
