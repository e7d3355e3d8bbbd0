"""Ctrl-C: finish what is being scored, then stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

from genepool.run.progress import Progress


def end_like_ctrl_c() -> None:
    """From now on being told to end (SIGTERM, as batch systems do) is the same as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def watched(progress: Progress, interrupted: threading.Event) -> Callable[[int, int], None]:
    """`progress.asked`, which says it once where a run is interrupted and a model takes a while."""
    told = False

    def asked(examples: int, of: int) -> None:
        nonlocal told
        if interrupted.is_set() and examples < of and not told:
            told = True
            progress.notice(
                "interrupted: what is being scored is finished, and then the run stops; Ctrl-C "
                "again stops it at once"
            )
        progress.asked(examples, of)

    return asked


@contextlib.contextmanager
def interruptible() -> Generator[threading.Event, None, None]:
    """Turn the first Ctrl-C into an event; the second interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
        before[signal.SIGTERM] = signal.default_int_handler

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        for each in before:
            signal.signal(each, signal.default_int_handler)

    for each in before:
        signal.signal(each, note)
    try:
        yield event
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
