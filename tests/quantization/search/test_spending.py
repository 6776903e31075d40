from __future__ import annotations

import math

import pytest

from qcaps.quantization.search.spending import INTERRUPT, Ends, Halt, Ledger


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


def test_images_of_a_candidate_count_once_however_often_it_is_judged() -> None:
    ledger = Ledger()
    for images in (64, 150, 128, 64):
        ledger.count("a", images)
    assert ledger.image_forwards == 150


def test_candidates_and_seeds_add_up_beside_the_rest() -> None:
    ledger = Ledger(extra=1000)
    ledger.count("a", 64)
    ledger.count("b", 150)
    assert ledger.image_forwards == 1000 + 64 + 150


def test_without_rejection_every_distinct_candidate_costs_the_whole_split() -> None:
    ledger = Ledger(extra=1000)
    for key in ("a", "b", "a"):
        ledger.count(key, 64)
    assert ledger.without_rejection(5000) == 1000 + 2 * 5000
