"""The experiment with agents runs, at a tiny size and with a model made from nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments/agents"


@pytest.mark.slow
def test_the_experiment_runs(tmp_path: Path) -> None:
    for needed in ("textworld", "lm_eval", "uvicorn", "bm25s"):
        pytest.importorskip(needed)
    command = [
        *(sys.executable, str(FOLDER / "run.py"), "smoke"),
        *("--work", str(tmp_path / "work"), "--out", str(tmp_path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["miniature"]
    seeds = {"maths", "agent", "maths-twice", "agent-twice"}
    plain = {"base", *seeds, "task-arithmetic", "ties"}
    bred = {"slerp", "m2n2"}
    assert set(rows) == plain | bred
    assert rows["m2n2"]["random seeds"] == [0, 1] and rows["slerp"]["random seeds"] == [0]
    assert all(rows[label]["children"] == 3 for label in bred)
    asked = {"maths", "games", "shop", "larger", "count", "last", "after"}
    assert all(0 <= row[task]["mean"] <= 1 for row in rows.values() for task in asked)
    # The champion is scored in finals as in its run, where games are remembered and not played.
    pools = tmp_path / "work/miniature/pools"
    again = [rows["m2n2"]["selection of each run"], rows["m2n2"]["selection rescored"]]
    assert len(list(pools.iterdir())) == 3 and again[0] == pytest.approx(again[1], abs=1e-6)
    # So is the exported one, in a shop that another process serves.
    exported = json.loads((tmp_path / "work/miniature/exported.json").read_text())
    assert exported.pop("champion") in {"m2n2-0", "m2n2-1"} and set(exported) == asked
    assert not any(task["examples that differ"] for task in exported.values())
    assert (tmp_path / "champions.png").stat().st_size > 10_000
    assert "| M2N2 | 2 | 3 |" in (tmp_path / "table.md").read_text()


WALKS = """
import json, sys
from pathlib import Path
sys.path += [sys.argv[1], sys.argv[1] + "/../llm", sys.argv[1] + "/../../examples"]
import small
from games import (
    AgentGym, AgentGymOptions, RememberedGames, RememberedShop, TextWorld, TextWorldOptions,
    settings, shop, write_shopping, write_walks,
)
from prepare import conversations, tiny, write_others
from runs import KINDS
import data, specialists
from genepool.models.language import LanguageModel
from genepool.tasks.agent import decoding
from tuning import read
from genepool.tasks.agent.policies import ACTION

work = Path(sys.argv[2])
given = settings(3, 4, {"tune": 2})
write_walks(work / "walks.jsonl", given)
write_walks(work / "walks.jsonl", given)
walks = [json.loads(line) for line in (work / "walks.jsonl").read_text().splitlines()]
write_shopping(work / "shopping.jsonl", 1, 3)
bought = [json.loads(line) for line in (work / "shopping.jsonl").read_text().splitlines()]
with shop(1) as (_, where):
    world, known = (make(AgentGymOptions(**where), work) for make in (AgentGym, RememberedShop))
    same, paid = [], []
    for number, walk in [*enumerate(bought)] * 2:
        turns = [(world.reset(str(number)), known.reset(str(number)))]
        turns += [(world.step(action), known.step(action)) for action in walk["actions"]]
        same += [one == other for one, other in turns]
        same += [turns[0][0].text == walk["texts"][0]]
        paid.append(turns[-1][0].reward)
world, known = (make(TextWorldOptions(**given), work) for make in (TextWorld, RememberedGames))
won = []
for walk in walks * 2:
    turns = [(world.reset(walk["id"]), known.reset(walk["id"]))]
    turns += [(world.step(action), known.step(action)) for action in walk["actions"]]
    same += [one == other for one, other in turns]
    won.append(turns[-1][0].done and turns[-1][0].reward == 1)
tokenizer = small.untrained(["go", "see", "action", "north"])[1]
exact = []
for walk, row in zip((walks[0], bought[0]), conversations(tokenizer, [bought[0], walks[0]])):
    ids, learnt = read(tokenizer, row)
    messages = []
    for text, action in zip(walk["texts"], walk["actions"], strict=True):
        messages.append({"role": "user", "content": text})
        value = LanguageModel(None, tokenizer, work)
        asked = decoding.prompts(value, [messages], ACTION)[0]
        (ends,) = decoding.endings(value, ACTION, [action])
        exact += [ids[: len(asked + ends)] == asked + ends]
        exact += [set(range(len(asked), len(asked + ends))) <= set(learnt)]
        messages.append({"role": "assistant", "content": f"{ACTION} {action}"})
others = {name: [{"kind": "choice"}, {"kind": "search"}] for name in data.SETS}
write_others(work / "examples", others, tiny(KINDS["smollm2"]))
battery = data.read(work / "examples", "after", "test")
print(json.dumps([len(walks), all(same), won, paid, exact, battery]))
"""


@pytest.mark.slow
def test_parts_of_it_for_smollm2(tmp_path: Path) -> None:
    for needed in ("textworld", "uvicorn", "bm25s"):
        pytest.importorskip(needed)
    command = [sys.executable, "-c", WALKS, str(FOLDER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    count, same, won, paid, exact, battery = found
    # Walking again has added nothing.
    assert count == 2
    assert all(won) and min(paid) > 0.8 and same and len(exact) > 12 and all(exact)
    # Three solved questions come first.
    assert len(battery) == 8
    assert all(row["prompt"].count("\n") == 3 and row["prompt"].endswith(":") for row in battery)
