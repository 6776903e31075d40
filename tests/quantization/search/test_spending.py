from __future__ import annotations

from qcaps.quantization.search.spending import Ledger


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
