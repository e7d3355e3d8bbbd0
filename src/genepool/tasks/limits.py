"""A limit on how long a call may take."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from genepool.errors import EvaluationError, TimeIsUp

# Seconds until an alarm that did not get through goes off again: time enough for a call that is
# interrupted to put away what it had open.
_AGAIN = 1.0


@contextmanager
def time_limit(seconds: float | None, what: str) -> Generator[None, None, None]:
    """Fail what runs inside if it takes longer.

    In a process's main thread on Linux and macOS it is interrupted when the time is up, as soon as
    the interpreter regains control: not in the middle of one long call into compiled code. Anywhere
    else it is measured, and fails when it ends by itself. A timer that was set before goes on
    afterwards.

    Args:
        seconds: wall-clock time, above 0; None is no limit.
        what: what is limited, for the message.

    Raises:
        EvaluationError: it took too long, even if user code caught the interruption.
    """
    if seconds is None:
        yield
        return
    begin = time.monotonic()
    try:
        if _can_interrupt():
            with _alarm(seconds):
                yield
        else:
            yield
    except TimeIsUp as error:
        raise EvaluationError(_message(seconds, what)) from error
    if time.monotonic() - begin > seconds:
        raise EvaluationError(_message(seconds, what))


def _can_interrupt() -> bool:
    at_main = threading.current_thread() is threading.main_thread()
    return at_main and getattr(signal, "setitimer", None) is not None


@contextmanager
def _alarm(seconds: float) -> Generator[None, None, None]:
    armed = True

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if armed:
            raise TimeIsUp

    def lost(found: sys.UnraisableHookArgs) -> None:
        if found.exc_type is not TimeIsUp:
            told(found)

    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    begin = time.monotonic()
    handler, told = signal.signal(signal.SIGALRM, interrupt), sys.unraisablehook
    # The alarm goes off at any moment. In a finaliser or a weak reference's callback the
    # interpreter swallows what is raised: so it goes off again and again, and what was lost is not
    # reported. The inner block disarms it, so that it cannot cut the outer one short and leave a
    # timer or a handler behind.
    try:
        try:
            sys.unraisablehook = lost
            signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
            yield
        finally:
            armed = False
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = told
        if left:
            spent = time.monotonic() - begin
            signal.setitimer(signal.ITIMER_REAL, max(left - spent, 1e-3), interval)


def _message(seconds: float, what: str) -> str:
    return f"{what} took longer than the time limit of {seconds:g} seconds"
