from __future__ import annotations

from pages import check_page, parsed
from toy_pages import toy_evaluation, toy_latency, toy_pictures
from toy_reports import toy_images

from qcaps.reports.html.evaluation import evaluation_page, short_names
from qcaps.reports.quantization import Promise


def page(*entries, latency=()) -> str:
    found = entries or (toy_evaluation(),)
    return evaluation_page(found, [toy_pictures()] * len(found), [latency] * len(found))


def test_the_page_keeps_the_rules_of_all_pages():
    root = check_page(page())
    sections = [section.attributes["id"] for section in root.all("section")]
    assert sections == [
        f"images-{name}" for name in ("classes", "confusion", "lengths", "wrong", "reconstructions", "stages")
    ]


def test_the_score_comes_first():
    (header,) = parsed(page()).all("header")
    assert header.text.startswith("Evaluation 89.50 % checkpoint.pt recognises 895 of 1,000 digits test images")
    row = next(header.all("table")).rows()[1]
    assert row[:5] == ["checkpoint.pt", "checkpoint, efficient-capsnet", "89.50 %", "87.40 to 91.30", "895 of 1,000"]


def test_every_file_has_sections_of_its_own():
    root = check_page(page(toy_evaluation(), toy_evaluation("runs/b/satisfied.pt", accuracy=0.9)))
    assert "Confusion: satisfied.pt" in [heading.text for heading in root.all("h2")]
    assert [heading.text for heading in root.all("h1")] == ["90.00 %, satisfied.pt"]


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert short_names(["/x/a/c.pt", "/x/b/c.pt", "/x/b/d.pt"]) == ["a/c.pt", "b/c.pt", "d.pt"]


def test_latency_is_shown_where_it_was_measured():
    (table,) = parsed(page(latency=toy_latency())).by_id("latency").all("table")
    assert table.rows()[1:] == [["checkpoint.pt", "1", "2.50", "400"]]
    assert "latency" not in page()


def test_names_from_strangers_stay_text():
    name = "<img src=x onerror=alert(1)>"
    root = check_page(page(toy_evaluation(f"a/{name}", facts=toy_images(class_names=("a", name)))))
    assert name in root.text


def test_promises_come_before_the_files():
    broken = Promise("accuracy of a.pt, at least", 99.0, 89.5, "%", False)
    root = check_page(evaluation_page([toy_evaluation()], [toy_pictures()], [()], [broken]))
    (header,) = root.all("header")
    assert [one.text for one in header.all("h1")] == ["✗ 89.50 %"]
    assert next(header.all("table")).rows()[1] == ["accuracy of a.pt, at least", "99 %", "89.5 %", "✗ no"]
