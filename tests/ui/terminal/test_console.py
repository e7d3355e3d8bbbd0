"""What is printed is printed whole, as it is, in windows of any width."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.cells import cell_len

from genepool.messages import measured, percent
from genepool.ui.report.graphics import Line, chart
from genepool.ui.terminal.console import console
from genepool.ui.terminal.tables import print_member, print_page, print_scores, print_scores_by_task


class Window(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def opened(monkeypatch: pytest.MonkeyPatch, columns: int = 80, kind: str = "xterm") -> Window:
    """Standard output."""
    window = Window()
    monkeypatch.setattr("sys.stdout", window)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", kind)
    return window


def shown(window: Window) -> str:
    return re.sub(r"\x1b\[\d*m", "", window.getvalue())


SEED = "数学の得意なモデル"


@pytest.mark.parametrize("width", [20, 40, 80, 300])
@pytest.mark.parametrize(
    "names", [["maths", "shopping in large shops"], ["手書き"], [f"t{n}" for n in range(40)]]
)
def test_no_window_is_too_narrow_for_a_table(
    names: list[str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal broke rows at its edge, and what stood beneath which head was hard to tell."""
    window = opened(monkeypatch, width)
    tasks = [{"name": name, "held_out": number / 100} for number, name in enumerate(names)]
    model = {"train": 0.5, "held_out": 0.25, "tasks": tasks}
    print_scores_by_task(console(), [(SEED, model), ("champion", model)])
    heads: list[str] = []
    rows: dict[str, list[str]] = {SEED: [], "champion": []}
    for block in shown(window).split("\n\n"):
        head, *lines = block.splitlines()
        assert len(lines) == 2
        heads += re.split("  +", head.strip())
        for line in lines:
            name, *cells = re.split("  +", line)
            rows[name] += cells
            # Only what is too wide by itself is broken, and numbers end where their heads do.
            assert cell_len(line) <= width or len(cells) == 1
            assert cell_len(line) == cell_len(head)
    assert heads == ["selection", "held-out", *names]
    scores = ["50.0 %", "25.0 %", *(f"{number}.0 %" for number in range(len(names)))]
    assert rows == {SEED: scores, "champion": scores}


def test_a_terminal_without_a_cursor_shows_whole_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TERM=dumb, as in Emacs, names and heads ended in dots."""
    window = opened(monkeypatch, kind="dumb")
    name = "a-fine-tune-of-llama" * 4
    print_scores(console(), [(name, 0.5, 0.25), ("champion", 0.75, None)])
    assert name in shown(window) and "selection" in shown(window) and "held-out" in shown(window)
    assert all(line == line.rstrip() for line in window.getvalue().splitlines())


@pytest.mark.parametrize("terminal", [True, False])
def test_facts_go_on_beneath_themselves(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` broke words at the edge of a window; what other programs read is never broken."""
    monkeypatch.setattr(Window, "isatty", lambda _: terminal)
    window = opened(monkeypatch, 40)
    member: dict[str, Any] = dict.fromkeys(
        ("name", "cell", "error", "parents", "held_out", "digest", "tasks", "measures", "guards")
    )
    genome = {"kind": "recipe", "segments": 3, "size": 1000, "shares": {SEED: 0.25, "b" * 60: 1}}
    member |= {"member": 5, "verdict": "rejected", "train": 0.5, "tasks": [], "measures": []}
    print_member(console(), {**member, "genome": genome})
    broken = (
        "recipe of 3 segments over\n           1,000 parameters:\n           "
        f"{SEED} 25.0 %,\n           {'b' * 60}\n           100.0 %\n"
    )
    whole = " ".join(broken.split()) + "\n"
    expected = f"genome     {broken if terminal else whole}"
    assert shown(window).endswith(expected)


PAGE = """# Comparison

A page that says in many words what stands in the table beneath it.

| strategy | selection | held-out, less m2n2 |
| -------- | --------: | ------------------: |
| m2n2     |   86.12 % |                   – |
| ga       |   72.03 % |        -8.06 points |
"""
NARROW = """# Comparison

A page that says in many words what
stands in the table beneath it.

strategy  selection
m2n2        86.12 %
ga          72.03 %

strategy  held-out, less m2n2
m2n2                        –
ga               -8.06 points
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_page_fits_the_window(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of `compare` did not fit into 80 columns."""
    monkeypatch.setattr(Window, "isatty", lambda _: terminal)
    window = opened(monkeypatch, 38)
    print_page(console(), PAGE)
    assert shown(window) == (NARROW if terminal else PAGE) + "\n"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.5, None, 1.0], ["50.0 %", "–", "100.0 %"]),
        ([0.5, None, 12.25], ["0.5", "–", "12.25"]),
        ([-0.25, 1.0], ["-0.25", "1"]),
        ([1234567.8, 0.1], ["1,234,568", "0.1"]),
    ],
)
def test_a_measure_that_is_no_share_of_any_model_is_a_number(
    values: list[float | None], shown: list[str]
) -> None:
    assert measured(values) == shown


def test_words_between_colons_stay_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich would print pictures in their place."""
    window = opened(monkeypatch)
    console().print("runs/10:100:20, :star:, :warning:")
    assert window.getvalue() == "runs/10:100:20, :star:, :warning:\n"


def test_what_is_not_all_is_not_told_as_all() -> None:
    told = {
        1.0: "100.0 %",
        1 - 1e-16: "100.0 %",  # Shares that were added up.
        9_999 / 10_000: "> 99.9 %",
        0.9995: "> 99.9 %",
        0.9994: "99.9 %",
        0.0006: "0.1 %",
        1 / 10_000: "< 0.1 %",
        1e-17: "0.0 %",
        0.0: "0.0 %",
        -0.02: "-2.0 %",
    }
    assert {value: percent(value) for value in told} == told
    assert percent(None) == "–"
    assert measured([0.99999, 1.0]) == ["> 99.9 %", "100.0 %"]
    (line,) = chart("Score", [0, 1], [Line("a", [0.5, 0.99999], "best")], percent=True).lines
    assert line.last == "> 99.9 %"
