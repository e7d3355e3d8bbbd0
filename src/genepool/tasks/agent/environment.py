"""The environment contract: what a session is, and how environments are found by name.

An environment is a class with a pydantic model `Options` (unknown keys forbidden, every field with
its type and help), called as `Environment(options, directory)`; each object is one session, in
which one episode is played at a time. Relative paths in the options are relative to `directory`,
the run file's folder. `genepool.testing` ships the contract as a test.

The same task id must always give the same first observation, and the same actions the same
observations and rewards: it is one example, which every member is asked. What breaks on the way (a
server that is away, an answer that makes no sense) is an `EnvironmentDown`, never a reward of zero:
the episode is played again up to where it was, on a new session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from genepool.tasks.named_classes import NamedClasses

__all__ = [
    "Digested",
    "Environment",
    "Exclusive",
    "Remote",
    "Step",
    "Turn",
    "environment",
    "environment_names",
    "find_environment",
    "open_environment",
]


class Turn(NamedTuple):
    """What an agent sees.

    Attributes:
        text: the observation.
        actions: all actions that are admissible now, each as text that `step` takes; None where
            the environment does not say.
    """

    text: str
    actions: tuple[str, ...] | None = None


class Step(NamedTuple):
    """What an action has led to.

    Attributes:
        turn: what is seen then.
        reward: for this step, finite.
        done: whether the episode is over.
    """

    turn: Turn
    reward: float
    done: bool


class Environment(Protocol):
    """One session with an environment."""

    @property
    def instructions(self) -> str:
        """What an agent is told before each episode: what it may do, and in which form."""
        ...

    def tasks(self, split: str) -> Sequence[str]:
        """Ids of the tasks of a split ("train", "test", ...), all different, in their fixed order.

        Raises:
            EpisodeError: there is no such split.
            EnvironmentDown: the environment cannot be asked.
        """
        ...

    def reset(self, id: str) -> Turn:
        """Begin an episode of a task; what was going on is left.

        Raises:
            EpisodeError: there is no such task.
            EnvironmentDown: the environment cannot be asked, or its answer makes no sense.
        """
        ...

    def step(self, text: str) -> Step:
        """Act. What is no admissible action is a step like any other, as the environment sees it.

        Raises:
            EnvironmentDown: the environment cannot be asked, or its answer makes no sense.
        """
        ...

    def close(self) -> None:
        """Give up the session; whatever fails then is nobody's concern."""
        ...


@runtime_checkable
class Digested(Protocol):
    """An environment that says by which of its settings it is another one; optional. Of others all
    that a run file gives count, an address too."""

    @property
    def digest(self) -> str:
        """Settings that actions depend on and the beginnings of tasks may not show; "" if none."""
        ...


@runtime_checkable
class Remote(Protocol):
    """An environment that lives elsewhere; optional."""

    @property
    def remote(self) -> bool:
        """Whether several sessions may be asked at the same time, each from a thread of its own."""
        ...


@runtime_checkable
class Exclusive(Protocol):
    """An environment that lives elsewhere and may keep one episode for all who ask; optional."""

    @property
    def exclusive(self) -> bool:
        """Whether a second session would spoil the episode of the first, in other processes too."""
        ...


_known = NamedClasses("environment", "genepool.environments")

environment = _known.register
"""Register a class as an environment."""

find_environment = _known.find
"""The environment class of a name."""

environment_names = _known.names
"""The names that `find_environment` knows, sorted."""


def open_environment(
    name: str, options: Mapping[str, Any], directory: Path
) -> Callable[[], Environment]:
    """What opens sessions with an environment; the options are checked now.

    Raises:
        ConfigError: there is no such environment, or the options do not fit it.
    """
    found = find_environment(name, directory)
    checked = _known.options(name, found, options)
    return lambda: found(checked, directory)
