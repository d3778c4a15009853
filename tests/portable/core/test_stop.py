"""Signals that ask to end are noted, passed on, and given back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from portable.core.stop import STOP_SIGNALS, StopRequest


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_is_noted_instead_of_ending_the_process(number: signal.Signals):
    passed_on: list[signal.Signals] = []
    with StopRequest(passed_on.append) as request:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert request.received == passed_on == [number, number]


def test_handlers_from_before_stand_again_and_get_what_was_noted_when_asked():
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert seen == []
        request.hand_back()
        assert seen == [signal.SIGUSR2]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_another_thread_cannot_take_signals_and_does_not_try():
    done: list[bool] = []

    def enter() -> None:
        with StopRequest() as request:
            done.append(request.received == [])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [True]
