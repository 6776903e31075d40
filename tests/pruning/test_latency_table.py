from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from toys import NORMED

from qcaps.evaluation.cost_model import cost_model
from qcaps.pruning import latency_table as module
from qcaps.pruning.latency_table import LatencyCheck, LatencyTable, latency_table, measured_latency, work_of
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import Target, budget, meet

MODEL = cost_model(NORMED)
LAYERS = MODEL.macs.names
FULL = MODEL.vector({})
IMAGES = torch.zeros(2, 1, 14, 14)


def seconds_by_call():
    """Give a clock that goes on by a second whenever it is read."""
    return itertools.count().__next__


def table_of(milliseconds, *, shares=(0.25, 0.5, 1.0), full=100.0):
    """Make a table of layers that were timed at some shares of their full work."""
    work = np.outer(work_of(MODEL, FULL), shares)
    return LatencyTable(MODEL, work, np.array(milliseconds, float) * np.ones((len(work), 1)), full)


def test_the_work_of_a_layer_is_its_macs_and_values_and_the_last_is_that_of_all():
    cost = MODEL.at({})
    assert work_of(MODEL, FULL)[:-1].tolist() == [layer.macs + layer.activation_values for layer in cost.layers]
    assert work_of(MODEL, FULL)[-1] == cost.macs + cost.activation_bytes / 4


def test_an_entry_of_the_table_is_predicted_as_it_was_measured():
    rules = width_rules(MODEL.units, caps={"*": 1.0})
    vectors = [rules.widths(np.full(len(FULL), 1 - share)) for share in (0.25, 0.5, 1.0)]
    work = np.stack([work_of(MODEL, widths) for widths in vectors], 1)
    milliseconds = np.arange(work.size).reshape(work.shape) + 1.0
    table = LatencyTable(MODEL, work, milliseconds, 100.0)
    assert [table(widths) for widths in vectors] == pytest.approx(milliseconds.sum(0).tolist())


def test_between_two_entries_a_layer_is_interpolated_by_its_work():
    slow = np.zeros((len(LAYERS) + 1, 3))
    slow[LAYERS.index("conv3")] = 1.0, 3.0, 11.0
    table = table_of(slow)
    widths = MODEL.vector({"conv3.channels": 5})  # 5 of 6: its work is 5/6, two thirds of the way from 1/2 to 1
    assert table(widths) == pytest.approx(3 + 8 * 2 / 3)


def test_below_the_first_entry_the_time_stays_as_it_is_there():
    assert table_of([2.0, 3.0, 4.0])(np.ones_like(FULL)) == pytest.approx(2.0 * (len(LAYERS) + 1), rel=0.2)
    slow = np.zeros((len(LAYERS) + 1, 3))
    slow[LAYERS.index("conv1")] = 5.0, 6.0, 7.0
    assert table_of(slow, shares=(0.5, 0.7, 1.0))(MODEL.vector({"conv1.channels": 1})) == 5.0


def test_fewer_units_are_never_predicted_to_take_longer():
    draws = np.random.default_rng(0)
    table = table_of(np.maximum.accumulate(draws.random((len(LAYERS) + 1, 3)), 1))
    rules = width_rules(MODEL.units, caps={"*": 1.0})
    direction = draws.random(len(FULL))
    times = [table(rules.widths(scale * direction)) for scale in np.linspace(0, 3, 200)]
    assert times == sorted(times, reverse=True)


def test_a_layer_that_no_unit_changes_keeps_its_time():
    work = np.outer(work_of(MODEL, FULL), (1.0, 1.0, 1.0))
    table = LatencyTable(MODEL, work, np.full(work.shape, 3.0), 100.0)
    assert table(FULL) == 3.0 * len(work)


def test_a_check_tells_what_was_predicted_and_measured_and_corrects_the_table():
    table, widths = table_of([2.0, 3.0, 4.0]), {"conv3.channels": 3}
    check = table.check(widths, measured=90.0)
    assert check == LatencyCheck(predicted=table(MODEL.vector(widths)), measured=90.0)
    corrected = table.corrected(check)
    assert corrected(MODEL.vector(widths)) == pytest.approx(90.0)
    assert corrected.full == table.full
    again = corrected.corrected(corrected.check(widths, measured=45.0))
    assert again(MODEL.vector(widths)) == pytest.approx(45.0)


def test_a_table_is_made_of_every_layer_at_every_share():
    table = latency_table(NORMED, MODEL, IMAGES, clock=seconds_by_call())
    assert table.work.shape == table.milliseconds.shape == (len(LAYERS) + 1, len(module.TIMED_SHARES))
    assert (np.diff(table.work, axis=1) >= 0).all()
    # Every layer reads the clock when it begins and when it ends, and the whole pass once more.
    assert (table.milliseconds[:-1] == 1000).all()
    assert (table.milliseconds[-1] == 1000 * (len(LAYERS) + 1)).all()


def test_a_table_predicts_what_was_measured_of_the_full_network():
    table = latency_table(NORMED, MODEL, IMAGES, clock=seconds_by_call())
    assert table.full == 1000.0
    assert table(FULL) == pytest.approx(1000.0)


def test_the_envelope_of_a_noisy_layer_never_falls(monkeypatch):
    noise = itertools.cycle([5.0, 2.0, 7.0, 1.0])

    def noisy(network, images, layers, *, clock):
        return {layer: next(noise) for layer in (*layers, "between layers")}

    monkeypatch.setattr(module, "layer_latencies", noisy)
    table = latency_table(NORMED, MODEL, IMAGES, clock=seconds_by_call())
    assert (np.diff(table.milliseconds, axis=1) >= 0).all()
    assert table.milliseconds.max() == 7.0


def test_a_pruned_network_is_measured_as_it_would_be_built():
    spec = NORMED.with_widths({"conv2.channels": 1})
    assert measured_latency(spec, IMAGES, clock=seconds_by_call()) == 1000.0


def test_a_latency_target_is_met_by_the_prediction():
    table = table_of([25.0, 50.0, 100.0], full=100.0 * (len(LAYERS) + 1))
    one = budget(Target("latency", 0.6), MODEL, table)
    rules = width_rules(MODEL.units, caps={"*": 0.95})
    widths = meet([one], rules, np.array([0.8, 0.9, 1.0, 0.7, 0.1]))
    assert 0.5 < table(widths) / table.full <= 0.6


def test_a_slower_machine_than_predicted_needs_a_narrower_network():
    table = table_of([25.0, 50.0, 100.0], full=100.0 * (len(LAYERS) + 1))
    slower = dataclasses.replace(table, factor=1.3)
    rules, direction = width_rules(MODEL.units, caps={"*": 0.95}), np.array([0.8, 0.9, 1.0, 0.7, 0.1])
    first, second = (meet([budget(Target("latency", 0.7), MODEL, t)], rules, direction) for t in (table, slower))
    assert (second <= first).all()
    assert slower(second) <= 0.7 * table.full < slower(first)
