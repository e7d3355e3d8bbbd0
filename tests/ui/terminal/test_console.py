"""What is printed is printed whole, as it is, in windows of any width."""

from __future__ import annotations

import io

import pytest

from genepool.messages import measured, percent
from genepool.ui.report.graphics import Line, chart
from genepool.ui.terminal.console import console
from genepool.ui.terminal.tables import print_scores_by_task


class Window(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", ["20", "80", "300"])
@pytest.mark.parametrize(
    "names", [["maths", "shopping in large shops"], [f"t{n}" for n in range(40)]]
)
def test_no_window_is_too_narrow_for_a_table(
    names: list[str], width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window()
    monkeypatch.setattr("sys.stdout", window)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    tasks = [{"name": name, "held_out": number / 100} for number, name in enumerate(names)]
    model = {"train": 0.5, "held_out": 0.25, "tasks": tasks}
    print_scores_by_task(console(), [("a-fine-tune-of-llama", model), ("champion", model)])
    head, *rows = window.getvalue().splitlines()
    assert all(name in head for name in names)
    for row, name in zip(rows, ("a-fine-tune-of-llama", "champion"), strict=True):
        scores = (0.5, 0.25, *(task["held_out"] for task in tasks))
        assert row.split() == [
            name,
            *(f"{100 * s:.1f}" if i else "%" for s in scores for i in (1, 0)),
        ]


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
    window = Window()
    monkeypatch.setattr("sys.stdout", window)
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
