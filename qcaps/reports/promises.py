"""What the user asked for, judged: the same cells in every table."""

from __future__ import annotations

from collections.abc import Iterable

from qcaps.config.sizes import format_size
from qcaps.reports.quantization import Promise

HEAD = ("promise", "limit", "found", "kept")


def promise_row(promise: Promise) -> tuple[str, str, str, str]:
    """Write a promise in four cells: its name, limit, figure, and whether it is kept."""
    limit, found = (
        format_size(int(value)) if promise.unit == "bytes" else f"{value:.6g} {promise.unit}"
        for value in (promise.limit, promise.found)
    )
    return promise.name, limit, found, "yes" if promise.kept else "no"


def broken_lines(promises: Iterable[Promise]) -> list[str]:
    """Say in a line each which promises are not kept."""
    rows = [promise_row(promise) for promise in promises if not promise.kept]
    return [f"not kept: {name} {limit}, found {found}" for name, limit, found, _ in rows]
