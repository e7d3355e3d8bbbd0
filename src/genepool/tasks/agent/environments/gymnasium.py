"""The environment `gymnasium`: text environments with the interface of Gymnasium."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from pydantic import AfterValidator, Field

from genepool.errors import EpisodeError, require_packages
from genepool.messages import blamed, failures_as, one_line, pass_on, shown
from genepool.models.user_code import load_function
from genepool.settings import Section
from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.tasks_and_texts import (
    ACTING,
    Splits,
    action_text,
    checked_splits,
    number,
    task_number,
    tasks_of,
    texts,
)

_VERSION = re.compile(r"-v\d+$")


class GymnasiumOptions(Section):
    """Options of the environment `gymnasium`."""

    make: str = Field(
        description="The 'module:function' is called without arguments, or with `arguments`, and "
        "returns an environment; its module is looked for in the run file's folder first. An id "
        "that Gymnasium knows, such as 'Name-v0' or 'module:Name-v0', is made by Gymnasium."
    )
    arguments: dict[str, Any] = Field(
        default={}, description="The environment is made with these named arguments."
    )
    splits: Annotated[Splits, AfterValidator(checked_splits)] = Field(
        default={"train": "0-99", "test": "100-199"},
        description="Names of splits, each with its tasks: 'FIRST-LAST' or a list of numbers. The "
        "number of a task is the random seed that the environment is reset with.",
    )
    observation: str | None = Field(
        default=None,
        description="An observation that is a mapping has its text under this key.",
    )
    admissible: str = Field(
        default="admissible_commands",
        description="The environment's `info` lists the admissible actions under this key, if it "
        "knows them.",
    )


@environment("gymnasium")
class Gymnasium:
    """A text environment that follows Gymnasium: `reset(seed=)` and `step(text)` with five results.

    The environment is made at the first reset and used for every later one. It is over when it is
    terminated or truncated. What it raises ends the run: it is code in this process, which would
    raise again.
    """

    Options = GymnasiumOptions
    remote = False

    def __init__(self, options: GymnasiumOptions, directory: Path) -> None:
        """Make nothing yet.

        Raises:
            ConfigError: there is no such function.
            MissingExtraError: an id needs Gymnasium, which is not installed.
        """
        self._options = options
        self._make: Callable[..., Any]
        if ":" in options.make and not _VERSION.search(options.make):
            self._make = load_function(options.make, directory)
        else:
            require_packages("agents", f"the environment '{options.make}'", "gymnasium")
            self._make = partial(_make_registered, options.make)
        self._made: Any = None

    @property
    def digest(self) -> str:
        """See `Digested`; the function's name, not its code."""
        made = [self._options.make, self._options.arguments]
        return json.dumps(made, sort_keys=True, default=str)

    @property
    def instructions(self) -> str:
        """See `Environment`."""
        return ACTING

    def tasks(self, split: str) -> Sequence[str]:
        """See `Environment`."""
        return tasks_of(self._options.splits, split)

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        seed = task_number(id)
        if self._made is None:
            own = copy.deepcopy(self._options.arguments)  # The environment may change them.
            self._made = self._call("", lambda: self._make(**own))
        answer = self._call("reset", lambda: self._made.reset(seed=seed))
        seen, info = self._unpacked("reset", answer, 2, "(observation, info)")
        return self._turn("reset", seen, info)

    def step(self, text: str) -> Step:
        """See `Environment`."""
        if self._made is None:
            raise EpisodeError(f"{self._what('step')}: no episode has begun")
        answer = self._call("step", lambda: self._made.step(action_text(text)))
        expected = "(observation, reward, terminated, truncated, info)"
        seen, given, terminated, truncated, info = self._unpacked("step", answer, 5, expected)
        reward = number(given.item() if type(given).__module__ == "numpy" else given)
        if reward is None:
            raise self._unlike("step", "a finite reward", given)
        for over in (terminated, truncated):
            if not isinstance(over, (bool, np.bool_, int)):
                raise self._unlike("step", "whether it is over as True or False", over)
        return Step(self._turn("step", seen, info), reward, bool(terminated or truncated))

    def close(self) -> None:
        """See `Environment`."""
        made, self._made = self._made, None
        if made is not None:
            try:
                made.close()
            except BaseException as error:
                pass_on(error)

    def _call(self, method: str, ask: Callable[[], Any]) -> Any:
        with failures_as(EpisodeError, f"{self._what(method)} failed", told=blamed):
            return ask()

    def _turn(self, method: str, seen: Any, info: Any) -> Turn:
        key = self._options.observation
        if key is not None:
            if not isinstance(seen, Mapping) or key not in seen:
                raise self._unlike(method, f"an observation with the key '{one_line(key)}'", seen)
            seen = cast("Mapping[str, Any]", seen)[key]
        if not isinstance(seen, str):
            advice = "an observation as text (a mapping's key can be named with 'observation')"
            raise self._unlike(method, advice, seen)
        actions = None
        if isinstance(info, Mapping) and self._options.admissible in info:
            listed = cast("Mapping[str, Any]", info)[self._options.admissible]
            actions = texts(listed)
            if actions is None:
                key = self._options.admissible
                raise self._unlike(method, f"a list of texts as '{one_line(key)}'", listed)
        return Turn(str(seen), actions)

    def _unpacked(self, method: str, answer: Any, size: int, expected: str) -> tuple[Any, ...]:
        if not isinstance(answer, tuple) or len(cast("tuple[Any, ...]", answer)) != size:
            raise self._unlike(method, expected, answer)
        return cast("tuple[Any, ...]", answer)

    def _what(self, method: str) -> str:
        name = one_line(self._options.make)
        return f"the environment '{name}': {method}()" if method else f"making '{name}'"

    def _unlike(self, method: str, expected: str, got: Any) -> EpisodeError:
        return EpisodeError(f"{self._what(method)}: expected {expected}; got {shown(got)}")


def _make_registered(id: str, **arguments: Any) -> Any:
    # Late: only ids that Gymnasium knows need it.
    import gymnasium

    made: Any = gymnasium.make(id, disable_env_checker=True, **arguments)
    return made
