"""Progress of a run: a bar with the time left on a terminal, a line now and then elsewhere.

All of it goes to standard error, so that standard output holds nothing but the result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from genepool.checkpoints.fetching import watched_by
from genepool.messages import children, percent
from genepool.threads import Progress
from genepool.ui.terminal.console import by_task, console, duration, number, pace, plain

if TYPE_CHECKING:
    from genepool.run.progress import SeedReport, StepReport

# A step can take less than a millisecond: looking at the clock is all that most of them pay.
_REDRAW_SECONDS = 0.1
# The examples of a child are told once it has taken so long, in seconds: others would flicker.
_LONG_CHILD = 0.5
# Lines come after 5 seconds first, then less and less often, in the end once a minute.
_FIRST_LINE, _GROWTH, _RAREST_LINE = 5.0, 0.25, 60.0
# First children, as many as are scored at a time, that take so long, in seconds, may have waited
# for what is imported and compiled, and do not tell how long the others will take.
_SHORT, _LONG = 1.0, 60.0


class _Share:
    """How much of a stage without steps is done, and how long the rest takes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Nothing is told of what comes before the first share, such as reading all models once.
        self._first: tuple[float, float] | None = None

    def told(self, fraction: float) -> str:
        now = self._clock()
        began, before = self._first = self._first or (now, fraction)
        if now - began < _SHORT or not before < fraction < 1:
            return percent(fraction)
        left = (now - began) * (1 - fraction) / (fraction - before)
        return f"{percent(fraction)}, {duration(left)} left"


class _Noted(RichProgress):
    """A bar with a note beneath it: beside it there is no room in a window of 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if note := task.fields["note"]:
                yield Text(note, no_wrap=False, overflow="fold")


class Bar:
    """Watches `evolve` on a terminal; a context manager."""

    def __init__(self, out: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Without a total the bar only moves to and fro.
        self._bar = _Noted(
            TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
            BarColumn(),
            console=out,
            transient=True,
            refresh_per_second=5,
        )
        self._task: TaskID | None = None
        self._stage, self._note, self._abreast = "", "", 1
        self._last: StepReport | None = None
        self._share, self._watching = _Share(clock), contextlib.ExitStack()
        # Children and their examples have times of their own: an example's answer comes right
        # before the child is absorbed, which must be seen all the same.
        self._asked_due = self._step_due = 0.0

    def __enter__(self) -> Bar:
        self._bar.start()
        self._watching.enter_context(watched_by(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.close()
        self._bar.stop()

    @property
    def tasks(self) -> list[Task]:
        """What is shown: one task once there was a stage."""
        return self._bar.tasks

    def stage(self, text: str) -> None:
        """Show what takes a while."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._stage, self._note, self._last = plain(text), "", None
        self._share = _Share(self._clock)
        self._task = self._bar.add_task(self._stage, total=None, note="")

    def notice(self, text: str) -> None:
        """A line above the bar, which stays."""
        self._bar.console.print(f"note: {plain(text)}", markup=False, highlight=False)

    def seed(self, report: SeedReport) -> None:
        """A line above the bar."""
        self._bar.console.print(_seed(report), markup=False, highlight=False)

    def begin(self, children: int, seconds: float, abreast: int) -> None:
        """Beneath the bar, until the first child is scored."""
        self._note, self._abreast = _estimate(children, seconds, abreast), abreast
        self._show()

    def asked(self, examples: int, of: int) -> None:
        """Beneath the bar, for models that take a while."""
        now = self._clock()
        if now >= self._asked_due:
            self._asked_due = now + _REDRAW_SECONDS
            self._show(f"{number(examples)} of {number(of)} examples")

    def step(self, report: StepReport) -> None:
        """Move the bar, ten times a second at most."""
        self._last, now = report, self._clock()
        self._asked_due = now + _LONG_CHILD
        if now >= self._step_due or report.evaluations >= report.budget:
            self._step_due = now + _REDRAW_SECONDS
            self._show()

    def _show(self, within: str = "") -> None:
        if self._task is None:
            return
        if (report := self._last) is not None:
            self._note = _note(report, self._abreast)
            self._bar.update(self._task, total=report.budget, completed=report.evaluations)
        self._bar.update(self._task, note=", ".join(part for part in (self._note, within) if part))

    def advance(self, fraction: float) -> None:
        """Move the bar of a stage without steps: the fraction that is done."""
        if self._task is not None:
            note = self._share.told(fraction)
            self._bar.update(self._task, total=1.0, completed=fraction, note=note)

    @contextlib.contextmanager
    def fetching(self, text: str) -> Generator[Progress, None, None]:
        """A stage of its own within another."""
        before = self._stage
        self.stage(text)
        try:
            yield self.advance
        finally:
            self.stage(before)

    @contextlib.contextmanager
    def aside(self) -> Generator[None, None, None]:
        """No bar, and what is printed is printed as it is."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


class Lines:
    """Watches `evolve` where there is no terminal: a log should not fill with bars.

    What was said before the first line is due is said with it, and not at all in a short run.
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._started: float | None = None
        self._due = 0.0
        self._stage, self._abreast = "", 1
        self._last: StepReport | None = None
        self._share, self._watching = _Share(clock), contextlib.ExitStack()
        self._waiting: list[str] = []

    def __enter__(self) -> Lines:
        self._is_due()
        self._watching.enter_context(watched_by(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._watching.close()

    def stage(self, text: str) -> None:
        """A line now and then: of some that take long nothing else is told."""
        self._stage, self._last = plain(text), None
        self._share = _Share(self._clock)
        if self._is_due():
            self._say(self._stage)

    def notice(self, text: str) -> None:
        """A line."""
        print(f"note: {plain(text)}", file=self._out, flush=True)

    def seed(self, report: SeedReport) -> None:
        """A line, once the run has taken a while."""
        self._say(_seed(report), soon=True)

    def begin(self, children: int, seconds: float, abreast: int) -> None:
        """A line, once the run has taken a while."""
        self._abreast = abreast
        if text := _estimate(children, seconds, abreast):
            self._say(text, soon=True)

    def asked(self, examples: int, of: int) -> None:
        """A line now and then."""
        if self._is_due():
            last = self._last
            so_far = f"{self._stage}:" if last is None else f"{_note(last, self._abreast)};"
            self._say(f"{so_far} {number(examples)} of {number(of)} examples asked")

    def step(self, report: StepReport) -> None:
        """A line now and then."""
        self._last = report
        if self._is_due():
            self._say(_note(report, self._abreast))

    def advance(self, fraction: float) -> None:
        """A line now and then."""
        share = self._share.told(fraction)
        if self._is_due():
            self._say(f"{self._stage}: {share}")

    @contextlib.contextmanager
    def fetching(self, text: str) -> Generator[Progress, None, None]:
        """A line at once, and a stage of its own within another."""
        before = self._stage
        self.stage(text)
        self._say(self._stage)
        try:
            yield self.advance
        finally:
            self._stage, self._share = before, _Share(self._clock)

    @contextlib.contextmanager
    def aside(self) -> Generator[None, None, None]:
        """Lines disturb nobody."""
        yield

    def _is_due(self) -> bool:
        """Whether it is time for a line; if so, the next one's time is set."""
        now = self._clock()
        if self._started is None:
            self._started, self._due = now, now + _FIRST_LINE
        if now < self._due:
            return False
        self._due = now + max(_FIRST_LINE, min(_RAREST_LINE, _GROWTH * (now - self._started)))
        return True

    def _say(self, text: str, *, soon: bool = False) -> None:
        self._waiting.append(text)
        if soon and (self._started is None or self._clock() < self._started + _FIRST_LINE):
            return
        print("\n".join(self._waiting), file=self._out, flush=True)
        self._waiting.clear()


def watcher() -> Bar | Lines:
    """What fits standard error."""
    out = console(errors=True)
    # A window that cannot be drawn over, as in Emacs, would show nothing.
    redrawn = sys.stderr.isatty() and not out.is_dumb_terminal
    return Bar(out) if redrawn else Lines(sys.stderr)


def _seed(report: SeedReport) -> str:
    tasks = by_task(report.tasks)
    took = f" in {duration(report.seconds)}" if report.seconds >= 1 else ""
    return f"seed {plain(report.name)}: {percent(report.score)}{took}{tasks and f' ({tasks})'}"


def _estimate(count: int, seconds: float, abreast: int) -> str:
    """How long it will take, by what the seeds took, before any child has been scored."""
    whole = -(-count // abreast) * seconds
    if whole < _FIRST_LINE:
        return ""
    at_a_time = f", {number(abreast)} at a time" if abreast > 1 else ""
    return (
        f"{children(count)}: about {duration(whole)}, at {duration(seconds)} each by the pace of "
        f"the fastest seed{at_a_time}"
    )


def _note(report: StepReport, abreast: int) -> str:
    parts = [f"{number(report.evaluations)} of {children(report.budget)}"]
    tasks = by_task(report.tasks)
    parts.append(f"best {percent(report.champion)}{tasks and f' ({tasks})'}")
    if report.held_out is not None:
        parts.append(f"held-out {percent(report.held_out)}")
    first = report.session == abreast and not _SHORT < report.seconds < _LONG
    # Where several are scored at a time, the first to come were not alone in that time.
    if report.session > abreast or first:
        took = report.seconds / report.session
        parts.append(pace(report.session, report.seconds))
        parts.append(f"{duration(took * (report.budget - report.evaluations))} left")
    return ", ".join(parts)
