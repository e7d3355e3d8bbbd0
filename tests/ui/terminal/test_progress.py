"""Progress: few lines in a log, a bar on a terminal, and next to nothing for a step."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from genepool.checkpoints.fetching import aside, fetching
from genepool.run.progress import SeedReport, StepReport
from genepool.ui.terminal.console import duration
from genepool.ui.terminal.progress import Bar, Lines, watcher
from tests.cli import run_cli

TASKS = (("maths", 0.61), ("shopping", 0.7562))


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def report(done: int, seconds: float, held_out: float | None = None) -> StepReport:
    return StepReport(
        evaluations=done + 40,
        budget=10_040,
        session=done,
        accepted=done // 5,
        examples=done * 50,
        examples_total=done * 100,
        champion=0.6831,
        held_out=held_out,
        seconds=seconds,
        tasks=TASKS,
    )


def test_lines_come_rarely_and_tell_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        progress.stage("reading the seeds")
        clock.now += 60.0
        for step in range(1, 10_001):
            clock.now += 0.125
            progress.step(report(step, step * 0.125, held_out=0.5))
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "41 of 10,040 children, best 68.3 % (maths 61.0 %, shopping 75.6 %), held-out 50.0 %, "
        "8 a second, 20 min 50 s left"
    )
    # 1,250 seconds: every 5 at first, once a minute in the end.
    assert 20 <= len(lines) <= 40


def test_stages_that_tell_nothing_else_are_lines_too() -> None:
    """Held-out scores of large models take hours, and nothing was told."""
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        progress.stage("opening seeds and tasks")
        for name in ("a", "b", "c"):
            clock.now += 600.0
            progress.stage(f"scoring seed {name} on held-out examples")
        # Less than a minute later.
        clock.now += 50.0
        progress.stage("drawing pictures")
    expected = [f"scoring seed {name} on held-out examples" for name in "abc"]
    assert out.getvalue().splitlines() == expected


def test_a_short_run_prints_no_line() -> None:
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        for step in range(1, 100):
            clock.now += 0.04
            progress.step(report(step, step * 0.04))
    assert out.getvalue() == ""


def test_the_bar_shows_where_the_run_stands() -> None:
    clock, screen = Clock(), io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with Bar(terminal, clock) as progress:
        progress.stage("scoring [bold]seed")
        progress.stage("evolving")
        progress.step(report(10, 1.0))
        # Less than a tenth of a second later: not drawn.
        clock.now += 0.01
        progress.step(report(11, 1.01))
        assert [task.completed for task in progress.tasks] == [50]
        clock.now += 0.2
        progress.step(report(30, 1.2))
        assert [task.completed for task in progress.tasks] == [70]
        progress.step(report(10_000, 9.0))
        assert [(task.completed, task.total) for task in progress.tasks] == [(10_040, 10_040)]
    assert (
        "10,040 of 10,040 children, best 68.3 % (maths 61.0 %, shopping 75.6 %), 1,111 a second, "
        "0.0 s left"
    ) in screen.getvalue()
    assert "scoring [bold]seed" in screen.getvalue()


@pytest.mark.parametrize(
    ("terminal", "environment", "kind"),
    [
        (True, "xterm", Bar),
        (True, "dumb", Lines),
        (True, "unknown", Lines),
        (False, "xterm", Lines),
    ],
)
def test_who_watches_is_seen(
    terminal: bool, environment: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr("sys.stderr", Stream())
    monkeypatch.setenv("TERM", environment)
    assert isinstance(watcher(), kind)


def test_the_bar_shows_the_share_of_a_long_write() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bar(terminal) as progress:
        progress.advance(0.5)
        progress.stage("writing")
        progress.advance(0.25)
        assert [(task.completed, task.total) for task in progress.tasks] == [(0.25, 1.0)]
        assert progress.tasks[0].fields["note"] == "25.0 %"


def test_what_is_fetched_is_a_stage_within_a_stage() -> None:
    clock, out, screen = Clock(), io.StringIO(), io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, color_system=None)
    theirs = sys.stderr
    with Bar(terminal, clock) as bar:
        bar.stage("merging")
        with fetching("fetching s3://models/a") as advance:
            advance(0.25)
            assert bar.tasks[0].description == "fetching s3://models/a"
            assert bar.tasks[0].fields["note"] == "25.0 %"
        assert (bar.tasks[0].description, bar.tasks[0].fields["note"]) == ("merging", "")
        # The bars of the Hugging Face Hub filled the window, a line for each time they moved.
        assert sys.stderr is not theirs
        with fetching("fetching 'org/b'"), aside():
            assert sys.stderr is theirs
        assert sys.stderr is not theirs and bar.tasks[0].description == "merging"
    with Lines(out, clock) as lines:
        lines.stage("merging")
        with fetching("fetching s3://models/a") as advance, aside():
            clock.now += 6.0
            advance(0.25)
        clock.now += 6.0
        lines.advance(0.5)
    told = ["fetching s3://models/a", "fetching s3://models/a: 25.0 %", "merging: 50.0 %"]
    assert out.getvalue().splitlines() == told
    with fetching("nobody is told") as advance, aside():
        advance(0.5)
    assert out.getvalue().splitlines() == told


def test_the_time_left_of_a_long_write_is_told() -> None:
    """All that was told was the share, for models that are written for an hour."""
    clock, out = Clock(), io.StringIO()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Lines(out, clock) as lines, Bar(terminal, clock) as bar:

        def told(fraction: float) -> str:
            lines.advance(fraction)
            bar.advance(fraction)
            return str(bar.tasks[0].fields["note"])

        for text in ("writing", "writing more"):
            lines.stage(text)
            bar.stage(text)
            # What came before the first share is no part of the pace.
            clock.now += 100.0
            assert told(0.1) == "10.0 %"
            clock.now += 0.5
            assert told(0.2) == "20.0 %"
            clock.now += 59.5
            assert told(0.5) == "50.0 %, 1 min 15 s left"
            # Threads tell of their blocks in any order.
            assert told(0.1) == "10.0 %"
            clock.now += 75.0
            assert told(0.8) == "80.0 %, 39 s left"
            assert told(1.0) == "100.0 %"
    assert "writing: 50.0 %, 1 min 15 s left" in out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_all_that_is_told_is_seen_in_a_narrow_window(width: int) -> None:
    """In 80 columns the bar was gone, and the time left was cut off."""
    clock, screen = Clock(), io.StringIO()
    out = Console(file=screen, force_terminal=True, width=width, color_system=None, soft_wrap=True)
    with Bar(out, clock) as progress:
        progress.stage("evolving")
        progress.step(report(5000, 400.0, held_out=0.5))
        clock.now += 1.0
        progress.asked(16, 200)
    shown = " ".join(screen.getvalue().split())
    assert "evolving ━━━" in shown
    for text in ("5,040 of 10,040 children", "(maths 61.0 %, shopping 75.6 %)"):
        assert text in shown
    assert "12 a second, 6 min 40 s left, 16 of 200 examples" in shown


def test_what_takes_long_is_told_while_it_lasts() -> None:
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        progress.stage("scoring seed maths")
        clock.now += 3.0
        progress.asked(10, 200)
        progress.seed(SeedReport("maths", 0.5, TASKS, 3.0))
        progress.begin(150, 50.0, 1)
        # So far it could have been a run of a few seconds.
        assert out.getvalue() == ""
        clock.now += 3.0
        progress.asked(20, 200)
        assert out.getvalue().splitlines() == [
            "seed maths: 50.0 % in 3.0 s (maths 61.0 %, shopping 75.6 %)",
            "150 children: about 2 h 5 min, at 50 s each by the pace of the fastest seed",
            "scoring seed maths: 20 of 200 examples asked",
        ]
        clock.now += 4.0
        progress.asked(30, 200)
        progress.seed(SeedReport("chat", 0.25, (("all", 0.25),), 0.5))
    assert out.getvalue().splitlines()[3:] == ["seed chat: 25.0 %"]


def test_the_bar_tells_of_seeds_and_examples() -> None:
    clock, screen = Clock(), io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with Bar(terminal, clock) as progress:
        progress.stage("scoring seed maths")
        progress.asked(10, 200)
        assert progress.tasks[0].fields["note"] == "10 of 200 examples"
        progress.seed(SeedReport("maths", 0.5, TASKS, 0.1))
        progress.stage("evolving")
        progress.begin(9, 20.0, 4)
        pace = "about 1 min 0 s, at 20 s each by the pace of the fastest seed"
        assert progress.tasks[0].fields["note"] == f"9 children: {pace}, 4 at a time"
        progress.begin(3, 20.0, 1)
        note = f"3 children: {pace}"
        assert progress.tasks[0].fields["note"] == note
        clock.now += 1.0
        progress.asked(16, 200)
        assert progress.tasks[0].fields["note"] == f"{note}, 16 of 200 examples"
    assert "seed maths: 50.0 % (maths 61.0 %, shopping 75.6 %)" in screen.getvalue()


@pytest.mark.parametrize(("parts", "seconds"), [(20, 1.0), (1, 20.0), (3, 0.02)])
def test_the_bar_moves_where_examples_are_told(parts: int, seconds: float) -> None:
    """The last example's answer came less than a tenth of a second before the child, which was
    not drawn for it: the bar stood still until the run was over."""
    clock = Clock()
    with Bar(Console(file=io.StringIO(), force_terminal=True, width=160), clock) as progress:
        progress.stage("evolving")
        for child in range(1, 30):
            for part in range(1, parts + 1):
                clock.now += seconds
                progress.asked(10 * part, 10 * parts)
            clock.now += 0.01
            progress.step(report(child, 20.0 * child))
            shown = progress.tasks[0].completed
            # Ten times a second at most, and examples of children that take a while.
            assert seconds > 0.1 or child == 1 or "examples" not in progress.tasks[0].fields["note"]
            assert 40 + child - (2 if seconds < 0.1 else 0) <= shown <= 40 + child
        assert progress.tasks[0].fields["note"].startswith("6")


def test_children_that_come_at_once_are_seen_with_the_next_example() -> None:
    clock = Clock()
    with Bar(Console(file=io.StringIO(), force_terminal=True, width=160), clock) as progress:
        progress.stage("evolving")
        for child in range(1, 9):
            progress.step(report(child, 80.0))
        assert progress.tasks[0].completed == 41
        clock.now += 10.0
        progress.asked(5, 20)
        assert progress.tasks[0].completed == 48
        assert progress.tasks[0].fields["note"].endswith(", 5 of 20 examples")
        progress.stage("subset 1: scoring the archive on other examples")
        clock.now += 10.0
        progress.asked(5, 20)
        assert progress.tasks[0].fields["note"] == "5 of 20 examples"


def test_times_are_in_units_that_people_read() -> None:
    assert [duration(s) for s in (0.0, 0.0014, 3, 75, 7500, 359_000, 400_000)] == [
        *("0.0 s", "1.4 ms", "3.0 s", "1 min 15 s", "2 h 5 min", "99 h 43 min", "4 d 15 h")
    ]
    slow = report(10, 320.0)
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        clock.now += 6.0
        progress.step(slow)
    assert "32 s a child, 88 h 48 min left" in out.getvalue()


def test_the_first_child_does_not_tell_how_long_all_will_take() -> None:
    """It also waits for what is compiled: from 13 s, 14 hours were foretold of a minute's run."""

    def line(done: int, seconds: float) -> str:
        out, clock = io.StringIO(), Clock()
        with Lines(out, clock) as progress:
            clock.now += 6.0
            progress.step(report(done, seconds))
        return out.getvalue()

    assert line(1, 13.0) == "41 of 10,040 children, best 68.3 % (maths 61.0 %, shopping 75.6 %)\n"
    assert line(2, 13.0).endswith("6.5 s a child, 18 h 3 min left\n")
    assert line(1, 600.0).endswith("10 min 0 s a child, 69 d 10 h left\n")


def test_the_first_of_several_children_at_a_time_does_not_either() -> None:
    """All eight came at once after ten minutes, and the first foretold eight times the time."""

    def told(done: int, seconds: float) -> tuple[str, str]:
        out, clock = io.StringIO(), Clock()
        terminal = Console(file=io.StringIO(), force_terminal=True, width=160)
        with Lines(out, clock) as lines, Bar(terminal, clock) as bar:
            bar.stage("evolving")
            for progress in (lines, bar):
                progress.begin(10_000, 600.0, 8)
            clock.now += 6.0
            for progress in (lines, bar):
                progress.step(report(done, seconds))
            return out.getvalue().splitlines()[1], bar.tasks[0].fields["note"]

    for number in (1, 7):
        line, note = told(number, 600.0)
        assert line == note and line.endswith("shopping 75.6 %)")
    line, note = told(8, 600.0)
    assert line == note and line.endswith("1 min 15 s a child, 8 d 16 h left")
    assert told(8, 13.0)[0].endswith("shopping 75.6 %)")
    assert told(9, 18.0)[0].endswith("2.0 s a child, 5 h 33 min left")


def test_examples_of_a_child_are_told_beside_the_children() -> None:
    out, clock = io.StringIO(), Clock()
    with Lines(out, clock) as progress:
        progress.stage("evolving")
        progress.step(report(40, 4.0))
        clock.now += 6.0
        progress.asked(16, 18)
        progress.stage("scoring the finalists")
        clock.now += 6.0
        progress.asked(2, 18)
    first, second = out.getvalue().splitlines()
    assert first.startswith("80 of 10,040 children, ")
    assert first.endswith(" left; 16 of 18 examples asked")
    assert second == "scoring the finalists: 2 of 18 examples asked"


def test_show_tells_what_takes_a_while(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was loaded, drew or played for minutes did so without a word."""
    for name in ("_FIRST_LINE", "_GROWTH"):
        monkeypatch.setattr(f"genepool.ui.terminal.progress.{name}", 0.0)
    told = {"task": "t", "id": "1", "messages": [], "actions": [], "ended": "won", "score": 1.0}
    monkeypatch.setattr("genepool.run.finished.episodes.episode", lambda *_, **__: told)
    code, out, error = run_cli(["show", str(recipes), "1", "--episode", "1"])
    assert (code, error) == (0, "playing an episode with member 1\n")
    assert out.startswith("task t, episode 1\n")
    files = [tmp_path / "t.png"]
    monkeypatch.setattr("genepool.run.finished.draw.draw_pictures", lambda *_, **__: files)
    drawn = ["--pictures", "1", "-o", str(tmp_path)]
    code, out, error = run_cli(["show", str(recipes), "1", *drawn])
    assert (code, error) == (0, "drawing pictures with member 1\n")
    assert out.endswith(f"wrote 1 file; all pictures of a task: {files[0]}\n")
    # What is only read is told at once.
    assert run_cli(["show", str(recipes), "1"])[2] == ""
