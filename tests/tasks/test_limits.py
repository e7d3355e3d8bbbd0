"""The time limit interrupts, is noticed when swallowed, and leaves other timers alone."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from functools import partial
from typing import Any

import pytest

from genepool.errors import EvaluationError
from genepool.tasks import limits
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


def _no_timer_of_ours() -> bool:
    """Whether no timer is set but perhaps pytest's own, which goes off once, in minutes."""
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    return interval == 0 and (left == 0 or left > 60)


class _Stubborn:
    """In whose finaliser the interpreter swallows what is raised."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __del__(self) -> None:
        time.sleep(self.seconds)


@pytest.mark.parametrize("lost", [1, 3])
def test_an_alarm_that_is_swallowed_goes_off_again(
    lost: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "_AGAIN", 0.05)
    deadline = time.monotonic() + 120
    survived: list[int] = []
    with pytest.raises(EvaluationError, match="time limit"), time_limit(0.05, "it"):
        for number in range(lost):
            _Stubborn(30)
            survived.append(number)
        while time.monotonic() < deadline:
            time.sleep(0.001)
    assert survived == list(range(lost)), "no alarm was swallowed, so that nothing was tried"
    assert time.monotonic() < deadline, "the limit was lost"
    assert capfd.readouterr().err == ""


def test_no_alarm_goes_off_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_AGAIN", 0.02)
    before = signal.getsignal(signal.SIGALRM), sys.unraisablehook
    for body in (_forever, partial(_Stubborn, 30), lambda: time.sleep(0.001)):
        with contextlib.suppress(EvaluationError), time_limit(0.05, "it"):
            body()
        assert _no_timer_of_ours()
        assert (signal.getsignal(signal.SIGALRM), sys.unraisablehook) == before
        time.sleep(0.1)


def test_limits_of_no_time_at_all_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_AGAIN", 1e-3)
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(300):
        with pytest.raises(EvaluationError), time_limit(1e-6, "it"):
            _forever()
    assert _no_timer_of_ours()
    assert signal.getsignal(signal.SIGALRM) == before


def test_other_errors_that_are_swallowed_are_reported() -> None:
    seen: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, seen.append
    try:
        with time_limit(60, "it"):
            # A negative time to sleep is an error.
            _Stubborn(-1)
    finally:
        sys.unraisablehook = hook
    assert [found.exc_type for found in seen] == [ValueError]


def test_exceptions_pass_through_and_the_alarm_is_off() -> None:
    with pytest.raises(ZeroDivisionError), time_limit(0.05, "it"):
        raise ZeroDivisionError
    time.sleep(0.1)


def test_a_timer_of_somebody_else_goes_on() -> None:
    rung: list[float] = []
    handler: Any = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    start = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(EvaluationError), time_limit(0.02, "it"):
            _forever()
        deadline = time.monotonic() + 120
        while not rung and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [moment - start >= 0.19 for moment in rung] == [True]
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
