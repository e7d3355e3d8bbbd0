"""A small text environment with Gymnasium's interface, as a user would write it."""

from __future__ import annotations

from typing import Any

import numpy as np

GOALS = 3


class Count:
    """Count up to what the random seed says, by the word "up"."""

    closed = 0

    def __init__(self, key: str | None = None, told: bool = True, **answers: Any) -> None:
        self.key = key
        self.told = told
        self.answers = answers
        self.goal = self.at = 0

    def seen(self) -> Any:
        text = f"{self.at} of {self.goal}"
        return text if self.key is None else {self.key: text, "goal": self.goal}

    def info(self) -> dict[str, Any]:
        return {"admissible_commands": ["up", "down", "up"]} if self.told else {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if "reset" in self.answers:
            return self.answers["reset"]
        self.goal, self.at = 1 + (seed or 0) % GOALS, 0
        return self.seen(), self.info()

    def step(self, action: str) -> Any:
        if "step" in self.answers:
            return self.answers["step"]
        if action == "explode":
            raise ValueError("boom\nand more")
        self.at += {"up": 1, "down": -1}.get(action, 0)
        won = self.at == self.goal
        return self.seen(), np.float32(won), np.bool_(won), self.at < -2, self.info()

    def close(self) -> None:
        Count.closed += 1
        raise RuntimeError("cannot be closed")


class Slow(Count):
    """It begins in the same way, and goes on in another."""

    def step(self, action: str) -> Any:
        return super().step(action.removeprefix("very "))


def registered(**arguments: Any) -> Any:
    """The same as an environment of Gymnasium's."""
    import gymnasium
    from gymnasium import spaces

    class Registered(Count, gymnasium.Env):  # type: ignore[misc, type-arg]
        action_space = spaces.Text(1000)
        observation_space = spaces.Text(1000)

        def close(self) -> None:
            pass

    return Registered(**arguments)


def not_one() -> int:
    return 3
