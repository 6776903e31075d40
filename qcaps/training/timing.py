"""How long the steps of an epoch take, and how long they wait for their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Timing:
    """The steps of one epoch so far, those before an interruption included; scoring is not among them.

    Parameters
    ----------
    images
        Learned from.
    seconds
        All steps together.
    waiting_seconds
        Part of them in which the images of a step were not ready yet.
    """

    images: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Give the speed of learning."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        """Give the share of the time spent waiting for images, in [0, 1]."""
        return self.waiting_seconds / self.seconds if self.seconds else 0.0


def total(timings: Sequence[Timing]) -> Timing:
    """Add up epochs."""
    return Timing(
        sum(each.images for each in timings),
        sum(each.seconds for each in timings),
        sum(each.waiting_seconds for each in timings),
    )
