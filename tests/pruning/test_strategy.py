from __future__ import annotations

import json
import math

import numpy as np
import pytest

from qcaps.errors import UsageError
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.spec import build
from qcaps.pruning.strategy import by_layer, checked_widths, full_widths, width_rules

COUNTS = {"stem.channels": 64, "layer1.out.channels": 100, "primary.types": 30, "primary.dims": 8}


def widths(rules, *ratios):
    return rules.named(rules.widths(np.array(ratios)))


def one(count, ratio, *, name="stem.channels", **rules):
    return width_rules({name: count}, caps={"*": 1.0}, **rules).widths(np.array([ratio]))[0]


def test_a_width_is_what_the_floor_of_the_share_leaves():
    # EagleEye's published 50 % strategy begins so; n · (1 − ratio), cut off, would be 57.
    assert one(64, 0.10272261) == 58


@pytest.mark.parametrize("ratio", [0.0, 0.0156, 0.015625, 0.33, 0.5, 0.999])
def test_every_ratio_follows_the_floor_rule(ratio):
    assert one(64, ratio) == 64 - math.floor(64 * ratio)


def test_one_unit_always_stays():
    assert one(64, 1.0) == 1


def test_a_ratio_is_cut_off_at_the_cap_of_its_unit():
    rules = width_rules(COUNTS, caps={"*": 0.5, "primary.*": 0.25, "primary.dims": 0.0})
    assert widths(rules, 0.9, 0.3, 0.9, 0.9) == {
        "stem.channels": 32,
        "layer1.out.channels": 70,
        "primary.types": 23,
        "primary.dims": 8,
    }


def test_units_without_a_cap_are_not_cut():
    rules = width_rules(COUNTS, caps={"primary.types": 0.5})
    assert rules.named(rules.narrowest) == {**COUNTS, "primary.types": 15}


def test_floors_hold_against_every_ratio_and_never_exceed_the_count():
    rules = width_rules(COUNTS, caps={"*": 1.0}, least={"*.channels": 80, "primary.dims": 4})
    assert widths(rules, 1, 1, 1, 1) == {
        "stem.channels": 64,
        "layer1.out.channels": 80,
        "primary.types": 1,
        "primary.dims": 4,
    }


@pytest.mark.parametrize(
    ("count", "ratio", "width"),
    [
        (64, 0.30, 48),  # 45
        (64, 0.33, 40),  # 43
        (64, 0.32, 48),  # 44, a tie
        (64, 0.99, 8),  # 1
        (6, 0.5, 6),  # fewer than the multiple
        (61, 0.0, 61),  # not cut
        (61, 0.02, 61),  # 60, of which the nearest multiple is 64
        (61, 0.05, 56),  # 58
    ],
)
def test_channels_are_rounded_to_the_nearest_multiple(count, ratio, width):
    assert one(count, ratio, round_to=8) == width


@pytest.mark.parametrize("name", ["primary.types", "primary.dims", "primary.positions"])
def test_capsules_are_not_rounded(name):
    assert one(30, 0.5, name=name, round_to=8) == 15


@pytest.mark.parametrize("round_to", [1, 3, 8])
def test_a_larger_ratio_never_leaves_more(round_to):
    rules = width_rules({"stem.channels": 61}, caps={"*": 0.9}, least={"*": 5}, round_to=round_to)
    left = [int(rules.widths(np.array([ratio]))[0]) for ratio in np.linspace(0, 1, 500)]
    assert left == sorted(left, reverse=True)
    assert left[0] == 61


@pytest.mark.parametrize("round_to", [1, 8])
def test_the_ratios_of_widths_leave_these_widths(round_to):
    rules = width_rules(COUNTS, caps={"*": 0.7, "primary.dims": 0.0}, least={"stem.channels": 20}, round_to=round_to)
    for share in np.linspace(0, 1, 101):
        left = rules.widths(np.array([share, 1 - share, share**2, share]))
        ratios = rules.ratios(left)
        assert (ratios > 0).all()
        assert rules.widths(ratios).tolist() == left.tolist()


def test_a_pattern_that_matches_nothing_is_refused_with_near_names():
    with pytest.raises(UsageError, match=r"no unit is called 'primary\.type'.*primary\.types"):
        width_rules(COUNTS, caps={"*": 0.5, "primary.type": 0.1})


@pytest.mark.parametrize(
    "numbers",
    [{"caps": {"*": 1.1}}, {"caps": {"*": -0.1}}, {"caps": {}, "round_to": 0}, {"caps": {}, "least": {"*": 0}}],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(UsageError):
        width_rules(COUNTS, **numbers)


def test_the_full_strategy_names_every_unit_of_a_network():
    units = build(EfficientCapsNetSpec()).units
    assert full_widths(units) == {
        "conv1.channels": 32,
        "conv2.channels": 64,
        "conv3.channels": 64,
        "primary.types": 16,
        "primary.dims": 8,
    }


def test_a_strategy_survives_the_way_through_json():
    rules = width_rules(COUNTS, caps={"*": 0.5})
    strategy = widths(rules, 0.1, 0.2, 0.3, 0.4)
    assert checked_widths(json.loads(json.dumps(strategy)), COUNTS) == strategy


def test_a_strategy_that_is_written_down_in_part_is_completed():
    assert checked_widths({"primary.types": 3}, COUNTS) == {**COUNTS, "primary.types": 3}


@pytest.mark.parametrize("width", [0, 65, -1, 3.0, "3", None, True])
def test_a_width_that_cannot_stay_is_refused(width):
    with pytest.raises(UsageError, match="cannot stay"):
        checked_widths({"stem.channels": width}, COUNTS)


def test_a_strategy_for_a_unit_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"no unit 'stem\.types'.*stem\.channels"):
        checked_widths({"stem.types": 3}, COUNTS)


def test_a_strategy_can_be_read_layer_by_layer():
    assert by_layer(COUNTS) == {
        "stem": {"channels": 64},
        "layer1.out": {"channels": 100},
        "primary": {"types": 30, "dims": 8},
    }
