from __future__ import annotations

import math

import pytest

from qcaps.evaluation.ends import INTERRUPT, Ends, Halt


def test_nothing_ends_a_search_by_default() -> None:
    assert Ends().reason(10**15) == ""


@pytest.mark.parametrize(("now", "reason"), [(100.0, ""), (110.0, ""), (110.001, "time budget"), (1e9, "time budget")])
def test_time_is_counted_from_the_start(now: float, reason: str) -> None:
    assert Ends(seconds=10, start=100.0, clock=lambda: now).reason(0) == reason


@pytest.mark.parametrize(("count", "ends"), [(0, False), (999, False), (1000, True), (1001, True)])
def test_image_forwards_end_a_search_once_they_are_spent(count: int, ends: bool) -> None:
    assert (Ends(image_forwards=1000).reason(count) == "limit of image-forwards") is ends


def test_an_interrupt_comes_before_any_limit() -> None:
    ends = Ends(lambda: True, seconds=1, image_forwards=1, clock=lambda: math.inf)
    assert ends.reason(5) == INTERRUPT


def test_a_halt_says_why() -> None:
    assert (Halt("time budget").reason, str(Halt("time budget"))) == ("time budget", "time budget")
