"""What a search spends, and what ends it early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


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
        Asked after every batch; yes is an interrupt.
    seconds
        Since the clock stood at `start`; infinite for no limit.
    image_forwards
        Largest count of a ledger; infinite for no limit.
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


@dataclass
class Ledger:
    """Image-forwards spent; what the journal already knew counts like anything else, so that a repeat says the same.

    Parameters
    ----------
    images
        Content key of a candidate and seed → images that its verdicts needed.
    extra
        Beside verdicts: the float pass and the sensitivity.
    tests
        Verdicts asked for, repeated ones included.
    whole
        What these tests would have cost with neither early rejection nor a journal.
    """

    images: dict[str, int] = field(default_factory=dict)
    extra: int = 0
    tests: int = 0
    whole: int = 0

    def count(self, key: str, images: int) -> None:
        """Note that a verdict needed the first `images` images of a candidate."""
        self.images[key] = max(images, self.images.get(key, 0))

    @property
    def image_forwards(self) -> int:
        """Count distinct pairs of candidate and image."""
        return self.extra + sum(self.images.values())

    def without_rejection(self, split: int) -> int:
        """Count what whole evaluations of the same distinct candidates on `split` images would have cost."""
        return self.extra + split * len(self.images)
