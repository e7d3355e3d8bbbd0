"""Every strategy through the same pool: resumed in pieces, in worker processes, made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.core.archive import Archive, Member
from genepool.core.genome import digest
from genepool.errors import ConfigError, PoolError
from genepool.output.member import export
from genepool.output.rebuild import rebuild
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.run_file import load_run
from genepool.strategies.by_name import BUILT_IN
from genepool.strategies.cma_es import group_tensors
from genepool.strategies.map_elites import cell_of
from genepool.strategies.problem import Plan, Problem, Proposal
from genepool.strategies.random import RandomMerge
from genepool.strategies.sweep import Sweep
from genepool.ui.report.report import write_report
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import contents, seed_file, write_run

MEASURES = [{"task": "clouds", "labels": ["0"]}, {"task": "clouds", "labels": ["1", "2"]}]
STRATEGIES: list[dict[str, Any]] = [
    {"name": "map-elites", "measures": MEASURES, "cells": 5, "splits": 2},
    {"name": "map-elites", "measures": [{"task": "clouds"}], "mutation": 0.05, "warmup": 4},
    {"name": "cma-es", "population": 7},
    {"name": "cma-es", "population": 6, "groups": ["*.weight"]},
    {"name": "cma-es", "population": 6, "weights": True, "sigma": 0.1, "archive": 4},
    {"name": "sweep", "grid": 20},
    {"name": "random"},
    {"name": "m2n2", "archive": 6, "risk": 0.2},
    {"name": "m2n2", "archive": 6, "splits": 3},
    {"name": "m2n2", "archive": 6, "splits": 2, "mutation": 0.05, "warmup": 4},
]


@pytest.mark.parametrize("number", quick(range(len(STRATEGIES)), (3, 9)))
def test_a_run_in_pieces_is_the_run_in_one(tmp_path: Path, number: int) -> None:
    """With one child in flight and with four, in turn."""
    strategy, width = STRATEGIES[number], (1, 4)[number % 2]
    changes: dict[str, Any] = {
        "strategy": strategy,
        "in_flight": width,
        "seeds": [f"seed{n}.safetensors" for n in (1, 2, 3)],
    }
    evolve(write_run(tmp_path / "one", **changes))
    file = write_run(tmp_path / "many", **changes)
    for budget in (1, 5, 6, 20, 47, 60):
        evolve(file, budget=budget)
    one, many = contents(tmp_path / "one/pool"), contents(tmp_path / "many/pool")
    assert one[:-2] == many[:-2]
    assert one[-1] == many[-1]
    with Pool(tmp_path / "one/pool") as pool:
        for record in pool.records():
            if record.merge is not None and record.digest is not None:
                assert digest(pool.genome(record.id)) == record.digest
        best = max(record.train or 0 for record in pool.records() if record.step == 0)
        assert pool.status()["champion"]["train"] >= best


@pytest.mark.parametrize("strategy", [STRATEGIES[2], STRATEGIES[-1]], ids=["ratios", "splits"])
@pytest.mark.slow
def test_worker_processes_give_the_same_run(tmp_path: Path, strategy: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"strategy": strategy, "in_flight": 4, "budget": 30}
    evolve(write_run(tmp_path / "serial", **changes))
    evolve(write_run(tmp_path / "process", **changes, executor="process", workers=2))
    assert contents(tmp_path / "serial/pool") == contents(tmp_path / "process/pool")


def test_map_elites_keeps_the_best_of_each_cell(tmp_path: Path) -> None:
    strategy = {**STRATEGIES[0], "mutation": 0.3}
    evolve(write_run(tmp_path, strategy=strategy, budget=150))
    with Pool(tmp_path / "pool") as pool:
        labels = np.arange(120) % 3  # as tests.runs writes them
        best: dict[tuple[int, int], float] = {}
        for record in pool.records():
            assert record.scores is not None and record.train is not None
            groups = (record.scores[labels == 0], record.scores[labels != 0])
            cell = tuple(min(4, int(5 * float(group.mean()) + 1e-6)) for group in groups)
            best[cell] = max(best.get(cell, 0.0), record.train)
        found = {slot: pool.record(member).train for slot, member in pool.slots().items()}
    assert found == {5 * row + column: train for (row, column), train in best.items()}
    assert len(found) > 3


def test_cma_es_climbs(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, strategy={"name": "cma-es", "population": 10}, budget=200))
    with Pool(tmp_path / "pool") as pool:
        trains = [record.train or 0.0 for record in pool.records() if record.step]
    assert np.mean(trains[-50:]) > np.mean(trains[:50]) + 0.02


@pytest.mark.slow
def test_cma_es_climbs_with_children_in_flight_too(tmp_path: Path) -> None:
    """Those that were drawn before the distribution moved on must not drive it away."""
    strategy = {"name": "cma-es", "population": 8, "weights": True, "sigma": 0.1}
    for width in (1, 3):
        evolve(write_run(tmp_path / str(width), strategy=strategy, budget=800, in_flight=width))

    def last(width: int) -> float:
        with Pool(tmp_path / str(width) / "pool") as pool:
            scores = [record.train or 0.0 for record in pool.records(pool.evaluations - 100)]
        return sum(scores) / len(scores)

    assert last(1) > 0.85
    assert last(3) > last(1) - 0.05


def test_cma_es_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    evolve(write_run(tmp_path, strategy={"name": "cma-es", "population": 5}, budget=12))
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_drawn_weights_are_kept_while_accepted(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, strategy=STRATEGIES[4], budget=80))
    with Pool(tmp_path / "pool") as pool:
        lost = 0
        for record in pool.records():
            if record.verdict == "accepted":
                assert digest(pool.genome(record.id)) == record.digest
            else:
                lost += 1
                with pytest.raises(PoolError, match="cannot be made again"):
                    pool.genome(record.id)
    assert lost


def test_the_sweep_covers_its_grid(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, strategy={"name": "sweep", "grid": 5}, budget=9))
    with Pool(tmp_path / "pool") as pool:
        ratios = [json.loads(record.plan)["ratio"] for record in pool.records() if record.step]
    assert ratios == [0, 0.25, 0.5, 0.75, 1, 0.125, 0.375, 0.625, 0.875]


def test_a_sweep_says_where_the_budget_ends_before_its_grid(tmp_path: Path) -> None:
    strategy = {"name": "sweep", "grid": 5}
    seeds = [seed_file(tmp_path, number) for number in (1, 2, 3)]
    file = write_run(tmp_path, strategy=strategy, seeds=seeds, budget=8)
    assert evolve(file).notices[-1] == (
        "budget: 8 is less than the 15 merges of the sweep (5 ratios for each pair of seeds), so "
        "that no ratio above 0.5 is tried; make 'grid' smaller or the budget larger"
    )
    # The budget that counts is that of the call.
    assert not any("sweep" in text for text in evolve(file, budget=15).notices)
    with Pool(tmp_path / "pool") as pool:
        ratios = [json.loads(record.plan)["ratio"] for record in pool.records() if record.step]
    assert max(ratios[:8]) == 0.5


@pytest.mark.parametrize(
    ("seeds", "budget", "largest"),
    [(2, 4, "0.75"), (2, 5, None), (4, 6, "0"), (4, 29, "1"), (4, 30, None), (1, 2, "0.25")],
)
def test_the_largest_ratio_of_a_sweep_that_is_cut_short(
    seeds: int, budget: int, largest: str | None
) -> None:
    told = Sweep(grid=5).told(seeds, budget)
    assert [f"no ratio above {largest} is" in text for text in told] == [True] * bool(largest)


_STRATEGY = """
from typing import Literal

from genepool.strategies.base import Surviving
from genepool.strategies.sweep import Sweep
from pydantic import Field


class Tiny(Surviving):
    name: Literal["tiny"] = "tiny"
    ratios: int = Field(default=3, ge=2, description="how many")

    def begin(self, problem, in_flight):
        return self._sweep.begin(problem, in_flight)

    def propose(self, problem, state, step):
        return self._sweep.propose(problem, state, step)

    @property
    def _sweep(self):
        return Sweep(grid=self.ratios, archive=4)
"""


def write_wheel(directory: Path) -> Path:
    """A package `tinystrategy` whose entry point names the strategy `tiny`."""
    info = "tinystrategy-1.0.dist-info"
    files = {
        "tinystrategy.py": _STRATEGY,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinystrategy\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[genepool.strategies]\ntiny = tinystrategy:Tiny\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = directory / "tinystrategy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return wheel


@pytest.mark.slow
def test_a_strategy_of_an_installed_package_goes_by_its_name(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    target = tmp_path / "site"
    wheel = str(write_wheel(tmp_path))
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(target), wheel], check=True
    )
    file = write_run(tmp_path, strategy={"name": "tiny", "ratios": 5}, budget=5)
    path = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}

    def evolve_it() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "genepool", "evolve", str(file)]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    done = evolve_it()
    assert done.returncode == 0, done.stderr
    with Pool(tmp_path / "pool") as pool:
        ratios = [json.loads(record.plan)["ratio"] for record in pool.records() if record.step]
    assert ratios == [0, 0.25, 0.5, 0.75, 1]
    write_run(tmp_path, strategy={"name": "tiny", "ratio": 5}, budget=5)
    done = evolve_it()
    assert done.returncode == 1
    assert "strategy.ratio: unknown key; did you mean 'ratios'?" in done.stderr
    with pytest.raises(ConfigError, match="there is no strategy 'tiny'"):
        load_run(file)


class Numpys(RandomMerge, frozen=True):
    """A strategy of somebody's own, which says with numbers of numpy what it has found."""

    name: Literal["numpys"] = "numpys"  # pyright: ignore[reportIncompatibleVariableOverride]

    def propose(self, problem: Problem, state: Archive, step: int) -> Proposal:
        proposal = super().propose(problem, state, step)
        assert isinstance(proposal.plan, Plan)
        ratio: Any = np.float64(proposal.plan.ratio)
        return replace(proposal, plan=replace(proposal.plan, ratio=ratio))

    def absorb(self, state: Archive, member: Member, step: int, scores: Any) -> Any:
        after, outcome = super().absorb(state, member, step, scores)
        slot: Any = None if outcome.slot is None else np.int64(outcome.slot)
        return after, replace(outcome, slot=slot, fitness=scores.mean())


def test_a_strategy_may_speak_in_numbers_of_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite kept them as bytes: the run ended well, and its pool could not be used any more."""
    monkeypatch.setitem(BUILT_IN, "numpys", Numpys)
    strategy = {"name": "numpys", "archive": 4}
    evolve(write_run(tmp_path / "whole", strategy=strategy, budget=20))
    for budget in (7, 20):
        evolve(write_run(tmp_path / "pieces", strategy=strategy, budget=budget))
    pieces, whole = (contents(tmp_path / name / "pool") for name in ("pieces", "whole"))
    assert pieces[:-2] == whole[:-2] and pieces[-1] == whole[-1]
    with Pool(tmp_path / "whole/pool") as pool:
        assert set(pool.slots()) == {0, 1, 2, 3}
        assert 0 <= json.loads(pool.record(9).plan)["ratio"] <= 1


@pytest.mark.slow
def test_a_child_of_several_splits_is_shown_and_made_again(tmp_path: Path) -> None:
    seeds = [f"seed{number}.safetensors" for number in (1, 2, 3)]
    strategy = {"name": "m2n2", "archive": 6, "splits": 3}
    evolve(write_run(tmp_path, seeds=seeds, strategy=strategy, budget=40))
    with Pool(tmp_path / "pool") as pool:
        member = max(record.id for record in pool.records() if record.slot is not None)
        done = export(pool, str(member), tmp_path / "out")
        write_report(pool, tmp_path / "report.html")
    places = {seed.removesuffix(".safetensors"): tmp_path / seed for seed in seeds}
    again = rebuild(tmp_path / "out", tmp_path / "again", seeds=places)
    assert again.genome == done.genome
    assert len({open_checkpoint(tmp_path / name).digest() for name in ("out", "again")}) == 1
    code, out, _ = run_cli(["show", str(tmp_path / "pool"), str(member), "--json"])
    plan = json.loads(out)["plan"]
    assert code == 0
    assert len(plan["splits"]) == 3 and plan["splits"] == sorted(plan["splits"])
    size = 8 * 16 + 16 + 16 * 3 + 3
    places = ", ".join(f"{100 * split / size:.1f} %" for split in plan["splits"])
    assert f"split at {places} |" in (tmp_path / "out/README.md").read_text()
    code, out, _ = run_cli(["show", str(tmp_path / "pool"), str(member)])
    assert code == 0
    places = ", ".join(f"{split / size:.3g}" for split in plan["splits"])
    assert f"split at {places} of the parameter axis" in " ".join(out.split())


def test_a_slot_of_map_elites_is_told_as_its_cell(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, strategy=STRATEGIES[0], budget=12))
    edges = [f"{20 * at}.0 % to {20 * at + 20}.0 %" for at in range(5)]
    with Pool(tmp_path / "pool") as pool:
        archive = pool.status()["archive"]
        for entry in archive:
            one, other = divmod(entry["slot"], 5)
            assert cell_of([one / 5, other / 5], 5) == entry["slot"]
            assert entry["cell"] == f"clouds (0) {edges[one]}, clouds (1, 2) {edges[other]}"
            assert describe(pool, entry["member"])["cell"] == entry["cell"]
    _, out, _ = run_cli(["show", str(tmp_path / "pool"), str(archive[0]["member"])])
    assert archive[0]["cell"] in " ".join(out.split())
    _, out, _ = run_cli(["status", str(tmp_path / "pool")])
    assert "cell " in out and archive[0]["cell"].split(",")[0] in out


@pytest.mark.parametrize(
    ("strategy", "seeds", "groups"),
    [
        (STRATEGIES[2], 2, ["hidden", "output"]),
        (STRATEGIES[3], 2, ["*.weight", "the rest"]),
        (STRATEGIES[3], 3, ["*.weight", "the rest"]),
    ],
    ids=["layers", "patterns", "three seeds"],
)
def test_each_group_is_told_with_its_ratios(
    tmp_path: Path, strategy: dict[str, Any], seeds: int, groups: list[str]
) -> None:
    names = [f"seed{number}.safetensors" for number in range(1, seeds + 1)]
    evolve(write_run(tmp_path, strategy=strategy, seeds=names, budget=1))
    with Pool(tmp_path / "pool") as pool:
        plan = describe(pool, seeds)["plan"]
    assert sorted(plan["groups"]) == sorted(groups)
    ratios = np.reshape(plan["ratios"], (2, seeds - 1)).tolist()
    texts = [
        f"{group} {' and '.join(f'{ratio:.3g}' for ratio in own)}"
        for group, own in zip(plan["groups"], ratios, strict=True)
    ]
    _, out, _ = run_cli(["show", str(tmp_path / "pool"), str(seeds)])
    assert f"ratios {texts[0]}, {texts[1]}" in " ".join(out.split()) and "groups" not in out


def test_groups_by_layer_and_by_pattern() -> None:
    names = (
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    )
    assert group_tensors(names, None).tolist() == [0, 1, 1, 2, 3, 4]
    assert group_tensors(names, ("*attn*", "*mlp*")).tolist() == [0, 1, 2, 2, 0, 0]
    with pytest.raises(ConfigError, match="nothing\\*"):
        group_tensors(names, ("nothing*",))
    with pytest.raises(ConfigError, match="no tensor is left that matches '\\*mlp\\*'"):
        group_tensors(names, ("*mlp*", "*mlp*"))


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"name": "map-elites"}, ("measures", "required")),
        ({"name": "map-elites", "measures": [{"task": "nowhere"}]}, ("no task 'nowhere'",)),
        (
            {"name": "map-elites", "measures": [{"task": "clouds", "labels": ["9"]}]},
            ("labelled 9", "0, 1, 2"),
        ),
        ({"name": "map-elites", "measures": [{"task": "clouds", "label": "1"}]}, ("label",)),
        ({"name": "map-elites", "measures": MEASURES * 2, "cells": 90}, ("100,000",)),
        ({"name": "m2n2", "splits": 2, "split_point": False}, ("splits", "there are none", "2")),
        ({"name": "m2n2", "splits": 0}, ("splits", "greater than or equal to 1")),
        ({"name": "cma-es", "population": 2}, ("population",)),
        ({"name": "cma-es", "groups": ["nothing*"]}, ("nothing*",)),
        ({"name": "m2n2", "crossover": False}, ("copy of its parent", "'mutation' above 0")),
        ({"name": "ga", "crossover": False, "warmup": 5}, ("copy of its parent",)),
        ({"name": "sweep", "grid": 1}, ("grid",)),
        ({"name": "cma"}, ("did you mean 'cma-es'",)),
    ],
)
def test_options_that_make_no_sense(
    tmp_path: Path, strategy: dict[str, Any], words: tuple[str, ...]
) -> None:
    file = write_run(tmp_path, strategy=strategy)
    with pytest.raises(ConfigError) as caught:
        evolve(file)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_in_flight_for_a_generation(tmp_path: Path) -> None:
    file = write_run(tmp_path, strategy={"name": "cma-es", "population": 5}, in_flight=6)
    with pytest.raises(ConfigError, match="one generation in flight"):
        load_run(file)
