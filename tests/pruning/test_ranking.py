from __future__ import annotations

import torch

from qcaps.pruning.ranking import kept_units


def test_the_most_important_units_stay_in_their_order():
    scores = {"a.channels": torch.tensor([0.3, 0.9, 0.1, 0.5]), "b.types": torch.tensor([2.0, 1.0])}
    assert kept_units(scores, {"a.channels": 2, "b.types": 1}) == {"a.channels": (1, 3), "b.types": (0,)}


def test_among_equals_the_lowest_indices_stay():
    scores = {"a.channels": torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0, 1.0])}
    assert kept_units(scores, {"a.channels": 4}) == {"a.channels": (0, 1, 2, 4)}


def test_units_that_all_stay_are_listed_too():
    assert kept_units({"a.dims": torch.tensor([3.0, 1.0, 2.0])}, {"a.dims": 3}) == {"a.dims": (0, 1, 2)}
