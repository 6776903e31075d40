from __future__ import annotations

import pytest

from qcaps.config import TrainConfig, configure
from qcaps.config.training_numbers import optimizer_numbers, parse_milestones
from qcaps.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "epochs"), [("30,60", (30, 60)), ("60, 30", (30, 60)), ([30, "60,90"], (30, 60, 90)), (5, (5,)), ([], ())]
)
def test_milestones_come_ascending_and_once(typed, epochs):
    assert parse_milestones(typed) == epochs


@pytest.mark.parametrize("typed", ["0", "soon", "-1", "1.5", "30;60", "1" * 50])
def test_what_is_no_milestone_is_a_usage_error(typed):
    with pytest.raises(UsageError, match="list of epochs") as raised:
        configure(TrainConfig, {"milestones": typed})
    assert raised.value.where == "--milestones"


def test_numbers_of_an_optimizer_are_numbers_switches_and_pairs():
    pairs = ["eps=1e-6", "betas=[0.9, 0.98]", "amsgrad=true", "weight-decay=3"]
    expected = {"eps": 1e-6, "betas": (0.9, 0.98), "amsgrad": True, "weight_decay": 3}
    assert optimizer_numbers(pairs) == expected


@pytest.mark.parametrize("pair", ["eps=small", "eps", "eps=NaN", "eps=Infinity", "eps=null", "betas=[]", "eps={}"])
def test_what_is_no_number_is_a_usage_error(pair):
    with pytest.raises(UsageError) as raised:
        optimizer_numbers([pair])
    assert raised.value.where == "--optimizer-arg"


@pytest.mark.parametrize("typed", [1, "1"])
def test_an_annealing_can_be_typed_as_a_number(typed):
    assert configure(TrainConfig, {"anneal_reconstruction": typed}).anneal_reconstruction == "1"
