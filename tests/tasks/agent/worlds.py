"""Small environments that tests play in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from genepool.errors import EnvironmentDown
from genepool.tasks.agent.environment import Step, Turn


class Corridor:
    """Walk to the door whose number is asked for: 1 for the right one, a tenth for a near one.

    Task "3" wants door 3. The corridor has five doors and one starts at door 0.
    """

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

        doors: int = 5
        actions: bool = True
        # The words of the instruction, which the digest must hold.
        greeting: str = "Find door"

    opened = 0

    def __init__(self, options: Corridor.Options, directory: Path) -> None:
        type(self).opened += 1
        self.options = options
        self.closed = False
        self.wanted = self.at = 0

    @property
    def instructions(self) -> str:
        return "Say 'right', 'left' or 'open'."

    def tasks(self, split: str) -> list[str]:
        doors = [str(door) for door in range(self.options.doors)]
        return doors[::-1] if split == "test" else doors if split == "train" else []

    def reset(self, id: str) -> Turn:
        self.wanted, self.at = int(id), 0
        return self._turn()

    def step(self, text: str) -> Step:
        if text == "open":
            gap = abs(self.at - self.wanted)
            return Step(self._turn(), 1.0 if gap == 0 else 0.1 if gap == 1 else 0.0, True)
        move = {"right": 1, "left": -1}.get(text, 0)
        self.at = min(max(self.at + move, 0), self.options.doors - 1)
        return Step(self._turn(), 0.0, False)

    def close(self) -> None:
        self.closed = True

    def _turn(self) -> Turn:
        text = f"{self.options.greeting} {self.wanted} . at {self.at}"
        return Turn(text, ("right", "left", "open") if self.options.actions else None)


class Fragile(Corridor):
    """A corridor whose session is lost at every seventh call."""

    calls = 0
    lost = 0

    def _fail(self) -> None:
        type(self).calls += 1
        if type(self).calls % 7 == 0:
            type(self).lost += 1
            self.closed = True
        if self.closed:
            raise EnvironmentDown("http://shop.example: the connection was reset")

    def reset(self, id: str) -> Turn:
        self._fail()
        return super().reset(id)

    def step(self, text: str) -> Step:
        self._fail()
        return super().step(text)


class Gone(Corridor):
    """A corridor that is closed once it has been looked at."""

    resets = 0

    def step(self, text: str) -> Step:
        raise EnvironmentDown("http://shop.example: connection refused")


class Buggy(Corridor):
    """An environment that raises what it should not."""

    def step(self, text: str) -> Step:
        raise KeyError("door")


class Restless(Corridor):
    """An environment that begins otherwise each time."""

    seen = 0

    def reset(self, id: str) -> Turn:
        type(self).seen += 1
        return Turn(f"{super().reset(id).text} , the price is {type(self).seen} dollars", ("open",))


class Drifting(Fragile):
    """An environment whose observations differ in the second session."""

    def step(self, text: str) -> Step:
        turn, reward, done = super().step(text)
        return Step(Turn(f"{turn.text} session {type(self).lost}", turn.actions), reward, done)


class Hasty(Corridor):
    """A session is lost once, and the next episode is over after one action."""

    happened: ClassVar[list[str]] = []

    def step(self, text: str) -> Step:
        if not self.happened and self.at == 2:
            self.happened.append("lost")
            raise EnvironmentDown("lost")
        step = super().step(text)
        if self.happened == ["lost"]:
            self.happened.append("over")
            return step._replace(done=True)
        return step


class OneForAll(Corridor):
    """All sessions walk in the same corridor."""

    place: ClassVar[dict[str, int]] = {}

    @property
    def wanted(self) -> int:
        return self.place["wanted"]

    @wanted.setter
    def wanted(self, door: int) -> None:
        self.place["wanted"] = door

    @property
    def at(self) -> int:
        return self.place["at"]

    @at.setter
    def at(self, door: int) -> None:
        self.place["at"] = door


class Tired(Corridor):
    """Rewards become smaller from episode to episode."""

    opened = 0

    def step(self, text: str) -> Step:
        type(self).opened += 1
        step = super().step(text)
        return step._replace(reward=step.reward / type(self).opened)


class Distant(Corridor):
    """An environment that lives elsewhere."""

    remote = True


class Generous(Corridor):
    """Rewards off the scale."""

    def step(self, text: str) -> Step:
        turn, reward, done = super().step(text)
        return Step(turn, 100 * reward, done)


class Shares(Corridor):
    """A sixth of the reward for each step, but for its last digits."""

    def step(self, text: str) -> Step:
        return super().step(text)._replace(reward=0.1666666666666)


class Dice(Corridor):
    """Rewards are drawn from the generators of the whole process, which each episode sets."""

    def reset(self, id: str) -> Turn:
        random.seed(int(id))
        np.random.seed(int(id))  # noqa: NPY002
        return super().reset(id)

    def step(self, text: str) -> Step:
        luck = random.random() + np.random.random() if text == "right" else 0.0  # noqa: NPY002
        return super().step(text)._replace(reward=luck)


class Twins(Corridor):
    """Tasks of the split "test" are those of "train" under other names."""

    def tasks(self, split: str) -> list[str]:
        return [f"{door:02}" if split == "test" else str(door) for door in range(5)]


class Odd(Corridor):
    """Gives what is no step."""

    given: Any = None

    def step(self, text: str) -> Step:
        return type(self).given
