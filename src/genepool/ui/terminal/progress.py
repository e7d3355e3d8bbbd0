"""Progress of a run: a bar with the time left on a terminal, a line now and then elsewhere.

All of it goes to standard error, so that standard output holds nothing but the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.progress import Progress as RichProgress

from genepool.ui.terminal.console import console, duration, number, percent, plain

if TYPE_CHECKING:
    from genepool.run.progress import StepReport

# A step can take less than a millisecond: looking at the clock is all that most of them pay.
_REDRAW_SECONDS = 0.1
# Lines come after 5 seconds first, then less and less often, in the end once a minute.
_FIRST_LINE, _GROWTH, _RAREST_LINE = 5.0, 0.25, 60.0


class Bar:
    """Watches `evolve` on a terminal; a context manager."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Without a total the bar only moves to and fro.
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=out,
            transient=True,
            refresh_per_second=5,
        )
        self._task: TaskID | None = None
        self._due = 0.0

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    @property
    def tasks(self) -> list[Task]:
        """What is shown: one task once there was a stage."""
        return self._bar.tasks

    def stage(self, text: str) -> None:
        """Show what takes a while."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(plain(text), total=None, note="")

    def notice(self, text: str) -> None:
        """A line above the bar, which stays."""
        self._bar.console.print(f"note: {plain(text)}", markup=False, highlight=False)

    def step(self, report: StepReport) -> None:
        """Move the bar, ten times a second at most."""
        now = self._clock()
        if now < self._due and report.evaluations < report.budget:
            return
        self._due = now + _REDRAW_SECONDS
        if self._task is not None:
            self._bar.update(
                self._task,
                total=report.budget,
                completed=report.evaluations,
                note=_note(report),
            )

    def advance(self, fraction: float) -> None:
        """Move the bar of a stage without steps: the fraction that is done."""
        if self._task is not None:
            self._bar.update(self._task, total=1.0, completed=fraction, note=percent(fraction))


class Lines:
    """Watches `evolve` where there is no terminal: a log should not fill with bars."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._started: float | None = None
        self._due = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def stage(self, text: str) -> None:
        """Stages are short, or the lines of their steps will tell."""

    def notice(self, text: str) -> None:
        """A line."""
        print(f"note: {plain(text)}", file=self._out, flush=True)

    def step(self, report: StepReport) -> None:
        """Write a line if it is time for one."""
        now = self._clock()
        if self._started is None:
            self._started, self._due = now, now + _FIRST_LINE
        if now < self._due:
            return
        wait = min(_RAREST_LINE, _GROWTH * (now - self._started))
        self._due = now + max(_FIRST_LINE, wait)
        print(_note(report), file=self._out, flush=True)

    def advance(self, fraction: float) -> None:
        """Nothing worth a line."""


def watcher() -> Bar | Lines:
    """What fits standard error."""
    return Bar(console(errors=True)) if sys.stderr.isatty() else Lines(sys.stderr)


def _note(report: StepReport) -> str:
    parts = [f"{number(report.evaluations)} of {number(report.budget)} children"]
    parts.append(f"best {percent(report.champion)}")
    if report.held_out is not None:
        parts.append(f"held-out {percent(report.held_out)}")
    if report.session > 0 and report.seconds > 0:
        left = report.seconds / report.session * (report.budget - report.evaluations)
        parts.append(f"{number(report.session / report.seconds)} a second")
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)
