"""The contract test of environments finds every promise broken."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from genepool.errors import EnvironmentDown, EpisodeError
from genepool.tasks.agent.environment import Step, Turn
from genepool.testing import check_environment


class Good:
    """Two rooms and a lamp. Keeps the contract; the rest each break one promise of it."""

    instructions = "Light the lamp."

    def __init__(self) -> None:
        self.id = ""
        self.room = 0
        self.lit = False
        self.closed = False

    def tasks(self, split: str) -> Sequence[str]:
        if split != "train":
            raise EpisodeError("there is no such split")
        return ("a", "b", "c")

    def reset(self, id: str) -> Turn:
        if id not in ("a", "b", "c"):
            raise EpisodeError("there is no such task")
        self.id, self.room, self.lit = id, 0, False
        return self.turn()

    def step(self, text: str) -> Step:
        if text == "go":
            self.room = 1 - self.room
        elif text == "light" and self.room == 1:
            self.lit = True
        return Step(self.turn(), float(self.lit), self.lit)

    def turn(self) -> Turn:
        actions = ("go", "light", "look") if self.room else ("go", "look")
        return Turn(f"task {self.id}, room {self.room}, {'light' if self.lit else 'dark'}", actions)

    def close(self) -> None:
        self.closed = True


class Silent(Good):
    instructions = None  # type: ignore[assignment]


class Moody(Good):
    made = itertools.count()

    @property
    def instructions(self) -> str:  # type: ignore[override]
        return f"Light the lamp, please, {next(Moody.made)}."


class Empty(Good):
    def tasks(self, split: str) -> Sequence[str]:
        return () if split == "train" else super().tasks(split)


class Numbered(Good):
    def tasks(self, split: str) -> Sequence[Any]:
        super().tasks(split)
        return (1, 2)


class Nameless(Good):
    def tasks(self, split: str) -> Sequence[str]:
        return ("", *super().tasks(split))


class Repeating(Good):
    def tasks(self, split: str) -> Sequence[str]:
        return (*super().tasks(split), "a")


class Shuffled(Good):
    def tasks(self, split: str) -> Sequence[str]:
        self.asked = 1 + getattr(self, "asked", 0)
        return super().tasks(split)[:: 1 if self.asked == 1 else -1]


class Generous(Good):
    """Has every split that it is asked for."""

    def tasks(self, split: str) -> Sequence[str]:
        return super().tasks("train")


class Willing(Good):
    """Has every task that it is asked for."""

    def reset(self, id: str) -> Turn:
        return super().reset(id if id in ("a", "b", "c") else "a")


class Hopeful(Good):
    """Believes that a task may come to be."""

    def reset(self, id: str) -> Turn:
        if id not in ("a", "b", "c"):
            raise EnvironmentDown("there is no such task yet")
        return super().reset(id)


class Counting(Good):
    """Says how often it was reset."""

    resets = 0

    def reset(self, id: str) -> Turn:
        turn = super().reset(id)
        self.resets += 1
        return turn._replace(text=f"{turn.text}, {self.resets}")


class Unlike(Good):
    """Every session has a name of its own."""

    names = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.name = next(Unlike.names)

    def turn(self) -> Turn:
        turn = super().turn()
        return turn._replace(text=f"session {self.name}, {turn.text}")


class Lasting(Good):
    """Keeps the room over a reset."""

    def reset(self, id: str) -> Turn:
        room = self.room
        super().reset(id)
        self.room = room
        return self.turn()


class Dim(Good):
    """The first light of a session is worth more."""

    worth = 1.0

    def step(self, text: str) -> Step:
        step = super().step("light" if text == "look" else text)
        if text == "look":
            step = step._replace(reward=self.worth)
            self.worth /= 2
        return step


class Shared(Good):
    """All sessions are in the same room."""

    held = Good()

    def __init__(self) -> None:
        super().__init__()

    def reset(self, id: str) -> Turn:
        return self.held.reset(id)

    def step(self, text: str) -> Step:
        return self.held.step(text)


class Jealous(Good):
    """Notices that another session has acted in between."""

    last: Good | None = None
    steps = 0

    def reset(self, id: str) -> Turn:
        self.steps = 0
        return super().reset(id)

    def step(self, text: str) -> Step:
        jealous = self.steps > 0 and Jealous.last is not self
        self.steps, Jealous.last = self.steps + 1, self
        return super().step(text)._replace(reward=-1.0) if jealous else super().step(text)


class Strict(Good):
    def step(self, text: str) -> Step:
        if text not in ("go", "light", "look"):
            raise EpisodeError("no such action")
        return super().step(text)


class Fragile(Good):
    def step(self, text: str) -> Step:
        text.encode()
        return super().step(text)


class Broken(Good):
    """Is of no use after an odd action."""

    def step(self, text: str) -> Step:
        if "\x00" in text:
            self.turn = lambda: Turn("nothing")  # type: ignore[method-assign]
        return super().step(text)


class Endless(Good):
    def step(self, text: str) -> Step:
        return super().step(text)._replace(reward=float("inf"))


class Truthful(Good):
    def step(self, text: str) -> Step:
        step = super().step(text)
        return step._replace(reward=step.done)


class Loose(Good):
    def step(self, text: str) -> Step:
        return super().step(text)._replace(done=0)  # type: ignore[arg-type]


class Bare(Good):
    def step(self, text: str) -> Any:
        return tuple(super().step(text))


class Binary(Good):
    def turn(self) -> Any:
        return Turn(super().turn().text.encode(), None)  # type: ignore[arg-type]


class Listing(Good):
    def turn(self) -> Any:
        turn = super().turn()
        return turn._replace(actions=list(turn.actions or ()))


class Doubling(Good):
    def turn(self) -> Any:
        turn = super().turn()
        return turn._replace(actions=(turn.actions or ()) * 2)


class Once(Good):
    def close(self) -> None:
        if self.closed:
            raise AssertionError("closed twice")
        self.closed = True


class Wordy(Good):
    def step(self, text: str) -> Step:
        if not text:
            raise EnvironmentDown("the server says\nthat it is away")
        return super().step(text)


def test_a_good_environment_passes() -> None:
    made: list[Good] = []

    def opener() -> Good:
        made.append(Good())
        return made[-1]

    check_environment(opener, "train", steps=20)
    assert len(made) == 3 and all(session.closed for session in made)


def test_one_that_does_not_say_what_is_admissible_passes() -> None:
    class Mute(Good):
        def turn(self) -> Turn:
            return Turn(super().turn().text)

    check_environment(Mute, "train", actions=("go", "light"))


def test_one_that_is_away_passes() -> None:
    class Away(Good):
        def step(self, text: str) -> Step:
            if len(text) > 1000:
                raise EnvironmentDown("the server is away")
            return super().step(text)

    check_environment(Away, "train")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Silent, "instructions must be text"),
        (Moody, "instructions must be text, the same"),
        (Empty, "has no tasks"),
        (Numbered, "ids must be text"),
        (Nameless, "ids must be text that is not empty"),
        (Repeating, "ids of a split must differ"),
        (Shuffled, "the same ids, in the same order"),
        (Generous, "a split that does not exist must be an EpisodeError; got None"),
        (Willing, "a task that does not exist must be an EpisodeError; got None"),
        (Hopeful, "a task that does not exist must be an EpisodeError; got EnvironmentDown"),
        (Counting, "begins otherwise at a second reset"),
        (Unlike, "begins otherwise in another session"),
        (Lasting, "begins otherwise at a reset in the middle"),
        (Dim, "goes on, after action .* otherwise when it is played again"),
        (Shared, "goes on, after action .* otherwise in another session"),
        (Jealous, "goes on, after action .* otherwise beside another session"),
        (Strict, "is a step like any other; step.. raised EpisodeError"),
        (Fragile, "is a step like any other; step.. raised UnicodeEncodeError"),
        (Broken, "after odd actions, a task begins otherwise"),
        (Endless, "rewards must be finite numbers; got inf"),
        (Truthful, "rewards must be finite numbers; got False"),
        (Loose, "done must be a bool; got 0"),
        (Bare, r"step\(\) must return a Step; got \("),
        (Binary, "the observation must be text"),
        (Listing, "actions must be None or a tuple of texts"),
        (Doubling, "an action is listed twice"),
        (Once, "closed twice"),
        (Wordy, "an error must be one line of text"),
    ],
)
def test_every_broken_promise_is_found(broken: type[Good], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_environment(broken, "train", steps=20)
