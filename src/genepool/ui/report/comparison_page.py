"""What came of a comparison, for people: a table in words and numbers, and a figure."""

# matplotlib's annotations leave the types of keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genepool.errors import MissingExtraError
from genepool.messages import agreeing, children, count, percent
from genepool.output.own_files import PNG, SVG, TABLE, write_own
from genepool.study.comparison import Comparison, Reach, Row, smallest_p
from genepool.study.significance import FEWEST_SEEDS, SIGNIFICANT, confidence_band
from genepool.ui.report.graphics import COLOURS
from genepool.ui.terminal.console import number

if TYPE_CHECKING:
    from genepool.ui.figures import Axes

_NAMES = {"held_out": "held-out", "train": "selection"}
# Seven colours, then the same ones with other lines.
_LINES = ("-", "--", ":", "-.")


def write_pages(found: Comparison) -> tuple[list[Path], str | None]:
    """Write table.md, comparison.png and comparison.svg into the comparison's directory.

    Returns:
        The files, and why there is no figure if there is none: the rest is worth having without.

    Raises:
        GenepoolError: a file cannot be written.
    """
    table = found.directory / "table.md"
    write_own(table, table_page(found).encode(), TABLE)
    try:
        return [table, *comparison_figure(found)], None
    except MissingExtraError as error:
        return [table], str(error)


# The table


def table_page(found: Comparison) -> str:
    """The table and what it means, as Markdown."""
    name = _NAMES[found.score]
    header = ["strategy", "selection"]
    if found.score == "held_out":
        header.append("held-out")
    header.append("examples asked")
    if len(found.labels) > 1:
        header += [f"{name}, less {found.labels[0]}"]
    if _tested(found):
        header += ["p", "p (Holm)"]
    lines = _table(header, [_cells(found, row) for row in found.rows])
    first = found.seeds[0]
    seeds = f"random seed {first}"
    if len(found.seeds) > 1:
        seeds = f"random seeds {first} to {found.seeds[-1]}"
    parts = [
        "# Comparison of strategies",
        f"{count(len(found.labels), 'strategy', 'strategies')}, "
        f"{seeds}, {children(found.budget)} each. Scores of the final champion: mean ± "
        "standard deviation over the runs.",
        "\n".join(lines),
        significance(found),
    ]
    if len(found.labels) > 1:
        header = ["strategy", *(f"as good as {label}" for label in found.labels)]
        rows = [
            [row.strategy, *(_reach(reach, len(found.seeds)) for reach in row.reaches.values())]
            for row in found.rows
        ]
        parts += [
            "## Children needed to be as good as another strategy in the end",
            "Until the champion's selection score first was at or above the mean final selection "
            "score of the strategy that the column names: the median over the runs, with the "
            "number of runs that got there if not all did. Where half or more did not, there is no "
            "median.",
            "\n".join(_table(header, rows)),
        ]
    return "\n\n".join(parts) + "\n"


def significance(found: Comparison) -> str:
    """The test of significance, or why there is none, in words."""
    runs, others = len(found.seeds), len(found.labels) - 1
    if not others:
        return "With one strategy there is nothing to test."
    if not _tested(found):
        return (
            f"No test of significance: with {count(runs, 'run')} of each even the clearest "
            f"difference would have p = {smallest_p(runs, 1):.2g}; at least {FEWEST_SEEDS} are "
            "needed."
        )
    text = (
        f"Each strategy is compared with {found.labels[0]} on the final "
        f"{_NAMES[found.score]} score: two-sided permutation test of the mean difference, paired "
        f"by random seed (signs flipped), p corrected for {count(others, 'comparison')} by Holm's "
        "method."
    )
    least = smallest_p(runs, others)
    if least > SIGNIFICANT:
        return (
            f"{text} With {count(runs, 'run')} of each and {count(others, 'comparison')} no "
            f"corrected p can be below {least:.2g}: more runs are needed for a verdict."
        )
    better: list[str] = []
    worse: list[str] = []
    for row in found.rows[1:]:
        if row.p_corrected is not None and row.p_corrected <= SIGNIFICANT:
            (better if (row.difference or 0) > 0 else worse).append(row.strategy)
    verdicts = [
        f"{', '.join(names)} {agreeing(len(names), 'is', 'are')} significantly {word}"
        for names, word in ((better, "better"), (worse, "worse"))
        if names
    ]
    rest = others - len(better) - len(worse)
    if rest:
        verdicts.append(
            f"no significant difference for {'any' if rest == others else 'the others'}"
        )
    return f"{text} At the level of {SIGNIFICANT:.0%}: {'; '.join(verdicts)}."


def _tested(found: Comparison) -> bool:
    return any(row.p is not None for row in found.rows)


def _cells(found: Comparison, row: Row) -> list[str]:
    cells = [row.strategy, _spread(row.train)]
    if found.score == "held_out":
        cells.append("–" if row.held_out is None else _spread(row.held_out))
    cells.append(percent(row.examples_share))
    if len(found.labels) > 1:
        cells.append("–" if row.difference is None else f"{100 * row.difference:+.2f} points")
    if _tested(found):
        cells += ["–" if p is None else f"{p:.2g}" for p in (row.p, row.p_corrected)]
    return cells


def _spread(values: tuple[float, float | None]) -> str:
    mean, deviation = values
    if deviation is None:
        return f"{100 * mean:.2f} %"
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def _reach(reach: Reach, seeds: int) -> str:
    got = "" if reach.runs == seeds else f" ({reach.runs} of {seeds})"
    return f"{'–' if reach.median is None else number(reach.median)}{got}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        first = f"{cells[0]:<{widths[0]}}"
        rest = [f"{text:>{width}}" for text, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]


# The figure


def comparison_figure(found: Comparison) -> list[Path]:
    """Draw mean curves with 95 % confidence bands over the runs, as PNG and SVG.

    Raises:
        MissingExtraError: matplotlib or scipy is not installed.
        GenepoolError: a file cannot be written.
    """
    from genepool.ui.figures import canvas, encoded

    scores = ["held_out", "train"] if found.score == "held_out" else ["train"]
    files: list[Path] = []
    with canvas(5.2 * len(scores), 4.0) as figure:
        for index, score in enumerate(scores):
            _draw(figure.add_subplot(1, len(scores), index + 1), found, score)
        runs = len(found.seeds)
        title = f"Champion's score, mean of {count(runs, 'run')}"
        if runs > 1:
            title += ", with the 95 % confidence interval of the mean"
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        pictures = [(form, encoded(figure, form)) for form in ("png", "svg")]
    for form, data in pictures:
        files.append(found.directory / f"comparison.{form}")
        write_own(files[-1], data, SVG if form == "svg" else PNG)
    return files


def _draw(axes: Axes, found: Comparison, score: str) -> None:
    axes.set_title(f"{_NAMES[score]} examples".capitalize())
    for index, label in enumerate(found.labels):
        curves = found.of(label)
        values = np.stack([c.held_out if score == "held_out" else c.train for c in curves])
        at = curves[0].evaluations
        colour = COLOURS[index % len(COLOURS)]
        style = _LINES[index // len(COLOURS) % len(_LINES)]
        axes.plot(at, values.mean(axis=0), color=colour, lw=1.6, ls=style, label=label)
        if len(curves) > 1:
            low, high = confidence_band(values)
            # Of few runs it reaches beyond what a score can be.
            axes.fill_between(
                at, np.clip(low, 0, 1), np.clip(high, 0, 1), color=colour, alpha=0.18, lw=0
            )
    axes.set_xlim(0, max(1, found.budget))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.set_xlabel("children scored")
    axes.set_ylabel("mean score")
    axes.grid(axis="y", color="#E5E5E5", lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
