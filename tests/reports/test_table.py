from __future__ import annotations

from qcaps.reports.table import table_lines


def test_numbers_stand_right_with_thousands_apart_and_words_left() -> None:
    assert table_lines(("name", "values", "note"), [("a", 1_234, "x"), ("longer", 5, "yy")]) == [
        "name    values  note",
        "a        1,234  x",
        "longer       5  yy",
    ]


def test_a_wide_number_widens_its_column() -> None:
    assert table_lines(("a", "b"), [(1_000_000, ""), (2, "z")]) == ["        a  b", "1,000,000", "        2  z"]
