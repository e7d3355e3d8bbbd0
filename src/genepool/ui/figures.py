"""The picture of a run: how it went, who solves what, and what the champion is made of."""

# matplotlib's annotations leave the types of keyword arguments open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genepool.core.genome import Recipe, Vector
from genepool.core.shares import seed_shares
from genepool.errors import MissingExtraError
from genepool.messages import children, percent
from genepool.output.own_files import PNG, require_replaceable, write_own
from genepool.pool.history import History, history
from genepool.pool.reader import Pool
from genepool.pool.score_matrix import ScoreMatrix, in_columns, score_matrix
from genepool.ui.report.graphics import COLOURS
from genepool.ui.terminal.console import number, plain

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingExtraError("matplotlib", "plots", "the figure of a run") from None

_INK, _SOFT, _FAINT = "#333333", "#666666", "#999999"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "genepool",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
}
_LABELLED_ROWS = 25
_LABELLED_TENSORS = 12
# Columns into which examples and axis are divided at most; about one a pixel.
_COLUMNS = 1000


@contextlib.contextmanager
def canvas(width: float, height: float) -> Generator[Figure, None, None]:
    """An empty figure in the house's style, to be drawn on and encoded inside the context.

    Args:
        width, height: inches, of 130 pixels each.
    """
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), dpi=130, layout="constrained")


def encoded(figure: Figure, form: Literal["png", "svg"]) -> bytes:
    """The bytes of a figure's file; equal figures have equal ones."""
    buffer = io.BytesIO()
    # A file should not differ for the day on which it was made.
    metadata = {"Software": "genepool"} if form == "png" else {"Creator": "genepool", "Date": None}
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()


def run_figure(pool: Pool, file: Path) -> None:
    """Draw a run and write it as a PNG.

    Args:
        pool: with at least one seed scored.
        file: where to; its directory is there.

    Raises:
        InputError: nothing has been scored yet, or something else lies at `file`.
        GenepoolError: the file cannot be written.
    """
    require_replaceable(file, PNG)
    past = history(pool)
    rows = score_matrix(pool)
    with canvas(10, 8.6) as figure:
        # The strip of the seeds is as high as their number, but no higher than the archive's.
        strip = min(2.6, 0.35 + 0.17 * len(rows.seeds))
        grid = figure.add_gridspec(4, 2, height_ratios=[2.6, strip, 3.0, 1.2])
        _draw_champion(figure.add_subplot(grid[0, 0]), past, pool)
        _draw_diversity(figure.add_subplot(grid[0, 1]), past)
        _draw_seeds(figure.add_subplot(grid[1, :]), rows)
        _draw_archive(figure.add_subplot(grid[2, :]), rows, pool)
        _draw_genome(figure.add_subplot(grid[3, :]), pool)
        figure.suptitle(_title(pool, past), fontsize=11, x=0.01, ha="left")
        data = encoded(figure, "png")
    write_own(file, data, PNG)


def _title(pool: Pool, past: History) -> str:
    best = pool.status()["champion"]
    champion = "no champion"
    if best is not None:
        champion = f"champion {percent(best['train'])} on selection examples"
    if best is not None and best["held_out"] is not None:
        champion += f", {percent(best['held_out'])} on held-out ones"
    name = plain(pool.path.absolute().name)
    return f"{name}: {children(int(past.evaluations[-1]))}, {champion}"


def _draw_champion(axes: Axes, past: History, pool: Pool) -> None:
    axes.set_title("Score of the champion")
    # With subsets it is the best of the archive, but at the end of a finished run; see `History`.
    label = "selection" if pool.header.subsets is None else "best of the archive on its subset"
    axes.step(past.evaluations, past.train, where="post", color=_INK, lw=1.6, label=label)
    known = np.flatnonzero(~np.isnan(past.held_out))
    held: dict[str, Any] = {"color": _INK, "label": "held-out"}
    if known.size == past.held_out.size:
        axes.step(past.evaluations, past.held_out, where="post", lw=1.2, ls="--", **held)
    elif known.size:
        last = known[-1]
        axes.plot(past.evaluations[last], past.held_out[last], "o", ms=5, clip_on=False, **held)
    status = pool.status()
    for index, seed in enumerate(status["seeds"]):
        if seed["train"] is not None:
            colour = _colour(index)
            name = f"{plain(seed['name'])}, selection" if index < 6 else None
            axes.axhline(seed["train"], color=colour, lw=1, label=name)
    _finish_time(axes, past)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_ylabel("mean score")
    axes.legend(loc="best")


def _colour(seed: int) -> tuple[float, float, float, float]:
    """As the report has it: after seven seeds the colours come again, pale."""
    again, place = divmod(seed, len(COLOURS))
    return to_rgba(COLOURS[place], 0.45 if again % 2 else 1.0)


def _draw_diversity(axes: Axes, past: History) -> None:
    axes.set_title("Diversity of the archive")
    for values, text, style in (
        (past.coverage, "coverage: share that some member solves", "-"),
        (past.entropy, "entropy (bits): 1 if half of all solve each", ":"),
    ):
        label = f"{text}, now {values[-1]:.2f}"
        axes.step(
            past.evaluations, values, where="post", color=_SOFT, lw=1.6, ls=style, label=label
        )
    _finish_time(axes, past)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share, bits")
    axes.legend(loc="best")


def _finish_time(axes: Axes, past: History) -> None:
    axes.set_xlim(0, max(1, int(past.evaluations[-1])))
    axes.set_xlabel("children scored")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="y", color="#E5E5E5", lw=0.6)
    axes.set_axisbelow(True)


def _draw_seeds(axes: Axes, rows: ScoreMatrix) -> None:
    axes.set_title("Who solves what (dark: solved)")
    _image(axes, rows.seeds)
    axes.set_yticks(range(len(rows.names)), [plain(name) for name in rows.names])
    axes.tick_params(bottom=False, labelbottom=False)


def _draw_archive(axes: Axes, rows: ScoreMatrix, pool: Pool) -> None:
    _image(axes, rows.archive)
    if len(rows.members) <= _LABELLED_ROWS:
        axes.set_yticks(range(len(rows.members)), [_named(member, rows) for member in rows.members])
        axes.tick_params(axis="y", labelsize=6.5)
    axes.set_ylabel("archive members, best first")
    axes.set_xlabel("selection examples, ordered by which seeds and how many members solve them")
    tasks = pool.tasks()
    if len(tasks) > 1:
        for start, stop, task in zip(rows.edges[:-1], rows.edges[1:], tasks, strict=True):
            axes.axvline(float(stop), color=_INK, lw=1)
            middle = (float(start) + float(stop)) / 2
            axes.annotate(plain(task.name), (middle, -0.8), ha="center", va="bottom")


def _named(member: int, rows: ScoreMatrix) -> str:
    """A member as it is called everywhere: by its number, or a seed by its name."""
    return plain(rows.names[member]) if member < len(rows.names) else f"member {member}"


def _image(axes: Axes, scores: NDArray[np.float32]) -> None:
    """One row per model; examples that share a pixel are averaged, rows never are."""
    height, examples = scores.shape
    axes.imshow(
        in_columns(scores, _COLUMNS),
        extent=(0, examples, height - 0.5, -0.5),
        aspect="auto",
        cmap="Greys",
        vmin=0,
        vmax=1.6,
        interpolation="nearest",
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _draw_genome(axes: Axes, pool: Pool) -> None:
    champion = pool.champion()
    genome = None if champion is None else pool.genome(champion)
    if isinstance(genome, Recipe):
        _draw_stripes(axes, genome, pool)
    elif isinstance(genome, Vector):
        _draw_weights(axes, genome, pool)


def _draw_stripes(axes: Axes, genome: Recipe, pool: Pool) -> None:
    axes.set_title(f"Genome of the champion: {number(len(genome.coefs))} segments")
    edges = np.linspace(0, genome.size, _COLUMNS + 1)
    shares = seed_shares(genome, _COLUMNS)
    tops = np.minimum(np.cumsum(shares, axis=1), 1.0)
    below = np.zeros(_COLUMNS)
    for index, seed in enumerate(pool.seeds()):
        colour = _colour(index)
        axes.stairs(tops[:, index], edges, baseline=below, fill=True, color=colour)
        axes.plot([], [], color=colour, lw=6, label=plain(seed.name))
        below = tops[:, index]
    axes.set_xlim(0, genome.size)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("share of seed")
    axes.set_xlabel("position on the parameter axis, first layer to last")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _mark_tensors(axes, pool)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6, borderaxespad=0.2)


def _mark_tensors(axes: Axes, pool: Pool) -> None:
    """Lines between tensors, and the names of those that have room for one."""
    tensors, size = pool.header.tensors, pool.header.axis_size
    if not 0 < len(tensors) <= 10 * _LABELLED_TENSORS:
        return
    stops = [*(start for _, start in tensors[1:]), size]
    for (name, start), stop in zip(tensors, stops, strict=True):
        if stop < size:
            axes.axvline(stop, color="white", lw=0.8)
        # A character takes about 0.7 % of the width.
        if stop - start > 0.007 * size * (len(name) + 2):
            middle = (start + stop) / 2
            axes.annotate(plain(name), (middle, 0.03), ha="center", va="bottom", color="white")


def _draw_weights(axes: Axes, genome: Vector, pool: Pool) -> None:
    # Older pools do not know where one ends.
    tensors = pool.header.tensors or (("all tensors", 0),)
    axes.set_title("Genome of the champion: dense, with mutation; mean size of the weights")
    starts = np.array([start for _, start in tensors])
    sums = np.add.reduceat(np.abs(genome.values, dtype=np.float64), starts)
    means = sums / np.diff([*starts.tolist(), genome.size])
    axes.bar(range(len(means)), means, color=_SOFT, width=0.6)
    axes.set_ylabel("mean |weight|")
    if len(tensors) <= _LABELLED_TENSORS:
        axes.set_xticks(range(len(means)), [plain(name) for name, _ in tensors])
    else:
        axes.set_xlabel("tensors, first layer to last")
