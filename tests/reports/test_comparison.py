from __future__ import annotations

import pytest

from qcaps.reports.comparison import short_names
from qcaps.reports.promises import promise_row
from qcaps.reports.quantization import Promise
from qcaps.reports.typeset import typeset


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/x.pt", "b/y.pt"], ["x.pt", "y.pt"]),
        (["a/x.pt", "b/x.pt"], ["a/x.pt", "b/x.pt"]),
        (["r/a/q/x.pt", "r/b/q/x.pt"], ["a/q/x.pt", "b/q/x.pt"]),
        (["x.pt", "x.pt"], ["x.pt", "x.pt"]),
        (["x.pt", "a/x.pt"], ["x.pt", "a/x.pt"]),
    ],
)
def test_files_are_named_as_shortly_as_tells_them_apart(files, names):
    assert short_names(files) == names


def test_a_promise_is_told_in_its_unit():
    assert promise_row(Promise("size", 1000, 999, "bytes", True)) == ("size", "1.000 kB", "999 B", "yes")
    assert promise_row(Promise("growth", 5.0, 7.25, "%", False)) == ("growth", "5 %", "7.25 %", "no")


def test_cells_cannot_break_out_of_a_table():
    rows = [["a|b\n&", 1_000]]
    assert typeset("text", ("x", "y"), rows) == "x          y\na|b &  1,000"
    assert typeset("markdown", ("x", "y"), rows).splitlines()[-1] == r"| a\|b & | 1,000 |"
    assert typeset("latex", ("50%", "y_1"), rows).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"50\% & y\_1 \\",
        r"\midrule",
        r"a|b \& & 1,000 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
