from __future__ import annotations

import pytest
from pages import check_page, parsed
from toy_pages import PAGES
from toy_reports import toy_report

from qcaps.reports.html.quantization import quantization_page
from qcaps.reports.html.run import StepPage, run_page
from qcaps.reports.pictures import Pictures


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: write() for name, write in PAGES.items()}


def page(pages: dict[str, str], *, broken: str = "", resolved: str = "steps:\n- step: train\n") -> str:
    steps = [StepPage(name, int(name == broken), text) for name, text in pages.items()]
    return run_page("A toy.", steps, resolved)


def test_the_page_keeps_the_rules_of_all_pages(pages):
    root = check_page(page(pages))
    top = [section.attributes["id"] for section in root.all("section") if not section.attributes["id"].count("-")]
    assert top == ["step1", "step2", "step3", "step4", "recipe"]
    (nav,) = root.all("nav")
    assert [link.attributes["href"] for link in nav.all("a")] == ["#step1", "#step2", "#step3", "#step4", "#recipe"]


def test_every_section_of_every_step_is_there(pages):
    root = parsed(page(pages))
    for number, text in enumerate(pages.values(), start=1):
        for section in parsed(text).all("section"):
            assert root.by_id(f"step{number}-{section.attributes['id']}").text == section.text


def test_the_verdict_is_that_of_all_steps(pages):
    assert [one.text for one in parsed(page(pages)).all("h1")] == ["✓ Every promise is kept"]
    (header,) = parsed(page(pages, broken="pruning")).all("header")
    assert "✗ Not every promise is kept" in header.text
    assert "See pruning." in header.text
    rows = next(table for table in header.all("table") if "its own page" in table.text).rows()
    assert [row[2] for row in rows[1:]] == ["✓ kept", "✗ broken", "", ""]


def test_promises_and_results_of_the_steps_come_first(pages):
    (header,) = parsed(page(pages)).all("header")
    assert "memory budget (file) 100.000 kB 90.500 kB ✓ yes" in header.text
    assert "Epoch 2 of 3 recognises 480 of 500 validation images." in header.text


def test_a_run_that_promised_nothing_is_done(pages):
    text = run_page("A toy.", [StepPage("train", 0, pages["training"])], "")
    assert [one.text for one in parsed(text).all("h1")] == ["✓ Done"]


def test_every_step_leads_to_its_own_page(pages):
    links = [link.attributes["href"] for link in next(parsed(page(pages)).all("header")).all("a")]
    assert "quantization/report.html" in links


def test_a_step_without_a_page_says_so():
    root = check_page(run_page("", [StepPage("old", 0, "")], ""))
    assert "wrote no page" in root.by_id("step1").text


def test_the_recipe_is_shown_line_by_line(pages):
    assert "<pre" in page(pages)
    assert "steps:\n- step: train\n</pre>" in page(pages)


def test_a_step_with_hostile_text_cannot_end_its_part(pages):
    hostile = '<!-- /sections --> id="main" <h1>'
    text = quantization_page(toy_report(warnings=(hostile,), inputs={"a": hostile}), Pictures())
    root = check_page(run_page(hostile, [StepPage(hostile, 0, text)], hostile))
    assert root.by_id("step1-inputs").text.count('id="main"') == 1
