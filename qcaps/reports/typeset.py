"""One table for every reader: plain text, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from qcaps.errors import one_line
from qcaps.reports.markdown_table import escaped, markdown_table
from qcaps.reports.table import table_lines

Cell = str | int
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def typeset(kind: Literal["text", "markdown", "latex"], head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Write a table without a final newline.

    Parameters
    ----------
    kind
        For whom; LaTeX needs the package booktabs.
    head
        Name of every column.
    rows
        Cells, as many in each row as there are columns; whole numbers get thousands apart.
    """
    if kind == "text":
        return "\n".join(table_lines([one_line(cell) for cell in head], [[_plain(cell) for cell in r] for r in rows]))
    texts = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    if kind == "markdown":
        return markdown_table(
            [escaped(cell) for cell in head], [[escaped(cell) for cell in row] for row in texts]
        ).rstrip()
    numeric = [any(isinstance(cell, int) for cell in column) for column in zip(*rows, strict=True)]
    lines = [r"\begin{tabular}{" + "".join("r" if n else "l" for n in numeric) + "}", r"\toprule", _latex(head)]
    return "\n".join([*lines, r"\midrule", *map(_latex, texts), r"\bottomrule", r"\end{tabular}"])


def _plain(cell: Cell) -> Cell:
    return one_line(cell) if isinstance(cell, str) else cell


def _latex(cells: Sequence[str]) -> str:
    return " & ".join("".join(LATEX.get(c, c) for c in one_line(cell)) for cell in cells) + r" \\"
