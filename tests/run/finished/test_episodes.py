"""Episodes of a run with agents: kept in the pool, shown by the command and in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.errors import EpisodeError, InputError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.finished.episodes import episode
from genepool.run.finished.verify import export
from tests.cli import run_cli
from tests.tasks.agent import worlds


def write_run(folder: Path, world: str = "Corridor", **settings: Any) -> dict[str, Any]:
    """Two seeds that each find two of the four doors that they are selected by."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, steps in (("near", [0, 1, 0, 0, 0]), ("far", [0, 0, 2, 3, 4])):
        known = np.array(steps, dtype=np.float32)
        save_file({"steps": known}, folder / f"{name}.safetensors")
    return {
        "pool": str(folder / "pool"),
        "seeds": [str(folder / f"{name}.safetensors") for name in ("near", "far")],
        "tasks": [
            {
                "name": "doors",
                "evaluator": "agent",
                "environment": f"tests.tasks.agent.worlds:{world}",
                "policy": "tests.tasks.agent.test_agent:walk",
                "batch": 2,
                "patience": 0.1,
            }
        ],
        "budget": 12,
        "strategy": {"name": "m2n2", "archive": 4},
        "seed": 1,
        **settings,
    }


def test_a_run_with_agents_keeps_transcripts_of_seeds_and_champion(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    with Pool(result.pool) as pool:
        champion = pool.champion()
        kept = pool.transcripts()
        assert {one.member for one in kept} == {0, 1, champion}
        assert {one.example for one in kept} == {"0", "1", "2", "3"}
        told = json.loads(next(o for o in kept if (o.member, o.example) == (1, "3")).transcript)
        assert told["actions"] == ["right"] * 3 + ["open"] and told["score"] == 1
        # One that was not kept is played now.
        now = episode(pool, "far", "4")
        assert now["actions"] == ["right"] * 4 + ["open"] and now["part"] == "train"
        with pytest.raises(InputError, match=r"no task has an episode '9'; there are .*'0'"):
            episode(pool, "far", "9")
    measures = {each["name"]: each["value"] for each in result.status["seeds"][1]["measures"]}
    assert measures["solved"] == pytest.approx(0.8)


def test_of_an_episode_of_several_tasks_the_task_is_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=0)
    run["tasks"] += [{**run["tasks"][0], "name": "more"}, {**run["tasks"][0], "name": "doors/4"}]
    with Pool(evolve(run).pool) as pool:
        kept = {one.example for one in pool.transcripts()}
        assert "3" in kept and "4" not in kept
        for each in "34":
            text = f"^'{each}' is an episode of several tasks; name one of "
            with pytest.raises(InputError, match=text) as caught:
                episode(pool, "far", each)
            assert f"'more/{each}'" in str(caught.value)
            for name in ("doors", "more", "doors/4"):
                told = episode(pool, "far", f"{name}/{each}")
                assert (told["task"], told["id"]) == (name, each)
        with pytest.raises(InputError, match="no task has an episode 'doors/9'"):
            episode(pool, "far", "doors/9")


def test_the_command_and_the_report_show_episodes(tmp_path: Path) -> None:
    result = evolve(write_run(tmp_path))
    pool = str(result.pool)
    code, out, _ = run_cli(["show", pool, "far", "--episode", "3"])
    assert code == 0
    assert "task doors, episode 3" in out and "Find door 3 . at 0" in out
    assert "4 actions; ended: done; score 1" in out
    found = json.loads(run_cli(["show", pool, "best", "--episode", "3", "--json"])[1])
    assert found["episode"]["id"] == "3" and found["episode"]["messages"]
    code, out, err = run_cli(["show", pool, "best", "--episode", "nine"])
    assert code == 1 and "no task has an episode 'nine'" in err and out == ""
    page = tmp_path / "report.html"
    assert run_cli(["report", pool, "-o", str(page)])[0] == 0
    text = page.read_text()
    assert "What they do" in text and "Find door 3 . at 0" in text


def test_what_an_environment_says_is_no_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worlds.Corridor,
        "instructions",
        property(lambda _self: "<script>alert(1)</script>\n\x1b[31m"),
    )
    result = evolve(write_run(tmp_path))
    page = tmp_path / "report.html"
    assert run_cli(["report", str(result.pool), "-o", str(page)])[0] == 0
    assert "<script>" not in page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n\\x1b[31m" in page.read_text()
    assert "\x1b" not in run_cli(["show", str(result.pool), "best", "--episode", "3"])[1]


def test_a_pool_without_agents_has_no_episodes(tmp_path: Path) -> None:
    from tests.sketches import write_run as sketches

    result = evolve(sketches(tmp_path))
    code, _, err = run_cli(["show", str(result.pool), "best", "--episode", "1"])
    assert code == 1 and "in none of its tasks do models act" in err


@pytest.mark.slow
def test_a_broken_environment_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evolve(write_run(tmp_path / "whole"))
    calls = [0]
    step = worlds.Corridor.step

    def failing(self: worlds.Corridor, text: str) -> Any:
        calls[0] += 1
        if calls[0] > 70:
            return worlds.Gone.step(self, text)  # pyright: ignore[reportArgumentType]
        return step(self, text)

    with monkeypatch.context() as broken:
        broken.setattr(worlds.Corridor, "step", failing)
        with pytest.raises(EpisodeError, match="connection refused"):
            evolve(write_run(tmp_path / "part"))
    with Pool(tmp_path / "part/pool") as pool:
        done = pool.evaluations
        assert 0 < done < 12
    resumed = evolve(write_run(tmp_path / "part"))
    for key in ("archive", "champion", "evaluations"):
        assert resumed.status[key] == whole.status[key]


@pytest.mark.slow
def test_worker_processes_play_the_same(tmp_path: Path) -> None:
    kept: list[Any] = []
    for name, settings in (("a", {}), ("b", {"executor": "process", "workers": 2})):
        result = evolve(write_run(tmp_path / name, **settings))
        with Pool(result.pool) as pool:
            kept.append((result.status["archive"], pool.measures(), pool.transcripts()))
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.parametrize("given, hurried", [(None, 10.0), (300.0, 10.0), (2.0, 2.0)])
def test_who_exports_does_not_wait_long_for_an_environment_that_is_gone(
    given: float | None, hurried: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, budget=2)
    run["tasks"][0].pop("patience")
    if given is not None:
        run["tasks"][0]["patience"] = given
    waited: list[float] = []

    def refused(_: object, patience: float, *rest: object) -> None:
        waited.append(patience)
        raise EpisodeError("nobody is there")

    with Pool(evolve(run).pool) as pool:
        monkeypatch.setattr("genepool.tasks.agent.evaluator.Session", refused)
        exported = export(pool, "best", tmp_path / "best")
        assert "nobody is there" in exported.unverified and waited == [hurried]
        with pytest.raises(InputError, match="nobody is there"):
            export(pool, "best", tmp_path / "other", verify=True)
    assert waited[1:] == [given or 300.0]
