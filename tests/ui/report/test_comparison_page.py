"""What a comparison shows: its table in words, its figure, its command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click import Option
from matplotlib.figure import Figure

from genepool.run.file.run_settings import RunConfig
from genepool.ui.cli.main import cli
from genepool.ui.report.comparison_page import (
    comparison_figure,
    significance,
    table_page,
    write_pages,
)
from tests.cli import run_cli
from tests.curves import comparison
from tests.runs import write_run
from tests.ui.test_figures import BLUE, GREEN, VERMILLION, colours

ROOT = Path(__file__).resolve().parents[3]


def test_the_table_in_words() -> None:
    text = table_page(comparison(7, {"b": 0.1, "c": -0.125}))
    assert "3 strategies, random seeds 0 to 6, 100 children each." in text
    rows = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if "|" in line]
    assert rows[0] == [
        *(
            "strategy",
            "selection",
            "held-out",
            "examples asked",
            "held-out, less a",
            "p",
            "p (Holm)",
        )
    ]
    assert rows[2] == ["a", "50.00 ± 0.00 %", "53.00 ± 2.16 %", "50.0 %", "–", "–", "–"]
    assert rows[3][2:] == ["63.00 ± 2.16 %", "50.0 %", "+10.00 points", "0.016", "0.031"]
    assert rows[4][4] == "-12.50 points"
    assert "b is significantly better; c is significantly worse." in text
    # b is half way, above all that a ever reaches, at child 10 + seed.
    assert rows[-2] == ["b", "13", "60", "60"]
    assert rows[-3] == ["a", "60", "– (0 of 7)", "– (0 of 7)"]


def test_the_verdict_is_not_stretched() -> None:
    for seeds, p in ((1, "1"), (5, "0.062")):
        few = comparison(seeds, {"b": 0.1})
        assert significance(few) == (
            f"No test of significance: with {seeds} run{'s' * (seeds > 1)} of each even the "
            f"clearest difference would have p = {p}; at least 6 are needed."
        )
        assert "p (Holm)" not in table_page(few)
    assert significance(comparison(9, {})) == "With one strategy there is nothing to test."
    assert "b is significantly better." in significance(comparison(6, {"b": 0.1}))
    # Six seeds are enough for one comparison and too few for two.
    two = significance(comparison(6, {"b": 0.1, "c": 0.2}))
    assert "no corrected p can be below 0.062" in two
    assert "significantly" not in two
    assert "no significant difference for any" in significance(comparison(8, {"b": 0.0}))
    some = significance(comparison(8, {"b": 0.1, "c": 0.0, "d": 0.1}))
    assert "b, d are significantly better; no significant difference for the others." in some


@pytest.mark.slow
def test_the_figure_has_every_strategy_in_its_colour(tmp_path: Path) -> None:
    four = comparison(4, {"b": 0.1, "c": 0.2}, tmp_path)
    png, svg = comparison_figure(four)
    assert {BLUE, VERMILLION, GREEN} <= colours(png)
    text = svg.read_text()
    for colour in ("#0072b2", "#d55e00", "#009e73"):
        assert f"fill: {colour}; fill-opacity: 0.18" in text
    before = png.read_bytes(), svg.read_bytes()
    comparison_figure(four)
    assert (png.read_bytes(), svg.read_bytes()) == before
    # One seed has no band; ten strategies have more lines than there are colours.
    comparison_figure(comparison(1, {f"s{number}": number / 100 for number in range(9)}, tmp_path))
    assert "fill-opacity: 0.18" not in svg.read_text()


@pytest.mark.slow
def test_the_figure_shows_no_scores_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval of two runs reaches from far below 0 to far above 1."""
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, *_, **__: drawn.extend(
        axes.get_ylim() for axes in self.axes
    ))  # fmt: skip
    comparison_figure(comparison(2, {"b": 0.4}, tmp_path))
    assert len(drawn) == 2
    assert all(-0.1 < low < high < 1.1 for low, high in drawn)


def test_without_matplotlib_the_rest_is_written(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from tests.curves import comparison\n"
        "from genepool.ui.report.comparison_page import write_pages\n"
        "print(*write_pages(comparison(2, {'b': 0.1}, Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "needs the package 'matplotlib'" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


@pytest.mark.slow
def test_everything_is_written_beside_the_pools(tmp_path: Path) -> None:
    files, reason = write_pages(comparison(3, {"b": 0.1}, tmp_path))
    assert reason is None
    assert sorted(path.name for path in files) == ["comparison.png", "comparison.svg", "table.md"]
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    file, out = write_run(tmp_path), tmp_path / "out"
    words = ["compare", str(file), "--strategies", "m2n2, ga", "--runs", "2", "--budget", "12"]
    words += ["--variant", "plain={name: m2n2, attraction: false}", "-o", str(out)]
    code, printed, error = run_cli(words)
    assert code == 0, error
    assert (out / "table.md").read_text() in printed
    names = {"curves.csv", "summary.csv", "table.md", "comparison.png", "comparison.svg"}
    assert names <= {path.name for path in out.iterdir()}
    before = {name: (out / name).read_bytes() for name in names}
    code, printed, error = run_cli([*words, "--json"])
    assert code == 0, error
    result = json.loads(printed)
    assert [row["strategy"] for row in result["strategies"]] == ["m2n2", "ga", "plain"]
    assert (result["seeds"], result["budget"], result["tested"]) == ([3, 4], 12, False)
    assert {name: (out / name).read_bytes() for name in names} == before
    page = (ROOT / "docs/compare.md").read_text(encoding="utf-8")
    assert keys(result) <= set(re.findall(r"`(\w+)`", page))


def keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(map(str, value)).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "Nothing to compare: give --strategies or --variant"),
        (["--strategies", "m2n2,gaa"], 2, "there is no strategy 'gaa'; did you mean 'ga'?"),
        (["--variant", "x"], 2, "--variant: expected LABEL={name: STRATEGY"),
        (["--variant", "x={"], 2, "--variant x: not valid YAML"),
        (["--variant", "x={name: ga, zzz: 1}"], 2, "--variant x: strategy.zzz: unknown key"),
        (["--strategies", "ga,ga"], 2, "the label 'ga' is used twice"),
        (["--strategies", "ga", "--runs", "0"], 2, "0 is not in the range"),
    ],
)
def test_a_refusal_is_one_line(words: list[str], code: int, text: str, tmp_path: Path) -> None:
    file = write_run(tmp_path)
    found, out, error = run_cli(["compare", str(file), "-o", str(tmp_path / "out"), *words])
    assert (found, out) == (code, "")
    assert text in error
    assert len(error.splitlines()) == 1


def test_the_budgets_range_is_the_run_files() -> None:
    (option,) = (p for p in cli.commands["compare"].params if p.name == "budget")
    assert isinstance(option, Option)
    limits = {type(m).__name__: m for m in RunConfig.model_fields["budget"].metadata}
    assert (option.type.min, option.type.max) == (limits["Ge"].ge, limits["Le"].le)  # type: ignore[attr-defined]
