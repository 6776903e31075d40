from __future__ import annotations

import json

import pytest

from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.config import PruneConfig, configure
from qcaps.errors import InfeasibleError, UsageError
from qcaps.verbs import prune_job
from qcaps.verbs.prune_job import make_job, read_strategy

COUNTS = {"conv1.channels": 8, "conv2.channels": 8, "conv3.channels": 8, "primary.types": 2, "primary.dims": 8}


@pytest.fixture(scope="module")
def costs(tiny_checkpoint):
    return prune_job.cost_model(read_checkpoint(tiny_checkpoint)[0].model)


@pytest.fixture
def job(tiny_checkpoint, costs, monkeypatch):
    """Make a job out of options."""
    monkeypatch.setattr(prune_job, "cost_model", lambda spec, convention: costs)
    return lambda **options: make_job(tiny_checkpoint, configure(PruneConfig, options))


def test_every_unit_that_costs_may_be_cut_as_far_as_eagleeye_cuts(job):
    rules = job(flops=0.5).rules
    assert rules.counts == COUNTS
    assert set(rules.caps.values()) == {0.7}
    assert set(job(flops=0.25).rules.caps.values()) == {0.8}


def test_units_that_change_no_target_stay_whole(job):
    assert [unit for unit, cap in job(capsules=0.5).rules.caps.items() if cap] == ["primary.types"]


def test_the_smallest_target_says_how_far(job):
    found = job(flops=0.5, params=0.25)
    assert [(one.target.kind, one.target.kept) for one in found.budgets] == [("flops", 0.5), ("params", 0.25)]
    assert set(found.rules.caps.values()) == {0.8}


def test_only_some_units_are_cut_and_some_are_not(job):
    caps = job(flops=0.8, only=["conv*"], skip=["conv1.*"]).rules.caps
    assert [unit for unit, cap in caps.items() if cap] == ["conv2.channels", "conv3.channels"]


def test_the_last_cap_that_matches_counts_and_frees_no_unit_that_stays(job):
    caps = job(flops=0.5, cap=["0.75", "conv2.*=0.125"], skip=["primary.dims"]).rules.caps
    assert list(caps.values()) == [0.75, 0.125, 0.75, 0.75, 0.0]


def test_least_widths_and_multiples_reach_the_rules(job):
    rules = job(flops=0.5, at_least=["2", "conv3.*=5"], round_to=4).rules
    assert list(rules.least.values()) == [2, 2, 5, 2, 2]
    assert list(rules.multiples.values()) == [4, 4, 4, 1, 1]


def test_a_latency_lets_every_unit_go_and_is_measured_later(job):
    found = job(latency=0.6)
    assert [target.kind for target in found.targets] == ["latency"]
    assert found.budgets == ()
    assert all(cap > 0 for cap in found.rules.caps.values())


@pytest.mark.parametrize(
    ("options", "what", "where"),
    [
        ({}, "nothing says how small", ""),
        ({"params": 0}, "no fraction to keep", "--params"),
        ({"latency": 0}, "no fraction to keep", "--latency"),
        ({"flops": 1.5}, "above 1", "--flops"),
        ({"flops": 0.5, "only": ["conv9.*"]}, "no unit is called 'conv9.*'", ""),
        ({"flops": 0.5, "skip": ["class_caps.*"]}, "no unit is called 'class_caps.*'", ""),
        ({"flops": 0.5, "cap": ["conv9.*=0.5"]}, "no unit is called 'conv9.*'", ""),
        ({"flops": 0.5, "at_least": ["conv9.*=5"]}, "no unit is called 'conv9.*'", ""),
        ({"flops": 0.5, "cap": "much"}, "not a pattern and a share", "--cap"),
    ],
)
def test_what_cannot_be_asked_is_refused(job, options, what, where):
    with pytest.raises(UsageError) as raised:
        job(**options)
    assert what in raised.value.what
    assert raised.value.where == where


def test_a_target_below_the_narrowest_network_is_refused(job):
    with pytest.raises(InfeasibleError, match=r"no strategy keeps 0\.5 of the MACs: the narrowest keeps"):
        job(flops=0.5, only=["conv1.*"])


# ---- a strategy that was written down


@pytest.mark.parametrize(
    ("told", "widths"),
    [
        ({"conv2.channels": 3}, COUNTS | {"conv2.channels": 3}),
        ([5, 6, 7, 1, 8], dict(zip(COUNTS, (5, 6, 7, 1, 8), strict=True))),
    ],
)
def test_widths_are_told_by_name_or_in_order(tmp_path, costs, told, widths):
    (tmp_path / "strategy.json").write_text(json.dumps(told))
    assert read_strategy(tmp_path / "strategy.json", costs) == widths


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1, 2]", "neither a mapping of units nor a list of all their widths"),
        ('"half"', "neither a mapping"),
        ('{"conv9.channels": 3}', "no unit 'conv9.channels'"),
        ('{"conv1.channels": 9}', "'9' of 8 conv1.channels"),
        ('{"conv1.channels": 0.5}', "'0.5' of 8"),
        ("[5, 6, 7, true, 6]", "'True' of 2"),
    ],
)
def test_a_strategy_that_is_none_is_refused_with_its_file(tmp_path, costs, text, what):
    strategy = tmp_path / "strategy.json"
    strategy.write_text(text)
    with pytest.raises(UsageError, match=what) as raised:
        read_strategy(strategy, costs)
    assert raised.value.where == str(strategy)


def test_a_missing_strategy_is_a_usage_error(tmp_path, costs):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_strategy(tmp_path / "nowhere.json", costs)
