"""What the commands do, as functions: the same facts, and progress unless told otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

import genepool
from genepool import M2N2
from genepool.run.progress import Silence, StepReport
from tests.runs import write_run
from tests.ui.cli.test_commands import ok_json


def test_they_tell_what_the_commands_tell(recipes: Path, tmp_path: Path) -> None:
    assert genepool.status(recipes) == ok_json("status", str(recipes))
    assert genepool.show(recipes) == ok_json("show", str(recipes), "best")
    assert genepool.show(recipes, 0) == genepool.show(str(recipes), "seed1")
    page = genepool.report(recipes, tmp_path / "page.html")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with genepool.Pool(recipes) as pool:
        opened = genepool.export(pool, "best", tmp_path / "opened", verify=False)
    assert genepool.export(str(recipes), "best", tmp_path / "named").genome == opened.genome
    with pytest.raises(genepool.GenepoolError, match="there is no pool here"):
        genepool.status(tmp_path)


def test_evolve_shows_progress_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if every run took long enough for a line, at each of its steps.
    for name in ("_FIRST_LINE", "_GROWTH"):
        monkeypatch.setattr(f"genepool.ui.terminal.progress.{name}", 0.0)
    run = write_run(tmp_path)
    genepool.evolve(run, budget=3, progress=False)
    assert capsys.readouterr() == ("", "")
    genepool.evolve(run, budget=6)
    out, error = capsys.readouterr()
    assert out == ""
    assert "4 of 6 children, best " in error

    class Counter(Silence):
        seen = 0

        def step(self, report: StepReport) -> None:
            self.seen = report.evaluations

    counter = Counter()
    genepool.evolve(run, budget=9, progress=counter)
    assert counter.seen == 9
    assert capsys.readouterr() == ("", "")


def test_evolve_needs_no_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs without one ended in a traceback, as did a cache that was named by a text."""
    monkeypatch.setattr("sys.stderr", None)
    (tmp_path / "cache").mkdir()
    result = genepool.evolve(write_run(tmp_path), budget=3, cache=str(tmp_path / "cache"))
    assert result.status["evaluations"] == 3 and list((tmp_path / "cache").iterdir())


def test_a_script_says_things_in_its_own_way(tmp_path: Path) -> None:
    """Paths, tuples, numpy's numbers and strategies were refused as no texts, lists, numbers ..."""
    plain = yaml.safe_load(write_run(tmp_path, budget=4).read_text())
    tasks = [{**plain["tasks"][0], "data": tmp_path / "data.npz"}]
    seeds = tuple({"path": tmp_path / f"seed{number}.safetensors"} for number in (1, 2))
    own = {**plain, "pool": tmp_path / "own", "seeds": seeds, "tasks": tuple(tasks)}
    own["budget"] = np.int64(4)
    own["strategy"] = M2N2(archive=cast("int", np.int64(5)))
    plain |= {"pool": str(tmp_path / "plain"), "strategy": {"name": "m2n2", "archive": 5}}
    plain["seeds"] = [{"path": str(seed["path"])} for seed in seeds]
    plain["tasks"] = [{**tasks[0], "data": str(tmp_path / "data.npz")}]
    one, two = (genepool.evolve(run, progress=False).status for run in (own, plain))
    assert one["archive"] == two["archive"] and len(one["archive"]) == 5
    # What was said otherwise is the same run file.
    again = {**plain, "pool": str(tmp_path / "own")}
    assert genepool.evolve(again, progress=False).session == 0
    with pytest.raises(genepool.GenepoolError, match="budget: input should be a whole number"):
        genepool.evolve({**own, "budget": np.float64(4.5)}, progress=False)


@pytest.mark.parametrize(
    "said",
    [
        "m2n2",
        pytest.param({"name": "m2n2"}, marks=pytest.mark.slow, id="options"),
        pytest.param(M2N2(archive=5), marks=pytest.mark.slow, id="strategy"),
    ],
)
def test_strategies_are_compared_however_they_are_said(
    said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name was taken as its letters, a mapping of variants as pairs, and some were tracebacks."""
    run = yaml.safe_load(write_run(tmp_path, budget=4, strategy="m2n2").read_text())
    monkeypatch.chdir(tmp_path)
    run |= {"strategy": said}
    variants = {"plain": said, "small": {"name": "ga", "archive": 4}}
    for given in (variants, [*variants.items()]):
        done = genepool.compare(
            *(run, tmp_path / "out"),
            strategies="m2n2",
            variants=given,
            runs=1,
            workers=1,
            progress=False,
        )
        assert done.labels == ("m2n2", "plain", "small")


def test_a_current_folder_that_is_gone_is_told(
    tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook in a folder that was removed had 'No such file or directory', and no name."""
    run = {"pool": str(tmp_path / "pool")}
    seeds = {"seed1": tmp_path / "moved.safetensors"}
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    asked: list[Callable[[], object]] = [
        lambda: genepool.evolve(run, progress=False),
        lambda: genepool.merge("a", "b", tmp_path / "out", ratio=0.5),
        lambda: genepool.export(recipes, "best", tmp_path / "out", seeds=seeds),
    ]
    for ask in asked:
        with pytest.raises(genepool.GenepoolError, match="the current folder is gone"):
            ask()
    assert genepool.status(recipes)["evaluations"]


def test_results_are_short_to_look_at(tmp_path: Path) -> None:
    seeds = [
        {"path": "seed1.safetensors", "name": "<b>one</b>"},
        {"path": "seed2.safetensors", "name": "two\nlines"},
    ]
    none = genepool.evolve(write_run(tmp_path, seeds=seeds, budget=0), progress=False)
    assert "0 of 0 children; no child has beaten the best seed, " in repr(none)
    done = genepool.evolve(write_run(tmp_path, seeds=seeds, budget=30), progress=False)
    champion = done.status["champion"]
    text = repr(done)
    assert text.startswith(f"<genepool.Result '{tmp_path / 'pool'}': 30 of 30 children; champion ")
    assert f"member {champion['member']}: {100 * champion['train']:.1f} %" in text
    assert "\n" not in text
    page = done._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert page.count("<tr>") == 4
    with genepool.Pool(tmp_path / "pool") as pool:
        assert repr(pool) == text.replace("Result", "Pool")
        assert pool._repr_html_() == page
    # A closed pool, or one that is gone, can be looked at in a debugger all the same.
    assert repr(pool) == f"<genepool.Pool '{tmp_path / 'pool'}'>"


def test_looking_into_a_pool_loads_little(recipes: Path) -> None:
    script = (
        "import sys, genepool; genepool.status(sys.argv[1]); genepool.show(sys.argv[1]); "
        "print(sorted({'torch', 'numba', 'pydantic', 'yaml', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(recipes)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_what_the_documents_name_is_there_after_one_import() -> None:
    """As in a fresh process: elsewhere somebody may have imported it already."""
    names = "genepool.core.fitness, genepool.errors.PoolWarning, genepool.testing.check_task"
    code = f"import genepool; print('core' in dir(genepool), *({names}, ))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True <function fitness")
