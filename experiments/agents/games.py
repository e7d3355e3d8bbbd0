"""TextWorld's games and the shop: walks to fine-tune on, and environments that remember."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.agentgym import AgentGym, AgentGymOptions
from genepool.tasks.agent.environments.textworld import TextWorld, TextWorldOptions

# run.py has made examples/ known.
from webshop import Shop, made, serve
from webshop.reward import reward

# What leads nowhere is never chosen.
LEFT_OUT = ["look", "inventory", "examine *"]
NOT_CLICKED = [f"click[{name}]" for name in ("description", "features", "reviews")]
SEED = 17
# Products on a page of the shop's results.
PAGE = 3


def settings(rooms: int, length: int, games: dict[str, int]) -> dict[str, Any]:
    """Of the environment `textworld`: quests of `length` commands over `rooms` rooms."""
    return {
        "rooms": rooms, "objects": 4, "quest_length": length, "seed": SEED, "games": games,
    }  # fmt: skip


class Remembered:
    """What is put before an environment so that it is played only where nobody has been before.

    An episode goes the same way whenever the same is done, and members do much the same: all
    sessions of this process share what has been seen.
    """

    _seen: ClassVar[dict[tuple[str, ...], Turn | Step]] = {}

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        self._way: tuple[str, ...] = (type(self).__name__, id)
        self._there = False
        if self._way not in self._seen:
            self._seen[self._way], self._there = super().reset(id), True
        return self._seen[self._way]

    def step(self, text: str) -> Step:
        """See `Environment`."""
        before, self._way = self._way, (*self._way, text)
        if self._way in self._seen:
            self._there = False
        else:
            if not self._there:
                super().reset(self._way[1])
                for action in before[2:]:
                    super().step(action)
            self._seen[self._way], self._there = super().step(text), True
        return self._seen[self._way]


@environment("remembered-textworld")
class RememberedGames(Remembered, TextWorld):
    """The environment `textworld`, remembered."""


@environment("remembered-shop")
class RememberedShop(Remembered, AgentGym):
    """The environment `agentgym` with the shop, remembered."""


@contextlib.contextmanager
def shop(seed: int = 0) -> Iterator[tuple[Shop, dict[str, Any]]]:
    """A shop that listens on loopback, and the settings of the environment `agentgym` for it."""
    own = Shop(*made(seed=seed), page=PAGE)
    with serve(own) as url:
        yield own, {"url": url, "actions": True}


def write_shopping(file: Path, shops: int, goals: int) -> None:
    """Shop for the first goals of shops that nobody is scored in, one line each.

    A walk is {"id", "texts", "actions", "offered"}: before each action, what could be done.
    """
    if file.exists():
        return
    lines: list[str] = []
    for seed in range(1, shops + 1):
        with shop(seed) as (own, given):
            world = AgentGym(AgentGymOptions(**given), Path())
            for goal in range(goals):
                walk = {"id": f"shop {seed} {goal}", **shopped(own, world, goal)}
                lines.append(json.dumps(walk))
    part = file.with_name(file.name + ".part")
    part.write_text("".join(line + "\n" for line in lines))
    part.rename(file)


def shopped(own: Shop, world: AgentGym, goal: int) -> dict[str, Any]:
    """The best purchase that can be made from the first page of results, with its options."""
    walk: dict[str, list[Any]] = {"texts": [], "actions": [], "offered": []}
    turn, state = world.reset(str(goal)), own.start(goal)

    def act(action: str) -> None:
        nonlocal turn, state
        walk["texts"].append(turn.text)
        walk["offered"].append(list(turn.actions or ()))
        walk["actions"].append(action)
        turn, state = world.step(action).turn, own.step(state, action).state

    assert turn.actions is not None
    act(turn.actions[0])
    chosen = {
        product.code: {
            name: value
            for name, value in state.goal.options.items()
            if value in product.options.get(name, ())
        }
        for product in own.shown(state)
    }
    best = max(chosen, key=lambda code: reward(own.products[code], chosen[code], state.goal))
    act(f"click[{best.lower()}]")
    for value in chosen[best].values():
        act(f"click[{value}]")
    act("click[buy now]")
    return walk


def write_walks(file: Path, given: dict[str, Any]) -> None:
    """Walk the maker's way through all games of the split `tune`, one line each.

    A walk is {"id", "texts", "actions"}: each text is what is seen before that action.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    known = file.read_text().splitlines() if file.exists() else []
    done = {json.loads(line)["id"] for line in known}
    world = TextWorld(TextWorldOptions(**given), Path())
    with file.open("a") as out:
        for id in world.tasks("tune"):
            if id not in done:
                out.write(json.dumps(walked(world, id)) + "\n")
                out.flush()
    world.close()


def make_games(given: dict[str, Any]) -> None:
    """Make all games but those of the split `tune`: a run finds them made."""
    world = TextWorld(TextWorldOptions(**given), Path())
    for split in given["games"]:
        for id in world.tasks(split) if split != "tune" else ():
            world.walkthrough(id)
    world.close()


def walked(world: TextWorld, id: str) -> dict[str, Any]:
    """The maker's way through a game."""
    texts, way = [world.reset(id).text], world.walkthrough(id)
    texts += [world.step(action).turn.text for action in way]
    return {"id": id, "texts": texts[:-1], "actions": list(way)}
