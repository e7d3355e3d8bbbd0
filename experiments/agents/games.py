"""TextWorld's games: walks to fine-tune on, and an environment that remembers what it has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.textworld import TextWorld, TextWorldOptions

# What leads nowhere is never chosen.
LEFT_OUT = ["look", "inventory", "examine *"]
SEED = 17


def settings(rooms: int, length: int, games: dict[str, int]) -> dict[str, Any]:
    """Of the environment `textworld`: quests of `length` commands over `rooms` rooms."""
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


def write_walks(file: Path, given: dict[str, Any]) -> None:
    """Walk the maker's way through all games of the split `tune`, one line each; make all others.

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
    for split in given["games"]:
        for id in world.tasks(split) if split != "tune" else ():
            world.walkthrough(id)
    world.close()


def walked(world: TextWorld, id: str) -> dict[str, Any]:
    """The maker's way through a game."""
    texts, way = [world.reset(id).text], world.walkthrough(id)
    texts += [world.step(action).turn.text for action in way]
    return {"id": id, "texts": texts[:-1], "actions": list(way)}
