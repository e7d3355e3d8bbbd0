"""The time limit interrupts, is noticed when swallowed, and leaves other timers alone."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import Any

import pytest

from genepool.errors import EvaluationError
from genepool.tasks.limits import time_limit


def _forever() -> None:
    while True:
        time.sleep(0.001)


def test_no_limit_and_enough_time() -> None:
    with time_limit(None, "it"):
        pass
    with time_limit(60, "it"):
        pass


def test_an_endless_call_is_interrupted() -> None:
    with (
        pytest.raises(EvaluationError, match=r"it took longer than the time limit of 0\.05"),
        time_limit(0.05, "it"),
    ):
        _forever()


def test_code_that_catches_everything_still_fails() -> None:
    with (
        pytest.raises(EvaluationError, match="time limit"),
        time_limit(0.05, "it"),
        contextlib.suppress(BaseException),
    ):
        _forever()


def test_exceptions_pass_through_and_the_alarm_is_off() -> None:
    with pytest.raises(ZeroDivisionError), time_limit(0.05, "it"):
        raise ZeroDivisionError
    time.sleep(0.1)


def test_a_timer_of_somebody_else_goes_on() -> None:
    rung: list[int] = []
    handler: Any = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(EvaluationError), time_limit(0.02, "it"):
            _forever()
        assert not rung
        deadline = time.monotonic() + 30
        while not rung and time.monotonic() < deadline:
            time.sleep(0.01)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)


def test_outside_the_main_thread_it_fails_when_it_ends() -> None:
    errors: list[BaseException] = []
    reached: list[int] = []

    def work() -> None:
        try:
            with time_limit(0.01, "it"):
                time.sleep(0.05)
                reached.append(1)
        except EvaluationError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == [1] and len(errors) == 1
