"""The figure of a run: drawn for every kind of pool, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from genepool.errors import GenepoolError, InputError, installing
from genepool.pool.history import history
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.ui import figures
from genepool.ui.figures import canvas, encoded, run_figure
from tests.runs import write_run, write_seed


def colours(file: Path) -> set[tuple[int, ...]]:
    """The colours of at least a hundred pixels, as (red, green, blue)."""
    pixels = np.round(matplotlib.image.imread(file)[..., :3] * 255).astype(int)
    # One number a pixel: rows take twenty times as long to sort.
    found, counts = np.unique(pixels @ (1 << 16, 1 << 8, 1), return_counts=True)
    return {(c >> 16, c >> 8 & 255, c & 255) for c in found[counts > 100].tolist()}


BLUE, VERMILLION, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


@pytest.mark.slow
def test_eight_seeds_have_eight_colours(tmp_path: Path) -> None:
    file = write_run(tmp_path, seeds=[f"seed{number}.safetensors" for number in range(1, 9)])
    for number in range(4, 9):
        write_seed(tmp_path / f"seed{number}.safetensors", number)
    evolve(file, budget=1)
    with Pool(tmp_path / "pool") as pool:
        run_figure(pool, tmp_path / "eight.png")
    # The first one's, pale.
    assert {BLUE, (140, 191, 220)} <= colours(tmp_path / "eight.png")


@pytest.mark.slow
def test_a_figure_shows_every_seed_in_its_colour(
    recipes: Path, two_tasks: Path, tmp_path: Path
) -> None:
    for name, path in (("two", recipes), ("three", two_tasks)):
        with Pool(path) as pool:
            run_figure(pool, tmp_path / f"{name}.png")
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert {BLUE, VERMILLION} <= colours(tmp_path / "two.png")
    assert {BLUE, VERMILLION, GREEN} <= colours(tmp_path / "three.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_marks_of_scores_that_lie_close_together_differ(recipes: Path) -> None:
    """They were whole per cents: 95 %, 95 %, 96 %, 96 %."""
    with Pool(recipes) as pool, canvas(5, 9) as figure:
        past = history(pool, points=3)
        for row, (low, high) in enumerate(((0.951, 0.957), (0.99991, 1.0), (0.2, 0.9))):
            train = np.linspace(low, high, past.train.size)
            axes = figure.add_subplot(3, 1, row + 1)
            figures._draw_champion(axes, replace(past, train=train, held_out=train), pool)
            axes.set_ylim(low, high)
        encoded(figure, "png")
        marks = [[mark.get_text() for mark in axes.get_yticklabels()] for axes in figure.axes]
    assert [len(set(texts)) == len(texts) > 2 for texts in marks] == [True, True, True]
    assert "95.2 %" in marks[0] or "95.20 %" in marks[0]
    assert "80 %" in marks[2]


@pytest.mark.slow
def test_a_dense_genome_is_drawn_tensor_by_tensor(vectors: Path, tmp_path: Path) -> None:
    with Pool(vectors) as pool:
        run_figure(pool, tmp_path / "run.png")
    # No seed's colour: mutation has mixed in something of its own.
    assert (102, 102, 102) in colours(tmp_path / "run.png")


def test_a_dense_genome_of_a_pool_that_knows_no_tensors_is_drawn_as_one(vectors: Path) -> None:
    with Pool(vectors) as pool, canvas(5, 3) as figure:
        champion = pool.genome(pool.champion())
        axes = figure.add_subplot()
        older: Any = SimpleNamespace(header=replace(pool.header, tensors=()))
        figures._draw_weights(axes, champion, older)
        (bar,) = axes.patches
    assert bar.get_height() == pytest.approx(np.abs(champion.values).mean())


@pytest.mark.slow
def test_seeds_alone_can_be_drawn(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=0))
    with Pool(tmp_path / "pool") as pool:
        run_figure(pool, tmp_path / "run.png")
        with pytest.raises(GenepoolError, match="cannot be written"):
            run_figure(pool, tmp_path / "run.png" / "run.png")


def test_a_pool_without_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("examples = [1]\ndef score(model, chosen): raise OSError\n")
    tasks = [{"name": "fails", "evaluator": "function", "function": "fails:score"}]
    with pytest.raises(GenepoolError, match="seed 'seed1' cannot be scored"):
        evolve(write_run(tmp_path, tasks=tasks))
    with (
        Pool(tmp_path / "pool") as pool,
        pytest.raises(InputError, match="nothing has been scored"),
    ):
        run_figure(pool, tmp_path / "run.png")


def test_without_matplotlib_the_message_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "try: import genepool.ui.figures\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == (
        "MissingExtraError the figure of a run needs the package 'matplotlib', which is not "
        f"installed: {installing('plots')}\n"
    )
