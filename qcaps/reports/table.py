"""Tables of plain text, the same on a terminal and in a log."""

from __future__ import annotations

from collections.abc import Sequence


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str | int]]) -> list[str]:
    """Align the columns of a table, two spaces apart: whole numbers to the right, with thousands set apart.

    Parameters
    ----------
    head
        Name of every column.
    rows
        Cells, as many in each row as there are columns.
    """
    numeric = [any(isinstance(cell, int) for cell in column) for column in zip(*rows, strict=True)]
    texts = [list(head), *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(_aligned, row, widths, numeric)).rstrip() for row in texts]


def _aligned(text: str, width: int, numeric: bool) -> str:
    return text.rjust(width) if numeric else text.ljust(width)
