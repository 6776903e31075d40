"""Forms of one computation side by side, each in a process of its own.

What one form leaves in the allocator makes the other slower or faster by a quarter, and memory can only be measured in
a fresh process. The forms work in turns, so that a slow phase of the machine meets all of them, and in several
processes each, for where its arrays happen to lie makes a process slower or faster for good, by a quarter too.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

MEMORY_METHOD = (
    "peak memory: high-water mark of resident memory in one batch, less what was resident before it, per image"
)


@dataclass(frozen=True)
class Workload:
    """A forward pass, and a batch for it."""

    forward: Callable[[Tensor], Tensor]
    images: Tensor


@dataclass(frozen=True)
class Side:
    """What was measured of one form: images of a batch, its peak in bytes, the median seconds of every turn."""

    batch: int
    peak_bytes: int
    turns: tuple[float, ...]

    def __str__(self) -> str:
        """Say images per second and peak memory per image in MB of 10^6 bytes."""
        speed, memory = self.batch / median(self.turns), self.peak_bytes / self.batch / 1e6
        return f"{speed:10.1f} images/s {memory:8.2f} MB/image"


def measure_sides(
    forms: Sequence[Callable[[], Workload]],
    *,
    threads: int,
    starts: int = 5,
    turns: int = 3,
    turn_seconds: float = 0.5,
) -> list[Side]:
    """Measure forms in turns.

    Parameters
    ----------
    forms
        Each builds its workload inside its process, so it is a function of a module, or a partial of one.
    threads
        For computing.
    starts
        Processes of each form, one after the other.
    turns, turn_seconds
        How often a process has its turn, and how long it lasts at least. The first batch of a turn warms up and is
        not counted.
    """
    seconds: list[list[float]] = []
    for _ in range(starts):
        with ExitStack() as stack:
            pipes = [stack.enter_context(_started(form, threads, turn_seconds)) for form in forms]
            sizes: list[tuple[int, int]] = [pipe.recv() for pipe in pipes]
            seconds += [[_turn(pipe) for pipe in pipes] for _ in range(turns)]
    by_form = zip(sizes, zip(*seconds, strict=True), strict=True)
    return [Side(batch, peak_bytes, mine) for (batch, peak_bytes), mine in by_form]


def ratio(slow: Side, fast: Side) -> float:
    """Say how many times as fast the second is, by the medians of all their turns."""
    return median(slow.turns) / median(fast.turns)


@contextmanager
def _started(form: Callable[[], Workload], threads: int, turn_seconds: float) -> Iterator[Connection]:
    """Keep a process that serves one form."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(form, threads, turn_seconds, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield mine
    finally:
        mine.close()
        process.join()


def _turn(pipe: Connection) -> float:
    """Let a process have its turn: the median seconds of its batches."""
    pipe.send(None)
    return float(pipe.recv())


def _serve(form: Callable[[], Workload], threads: int, turn_seconds: float, pipe: Connection) -> None:
    """Build a form, send its batch size and peak memory, then the seconds of a batch whenever asked."""
    torch.set_num_threads(threads)
    work = form()
    with torch.inference_mode():
        work.forward(work.images[:1])
        pipe.send((len(work.images), _peak_bytes(work)))
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(_median_seconds(work, turn_seconds))


def _median_seconds(work: Workload, turn_seconds: float) -> float:
    """Run batches for about so long, at least one after the one that warms up."""
    work.forward(work.images)
    seconds: list[float] = []
    while sum(seconds) < turn_seconds:
        start = time.perf_counter()
        work.forward(work.images)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _peak_bytes(work: Workload) -> int:
    """Run one batch: how far resident memory rises above what it was before (Linux with glibc)."""
    ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed, which would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status_bytes("VmRSS")
    work.forward(work.images)
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    """Read a size of this process from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
