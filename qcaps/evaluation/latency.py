"""How long one batch takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass: the median over `batches` timed batches of `batch_size` images."""

    batch_size: int
    batches: int
    median_ms: float
    images_per_second: float


def measure_latency(
    forward: Callable[[], object],
    *,
    batch_size: int,
    clock: Callable[[], float],
    warmup: int = 2,
    repeats: int = 7,
) -> Latency:
    """Time a forward pass over one batch.

    Parameters
    ----------
    forward
        Works through one batch. It must not return before the work is done: on an accelerator it has to
        synchronise.
    batch_size
        Images in that batch.
    clock
        Gives seconds and never goes back, as ``time.perf_counter`` does.
    warmup
        Batches run first and not timed.
    repeats
        Batches timed, at least 1.

    Raises
    ------
    ValueError
        If the clock is too coarse to see a batch.
    """
    for _ in range(warmup):
        forward()
    seconds = median(_time_once(forward, clock) for _ in range(repeats))
    if seconds <= 0:
        raise ValueError("the clock is too coarse: a batch took no time")
    return Latency(batch_size, repeats, median_ms=1000 * seconds, images_per_second=batch_size / seconds)


def _time_once(forward: Callable[[], object], clock: Callable[[], float]) -> float:
    """Give the seconds of one call."""
    start = clock()
    forward()
    return clock() - start
