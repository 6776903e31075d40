"""Tables of Markdown, and the figures in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcaps.errors import one_line


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table, as many cells in each row as in the head."""
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def escaped(value: object) -> str:
    """Write a value so that it cannot break out of a table cell."""
    return one_line(str(value)).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def percent(share: float) -> str:
    """Write a share as percent with two decimals."""
    return f"{100 * share:.2f} %"


def points(share: float, *, sign: str = "-") -> str:
    """Write a difference of shares in percentage points with two decimals; `sign` is ``+`` to show it always."""
    return f"{100 * share:{sign}.2f} pp"
