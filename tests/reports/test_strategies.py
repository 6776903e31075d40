from __future__ import annotations

from xml.etree import ElementTree

from toy_pruning_reports import WIDTHS, toy_finalist, toy_pruning

from qcaps.reports.strategies import strategies_svg


def words(svg: bytes) -> list[str]:
    """Give every text of a picture."""
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")  # drawn here
    return ["".join(text.itertext()).strip() for text in texts]


def test_every_unit_is_named_with_how_many_stay():
    found = words(strategies_svg(toy_pruning()))
    assert [word for word in found if word in WIDTHS] == list(WIDTHS)
    assert [word for word in found if "/" in word] == ["20/32", "16/16", "6/8"]


def test_the_winner_and_the_other_finalists_are_apart():
    found = words(strategies_svg(toy_pruning()))
    assert "candidate 0, the winner" in found
    assert {"candidate 4", "candidate 7"} <= set(found)
    assert "rank correlation +0.50" in found


def test_a_single_finalist_has_nothing_to_be_compared_with():
    found = words(strategies_svg(toy_pruning(finalists=(toy_finalist(0, 482, won=True),), rank_correlation=None)))
    assert not any("correlation" in word for word in found)


def test_the_same_report_gives_the_same_bytes_without_a_date():
    svg = strategies_svg(toy_pruning())
    assert strategies_svg(toy_pruning()) == svg
    assert b"dc:date" not in svg


def test_a_name_from_a_stranger_stays_text():
    svg = strategies_svg(toy_pruning(message="<script>alert(1)</script> $x$"))
    assert b"<script>" not in svg
    assert "<script>alert(1)</script> $x$" in words(svg)
