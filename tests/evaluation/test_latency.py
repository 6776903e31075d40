from __future__ import annotations

import pytest

from qcaps.evaluation.latency import Latency, measure_latency


class Machine:
    """A batch that takes the next of some durations, and the clock that shows it."""

    def __init__(self, *seconds):
        self.now = 100.0
        self.seconds = list(seconds)

    def forward(self):
        self.now += self.seconds.pop(0)

    def clock(self):
        return self.now


def test_latency_is_the_median_of_the_timed_batches():
    machine = Machine(0.5, 0.25, 8.0)
    latency = measure_latency(machine.forward, batch_size=100, clock=machine.clock, warmup=0, repeats=3)
    assert latency == Latency(batch_size=100, batches=3, median_ms=500.0, images_per_second=200.0)


def test_warm_up_batches_are_run_but_not_timed():
    machine = Machine(64.0, 64.0, 64.0, 0.25)
    latency = measure_latency(machine.forward, batch_size=1, clock=machine.clock, warmup=3, repeats=1)
    assert latency.median_ms == 250.0
    assert machine.seconds == []


def test_an_even_number_of_batches_gives_the_middle_of_both():
    machine = Machine(1.0, 2.0, 4.0, 8.0)
    assert measure_latency(machine.forward, batch_size=1, clock=machine.clock, warmup=0, repeats=4).median_ms == 3000


def test_by_default_two_batches_warm_up_and_seven_are_timed():
    machine = Machine(*[1.0] * 9)
    assert measure_latency(machine.forward, batch_size=1, clock=machine.clock).batches == 7
    assert machine.seconds == []


def test_time_between_the_batches_is_not_counted():
    ticks = iter([0.0, 1.0, 50.0, 51.0, 90.0, 91.0])
    latency = measure_latency(lambda: None, batch_size=1, clock=lambda: next(ticks), warmup=0, repeats=3)
    assert latency.median_ms == 1000.0


def test_a_clock_that_stands_still_is_an_error():
    with pytest.raises(ValueError, match="too coarse"):
        measure_latency(lambda: None, batch_size=1, clock=lambda: 5.0)
