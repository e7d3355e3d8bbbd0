"""Measures and pictures: of seeds, champion and archive, kept in the pool and shown everywhere."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genepool.errors import EvaluationError, InputError, PoolError
from genepool.pool.reader import Pool
from genepool.pool.records import REFERENCE
from genepool.pool.score_matrix import score_matrix
from genepool.run.evolve import evolve
from genepool.run.finished.draw import draw_pictures
from genepool.run.finished.observe import evenly
from genepool.run.progress import Silence
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import opened_database
from tests.sketches import write_run


def _pixel(png: bytes) -> int:
    image = Image.open(io.BytesIO(png))
    assert image.size == (8, 10)
    return int(np.asarray(image)[0, 0, 0])


def test_measures_of_seeds_and_champion_are_kept_and_told(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    with Pool(result.pool) as pool:
        champion = pool.champion()
        assert champion is not None and champion > 1
        measured = pool.measures()
        assert measured.keys() == {0, 1, champion}
    brightness = {entry["name"]: entry["value"] for entry in result.status["seeds"][0]["measures"]}
    assert brightness == {"brightness": pytest.approx(0.5), "given": 0.5}
    assert result.status["champion"]["measures"][0]["task"] == "sketch"
    out = run_cli(["status", str(result.pool)])[1]
    assert "measured besides" in out and "brightness" in out
    found = json.loads(run_cli(["show", str(result.pool), "best", "--json"])[1])
    assert {each["name"] for each in found["measures"]} == {"brightness", "given"}


@pytest.mark.parametrize(
    ("at", "left"),
    [
        ("scoring seed seed0 on held-out examples", (1, 0, False)),
        ("measuring what nobody competes for", (3, 1, False)),
        ("drawing pictures", (3, 3, False)),
    ],
)
def test_ctrl_c_at_the_end_of_a_run_ends_it(
    tmp_path: Path, at: str, left: tuple[int, int, bool]
) -> None:
    """Seeds and champion were all scored, measured and drawn from first, however long it took."""

    class Interrupted(Silence):
        told = False

        def stage(self, text: str) -> None:
            if text == at and not self.told:
                self.told = True
                os.kill(os.getpid(), signal.SIGINT)

    whole = evolve(write_run(tmp_path / "whole"))
    file = write_run(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        evolve(file, progress=Interrupted())
    with Pool(tmp_path / "cut/pool") as pool:
        found = len(pool.held_out()), len(pool.measures()), bool(pool.pictures())
    assert found == left
    result = evolve(file)
    with Pool(whole.pool) as one, Pool(result.pool) as other:
        assert one.held_out() == other.held_out()
        assert one.measures() == other.measures() and one.pictures() == other.pictures()


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["process"])
def test_workers_measure_and_draw_the_same(tmp_path: Path, executor: str) -> None:
    """As the serial executor does."""
    kept: list[Any] = []
    for name, settings in (("a", {}), ("b", {"executor": executor, "workers": 2})):
        result = evolve(write_run(tmp_path / name, **settings))
        with Pool(result.pool) as pool:
            kept.append((pool.measures(), pool.pictures()))
    assert kept[0] == kept[1]


def test_pictures_are_of_the_same_prompts_and_of_the_best(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    with Pool(result.pool) as pool:
        pictures, champion = pool.pictures(), pool.champion()
        matrix, slots = score_matrix(pool), pool.slots()
        records = {member: pool.record(member).scores for member in slots.values()}
    same = [p for p in pictures if p.part == "held-out"]
    assert {p.member for p in same} == {0, 1, champion, REFERENCE}
    assert len(same) == 4 * 4 and {p.example for p in same} == {0, 1, 2, 3}
    best = [p for p in pictures if p.part == "train" and p.member != REFERENCE]
    assert [p.example for p in sorted(best, key=lambda p: p.example)] == evenly(12).tolist()
    for picture in best:
        scores = {m: s[picture.example] for m, s in records.items() if s is not None}
        assert picture.member in matrix.members
        assert scores[picture.member] == max(scores.values())
        assert _pixel(picture.png) == int(np.float32(255) * scores[picture.member])
    assert {_pixel(p.png) for p in pictures if p.member == REFERENCE} == {7}


def test_going_on_draws_anew_and_measures_only_who_is_new(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=5)
    evolve(run)
    with Pool(tmp_path / "pool") as pool:
        before = pool.measures()
    result = evolve({**run, "budget": 40})
    with Pool(result.pool) as pool:
        members = {p.member for p in pool.pictures() if p.part == "held-out"}
        assert members == {0, 1, pool.champion(), REFERENCE}
        assert before.items() <= pool.measures().items()


def test_a_measure_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run["tasks"][0]["measured"] = float("nan")
    with pytest.raises(EvaluationError, match="'given' is nan"):
        evolve(run)
    with Pool(tmp_path / "pool") as pool:  # all children are there
        assert pool.evaluations == 30


def test_pools_without_these_tables_are_read_and_go_on(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=5)
    evolve(run)
    with opened_database(tmp_path / "pool") as db:
        db.execute("DROP TABLE measures")
        db.execute("DROP TABLE pictures")
    with Pool(tmp_path / "pool") as pool:
        assert pool.measures() == {} and pool.pictures() == []
        assert pool.status()["seeds"][0]["measures"] == []
    evolve({**run, "budget": 6})
    with Pool(tmp_path / "pool") as pool:
        assert pool.measures() and pool.pictures()


def test_a_picture_that_was_changed_in_the_file_is_damage(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path, budget=5))
    with opened_database(result.pool) as db:
        db.execute("UPDATE pictures SET caption = 'another' WHERE example = 0")
    with pytest.raises(PoolError, match="a row of 'pictures' is not what was written"):
        Pool(result.pool)


def test_the_report_and_the_card_show_them(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    page = tmp_path / "page.html"
    assert run_cli(["report", str(result.pool), "-o", str(page)])[0] == 0
    text = page.read_text("utf-8")
    assert "What they draw" in text and "square &lt;3&gt; 四角" in text and "square <3>" not in text
    assert text.count("data:image/png;base64,") >= 4 * 4 + 2 * 8
    assert "Measured besides" in text
    for member, rows in (("best", 3), ("seed0", 2)):
        assert run_cli(["export", str(result.pool), member, "-o", str(tmp_path / member)])[0] == 0
        card = (tmp_path / member / "README.md").read_text("utf-8")
        assert "## Measured besides" in card and "brightness" in card
        assert "](pictures.png)" in card and "square &lt;3&gt; 四角" in card
        picture = Image.open(io.BytesIO((tmp_path / member / "pictures.png").read_bytes()))
        assert picture.size == (4 * 12 - 4, rows * 14 - 4)


@pytest.mark.parametrize("guards", [False, True])
def test_what_several_tasks_measure_is_told_of_each(guards: bool, tmp_path: Path) -> None:
    """The report and the card showed the last task's alone."""
    run = write_run(tmp_path, budget=5)
    run["tasks"] = [
        {**run["tasks"][0], "name": name, "measured": value, "guard": guards and name == "画"}
        for name, value in (("絵", 0.25), ("画", 0.75))
    ]
    pool = str(evolve(run).pool)
    assert run_cli(["report", pool, "-o", str(tmp_path / "page.html")])[0] == 0
    assert run_cli(["export", pool, "-o", str(tmp_path / "out")])[0] == 0
    page = (tmp_path / "page.html").read_text("utf-8").split("Measured besides</caption>")[1]
    card = (tmp_path / "out/README.md").read_text("utf-8").partition("## Measured besides")[2]
    table = run_cli(["status", pool])[1].partition("measured besides")[2]
    page = page.partition("</table>")[0]
    for text, low, high in ((page, "25.0 %", "75.0 %"), (card, "0.2500", "0.7500")):
        assert "画, given" in text and "絵, given" in text
        assert text.count(low) == text.count(high) == 3
    assert "画, given" in table and "絵, given" in table


def test_what_is_no_share_is_shown_as_a_number(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=3)
    run["tasks"][0]["measured"] = 12.5
    pool = str(evolve(run).pool)
    page = tmp_path / "page.html"
    assert run_cli(["report", pool, "-o", str(page)])[0] == 0
    for text in (
        page.read_text("utf-8").split("Measured besides</caption>")[1].partition("</table>")[0],
        run_cli(["status", pool])[1].partition("measured besides")[2],
        run_cli(["show", pool, "0"])[1].partition("given")[2].partition("\n")[0],
    ):
        assert "12.5" in text and "1250" not in text and "12.5 %" not in text


def test_a_member_that_drew_nothing_has_a_card_without_pictures(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    with Pool(result.pool) as pool:
        other = next(m for m in pool.slots().values() if m not in (0, 1, pool.champion()))
    run_cli(["export", str(result.pool), str(other), "-o", str(tmp_path / "out")])
    assert "## Pictures" not in (tmp_path / "out/README.md").read_text("utf-8")
    assert not (tmp_path / "out/pictures.png").exists()


def test_real_pictures_of_another_size_are_made_to_fit_the_card(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run["tasks"][0]["height"] = 30
    result = evolve(run)
    run_cli(["export", str(result.pool), "best", "-o", str(tmp_path / "out")])
    picture = Image.open(io.BytesIO((tmp_path / "out/pictures.png").read_bytes()))
    assert picture.size == (4 * 12 - 4, 3 * 14 - 4)


def test_show_draws_held_out_examples_into_a_new_directory(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    made = tmp_path / "made"
    arguments = ["show", str(result.pool), "--pictures", "3", "-o", str(made)]
    code, out, _ = run_cli([*arguments, "seed1"])
    assert code == 0 and "wrote 4 files" in out
    names = sorted(file.name for file in made.iterdir())
    assert names[0] == "sketch-001-id_12.png" and names[-1] == "sketch.png"
    assert Image.open(io.BytesIO((made / "sketch.png").read_bytes())).size == (3 * 12 - 4, 10)
    with Pool(result.pool) as pool:
        kept = {p.example: p.png for p in pool.pictures() if p.member == 1 and p.part == "held-out"}
    assert _pixel((made / names[0]).read_bytes()) == _pixel(kept[0])
    code, _, error = run_cli([*arguments, "best"])
    assert code == 1 and "not an empty directory" in error
    assert run_cli(["show", str(result.pool), "best", "--pictures", "3"])[0] == 2


@pytest.mark.parametrize("names", quick([("絵", "画"), ("a b", "a/b"), ("example", "...")]))
def test_pictures_of_tasks_that_are_called_alike_lie_beside_each_other(
    names: tuple[str, str], tmp_path: Path
) -> None:
    run = write_run(tmp_path, budget=2)
    run["tasks"] = [{**run["tasks"][0], "name": name} for name in names]
    with Pool(evolve(run).pool) as pool:
        written = draw_pictures(pool, "best", 2, tmp_path / "made")
    assert len({*written}) == len(written) == 2 * 3
    assert sorted((tmp_path / "made").iterdir()) == sorted(written)


def test_tasks_without_pictures_have_nothing_to_draw(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=5)
    (tmp_path / "plain.py").write_text("def f(model, examples): return [0.5 for _ in examples]\n")
    run["tasks"] = [
        {"name": "t", "evaluator": "function", "function": "plain:f", "examples": "plain:e"}
    ]
    (tmp_path / "plain.py").write_text("e = [1, 2]\ndef f(model, examples): return [0.5, 0.5]\n")
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    result = evolve(tmp_path / "run.yaml")
    with Pool(result.pool) as pool, pytest.raises(InputError, match="none of its tasks"):
        draw_pictures(pool, "best", 2, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_pictures_that_are_drawn_by_the_block_come_from_few_blocks() -> None:
    assert evenly(100).tolist() == [0, 12, 25, 37, 50, 62, 75, 87]
    assert evenly(128, batch=16).tolist() == [0, 4, 8, 12, 64, 68, 72, 76]
    assert evenly(100, batch=4).tolist() == [0, 1, 2, 3, 48, 49, 50, 51]
    assert evenly(20, batch=16).tolist() == [0, 2, 5, 7, 10, 12, 15, 17]
    assert evenly(3, batch=16).tolist() == [0, 1, 2]
    for size in range(1, 40):
        for batch in range(1, 20):
            found = evenly(size, batch=batch)
            assert found.size == len(set(found.tolist())) and found.max() < size
            assert len(set((found // batch).tolist())) <= max(2, -(-8 // batch))
