from __future__ import annotations

import pytest
import torch
from torch import nn

from qcaps.evaluation.layer_latency import BETWEEN, layer_latencies
from qcaps.models.network import CapsuleNetwork


class Machine:
    """A clock that goes on only while a layer works."""

    def __init__(self):
        self.now = 100.0

    def clock(self):
        return self.now


class Busy(nn.Module):
    """Works for some seconds before and after what it contains; a list of seconds is used up batch by batch."""

    def __init__(self, machine, before, after=0.0, inner=None):
        super().__init__()
        self.machine, self.before, self.after, self.inner = machine, before, after, inner

    def forward(self, x):
        self.machine.now += self.before.pop(0) if isinstance(self.before, list) else self.before
        x = x if self.inner is None else self.inner(x)
        self.machine.now += self.after
        return x


def timed(machine, stages, layers, **numbers):
    network = CapsuleNetwork(stages).eval()
    return layer_latencies(network, torch.zeros(2, 1, 1), layers, clock=machine.clock, **numbers)


def test_every_layer_is_charged_for_its_own_time():
    machine = Machine()
    found = timed(machine, {"one": Busy(machine, 0.25), "two": Busy(machine, 2.0)}, ["one", "two"])
    assert found == {"one": 250.0, "two": 2000.0, BETWEEN: 0.0}


def test_a_layer_is_not_charged_for_those_inside_it():
    machine = Machine()
    outer = Busy(machine, 1.0, after=0.5, inner=Busy(machine, 4.0))
    assert timed(machine, {"outer": outer}, ["outer.inner", "outer"]) == {
        "outer.inner": 4000.0,
        "outer": 1500.0,
        BETWEEN: 0.0,
    }


def test_what_runs_in_no_layer_is_charged_to_nobody():
    machine = Machine()
    stages = {"one": Busy(machine, 1.0), "nameless": Busy(machine, 8.0)}
    assert timed(machine, stages, ["one"]) == {"one": 1000.0, BETWEEN: 8000.0}


def test_the_time_is_the_median_of_the_batches_after_the_first_ones():
    machine = Machine()
    layer = Busy(machine, [64.0, 64.0, 1.0, 16.0, 2.0])
    assert timed(machine, {"layer": layer}, ["layer"], warmup=2, repeats=3)["layer"] == 2000.0


def test_no_hook_is_left_behind_even_after_an_error():
    machine = Machine()
    layer = Busy(machine, [])
    with pytest.raises(IndexError):
        timed(machine, {"layer": layer}, ["layer"])
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
