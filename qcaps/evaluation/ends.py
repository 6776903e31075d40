"""What ends a search early: a wish to stop, a time budget, a number of image-forwards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


class Halt(Exception):  # noqa: N818  # an order, not an error
    """The search ends here, with the best it has; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


INTERRUPT = "interrupt"


@dataclass(frozen=True)
class Ends:
    """What ends a search before it is done.

    Parameters
    ----------
    stop
        Asked after every batch or candidate; yes is an interrupt.
    seconds
        Since the clock stood at `start`; infinite for no limit.
    image_forwards
        Largest count of a search; infinite for no limit.
    start, clock
        In seconds.
    """

    stop: Callable[[], bool] = lambda: False
    seconds: float = math.inf
    image_forwards: float = math.inf
    start: float = 0.0
    clock: Callable[[], float] = time.perf_counter

    def reason(self, image_forwards: int) -> str:
        """Say why to stop, or nothing."""
        if self.stop():
            return INTERRUPT
        if self.clock() - self.start > self.seconds:
            return "time budget"
        return "limit of image-forwards" if image_forwards >= self.image_forwards else ""
