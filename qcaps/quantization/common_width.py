"""The search for the smallest width common to all sites."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, Rounding
from qcaps.quantization.trials import Trial


@dataclass(frozen=True)
class Found:
    """What a search found.

    Parameters
    ----------
    satisfied
        Meets both promises; None if no width does.
    memory, accuracy
        Only where `satisfied` is None: the widest within the budget, and the smallest within the tolerance.
    tried
        Every width judged.
    """

    satisfied: Trial | None
    memory: Trial | None
    accuracy: Trial | None
    tried: tuple[int, ...]

    def by_file(self) -> dict[str, Trial]:
        """Give the artifacts to write, under the file names that Q-CapsNets uses."""
        named = {"satisfied.pt": self.satisfied, "memory.pt": self.memory, "accuracy.pt": self.accuracy}
        return {name: trial for name, trial in named.items() if trial is not None}


def widths_of(rounding: Rounding, min_bits: int) -> tuple[int, ...]:
    """List the widths a rounding can have, smallest first; float32, the last, is no rounding at all."""
    kind = Logarithmic if rounding == "logarithmic" else FixedPoint
    least = 2 if rounding == "logarithmic" else 1
    return (*range(max(least, min_bits), kind.max_bits + 1), Float32.bits)


def search_common_width(judge: Callable[[int], Trial], widths: Sequence[int], fits: Callable[[int], bool]) -> Found:
    """Find the smallest width that holds the tolerance, by bisection, and hold it against the budget.

    Parameters
    ----------
    judge
        Judges one width; it is asked at most once about each.
    widths
        Ascending. A width is taken to hold wherever a smaller one does; the last one is the float network,
        which holds.
    fits
        Tells whether the file of a width is within the budget, without judging it.
    """
    judge = functools.cache(judge)
    tried: set[int] = set()

    def trial(bits: int) -> Trial:
        tried.add(bits)
        return judge(bits)

    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if trial(widths[middle]).verdict.passed:
            high = middle
        else:
            low = middle + 1
    accurate = trial(widths[low])
    roomy = next((bits for bits in reversed(widths[: low + 1]) if fits(bits)), None)
    memory = None if roomy is None else trial(roomy)
    if memory is not None and memory.verdict.passed:
        return Found(memory, None, None, tuple(sorted(tried)))
    return Found(None, memory, accurate, tuple(sorted(tried)))
