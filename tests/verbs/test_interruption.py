from __future__ import annotations

import signal
import threading

import pytest

from qcaps.verbs.interruption import stoppable

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def test_nobody_asks_to_stop_at_first():
    with stoppable() as stop:
        assert not stop()


@BOTH
def test_the_first_signal_is_a_wish_to_stop(number):
    with stoppable() as stop:
        signal.raise_signal(number)
        assert stop()
        assert stop()


@BOTH
def test_the_second_signal_stops_at_once(number):
    with stoppable():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


@BOTH
def test_signals_mean_what_they_meant_before_once_the_work_is_done(number):
    before = signal.getsignal(number)
    with stoppable():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_signals_mean_what_they_meant_before_when_the_work_fails():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stoppable():
        _ = 1 // 0
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_the_answer_is_always_no():
    answers = []

    def work():
        with stoppable() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
