"""TextWorld's games: walks to fine-tune on, and an environment that remembers what it has seen."""

from __future__ import annotations

import json
import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.textworld import TextWorld, TextWorldOptions

# What leads nowhere is never chosen, by agents and by careless walkers alike.
LEFT_OUT = ["look", "inventory", "examine *"]
COUNTS = {"tune": 240, "train": 24, "test": 120}
ROUNDS = 6
SEED = 17


def settings(rooms: int, length: int, counts: dict[str, int] | None = None) -> dict[str, Any]:
    """Of the environment `textworld`: quests of `length` commands over `rooms` rooms."""
    games = dict(COUNTS if counts is None else counts)
    return {
        "rooms": rooms, "objects": 4, "quest_length": length, "seed": SEED, "games": games,
    }  # fmt: skip


@environment("remembered-textworld")
class Remembered(TextWorld):
    """The environment `textworld`, played only where nobody has been before.

    A game goes the same way whenever the same is done, and members do much the same: all sessions
    of this process share what has been seen.
    """

    Options = TextWorldOptions
    _seen: ClassVar[dict[tuple[str, ...], Turn | Step]] = {}

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        self._way: tuple[str, ...] = (repr(self._options), id)
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


def write_walks(file: Path, given: dict[str, Any], careless: int = 3) -> None:
    """Play all games of the split `tune`, and make all others; one line for each walk.

    A walk is {"id", "careful", "texts", "actions"}: one text more than actions, but where the game
    was won. The careless walk so that half of their actions are drawn from the admissible ones.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    known = file.read_text().splitlines() if file.exists() else []
    done = {json.loads(line)["id"] for line in known}
    world = TextWorld(TextWorldOptions(**given), Path())
    with file.open("a") as out:
        for id in world.tasks("tune"):
            if id in done:
                continue
            way = world.walkthrough(id)
            walks = [walked(world, id, way, None)]
            draws = (random.Random(f"{id} {number}") for number in range(careless))
            walks += [walked(world, id, way, draw) for draw in draws]
            out.write("".join(json.dumps(walk) + "\n" for walk in walks))
            out.flush()
    for split in given["games"]:
        for id in world.tasks(split) if split != "tune" else ():
            world.walkthrough(id)
    world.close()


def walked(world: Any, id: str, way: tuple[str, ...], draw: random.Random | None) -> dict[str, Any]:
    """One walk: the maker's way, or one on which each action is drawn with the chance of a half."""
    turn = world.reset(id)
    texts, taken = [turn.text], []
    left = list(way)
    while len(taken) < (len(way) if draw is None else ROUNDS):
        open_to = [a for a in turn.actions if a not in taken and not left_out(a)]
        action = left[0] if left and left[0] in turn.actions else None
        if draw is not None and (action is None or draw.random() < 0.5):
            action = draw.choice(open_to) if open_to else None
        if action is None:
            break
        left = left[1:] if left and action == left[0] else left
        step = world.step(action)
        taken.append(action)
        if step.done:
            break
        turn = step.turn
        texts.append(turn.text)
    return {"id": id, "careful": draw is None, "texts": texts, "actions": taken}


def left_out(action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in LEFT_OUT)
