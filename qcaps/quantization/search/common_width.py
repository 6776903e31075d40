"""The search for the smallest width common to all sites."""

from __future__ import annotations

from collections.abc import Sequence

from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.task import Found, Task, conclude


def search_common_width(task: Task) -> Found:
    """Find the smallest common width that keeps the tolerance, by bisection, and hold it against the budgets.

    A site that may not have the common width, because it is pinned, has the nearest below that it may have.

    Raises
    ------
    Halt
        If the search has to end; the best plan so far stands in the task.

    Notes
    -----
    A width is taken to keep the tolerance wherever a smaller one does.
    """
    free = {bits for widths in task.widths.values() if len(widths) > 1 for bits in widths}
    steps = sorted(free or {bits for widths in task.widths.values() for bits in widths})

    def spread(bits: int) -> Widths:
        return {site: at_most(widths, bits) for site, widths in task.widths.items()}

    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if task.judge(spread(steps[middle]), f"{steps[middle]} bits"):
            high = middle
        else:
            low = middle + 1
    accurate = spread(steps[low])
    task.judge(accurate, f"{steps[low]} bits")
    roomy = next((spread(bits) for bits in reversed(steps[: low + 1]) if task.fits(spread(bits))), None)
    if task.best is None and roomy is not None:
        task.judge(roomy, "within the budget")
    return conclude(task, memory=roomy, accuracy=accurate)


def at_most(widths: Sequence[int], bits: int) -> int:
    """Give the largest of some ascending widths that is not above `bits`, or the smallest."""
    return max((width for width in widths if width <= bits), default=widths[0])
