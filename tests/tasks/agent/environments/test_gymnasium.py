"""Text environments with Gymnasium's interface, of the user's and of Gymnasium's own making."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.errors import ConfigError, EpisodeError, MissingExtraError
from genepool.tasks.agent.environment import Step, Turn, open_environment
from genepool.tasks.agent.environments import gymnasium as adapter
from genepool.testing import check_environment
from tests.counting import Count, registered
from tests.tasks.agent.test_agent import agent

NAME = "tests.counting:Count"


def opener(**options: Any) -> Any:
    return open_environment("gymnasium", {"make": NAME, **options}, Path())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arguments": {"told": False}},
        {"arguments": {"key": "text"}, "observation": "text"},
        {"splits": {"train": [5, 1]}},
    ],
)
def test_it_keeps_the_contract(options: dict[str, Any]) -> None:
    check_environment(opener(**options), "train", actions=("up", "down", "left"))


def test_an_environment_that_gymnasium_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    gymnasium.register("GenepoolCount-v0", entry_point=registered, max_episode_steps=4)
    make = opener(make="GenepoolCount-v0", arguments={"told": False})
    check_environment(make, "test", actions=("up", "down", "left"))
    session = make()
    session.reset("2")
    steps = [session.step("left") for _ in range(4)]
    assert [step.done for step in steps] == [False, False, False, True]
    with pytest.raises(EpisodeError, match="making 'Unknown-v3' failed: NameNotFound"):
        opener(make="Unknown-v3")().reset("0")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingExtraError, match=r"\[agents\]"):
        opener(make="GenepoolCount-v0")()


def test_an_episode() -> None:
    session = opener()()
    assert session.tasks("train") == tuple(map(str, range(100)))
    assert session.tasks("test") == tuple(map(str, range(100, 200)))
    with pytest.raises(EpisodeError, match="no episode has begun"):
        session.step("up")
    assert session.reset("1") == Turn("0 of 2", ("up", "down"))
    assert session.step("up") == Step(Turn("1 of 2", ("up", "down")), 0.0, False)
    assert session.step("up") == Step(Turn("2 of 2", ("up", "down")), 1.0, True)
    closed = Count.closed
    session.close()
    assert Count.closed == closed + 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"reset": "text"}, r"reset\(\): expected \(observation, info\); got 'text'"),
        ({"reset": ("a", {}, 1)}, r"reset\(\): expected \(observation, info\)"),
        ({"reset": (np.zeros(3), {})}, "expected an observation as text .*; got array"),
        ({"reset": ("a", {"admissible_commands": "up"})}, "expected a list of texts as 'admis"),
        ({"reset": ("a", {"admissible_commands": [1]})}, "expected a list of texts as 'admis"),
        ({"step": ("a", 0.0, False, {})}, r"step\(\): expected \(observation, reward, termin"),
        ({"step": ("a", float("nan"), False, False, {})}, "expected a finite reward; got nan"),
        ({"step": ("a", np.inf, False, False, {})}, "expected a finite reward; got inf"),
        ({"step": ("a", "1", False, False, {})}, "expected a finite reward; got '1'"),
        ({"step": ("a", None, False, False, {})}, "expected a finite reward; got None"),
        ({"step": ("a", 1.0, "False", False, {})}, "over as True or False; got 'False'"),
        ({"step": ("a", 1.0, False, None, {})}, "over as True or False; got None"),
        ({"step": ("a", 1.0, np.zeros(2), False, {})}, "over as True or False; got array"),
        ({"step": (7, 0.0, False, False, {})}, "expected an observation as text .*; got 7"),
    ],
)
def test_what_makes_no_sense_is_said(answers: dict[str, Any], words: str) -> None:
    session = opener(arguments=answers)()
    with pytest.raises(EpisodeError, match=words) as caught:
        session.reset("0")
        session.step("up")
    assert "\n" not in str(caught.value) and NAME in str(caught.value)


def test_environments_that_begin_alike_have_digests_of_their_own() -> None:
    asked = [
        {"make": NAME},
        {"make": "tests.counting:Slow"},
        {"make": NAME, "arguments": {"told": True}},
        {"make": NAME, "arguments": {"told": True, "step": 1}},
    ]
    digests = [
        agent(environment="gymnasium", settings=one, limit=2).digest for one in [*asked, asked[0]]
    ]
    assert len(set(digests[:4])) == 4 and digests[4] == digests[0]


def test_each_session_has_arguments_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that takes away from a list took it away from the next session too."""

    class Bag:
        def __init__(self, things: list[str]) -> None:
            self.things = things

        def reset(self, seed: int) -> tuple[str, dict[str, Any]]:
            return " ".join(self.things), {}

        def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return self.things.pop(), 0.0, False, False, {}

    monkeypatch.setattr("tests.counting.Bag", Bag, raising=False)
    make = opener(make="tests.counting:Bag", arguments={"things": ["lamp", "rope"]})
    for _ in range(2):
        session = make()
        assert session.reset("0").text == "lamp rope"
        assert session.step("take").turn.text == "rope"


def test_what_raises_is_said_with_its_line() -> None:
    session = opener()()
    session.reset("0")
    with pytest.raises(EpisodeError, match=r"step\(\) failed: ValueError: boom \(in .*, line \d"):
        session.step("explode")
    with pytest.raises(EpisodeError, match=r"'int' object has no attribute|reset"):
        opener(make="tests.counting:not_one")().reset("0")
    with pytest.raises(EpisodeError, match=re.escape("expected an observation with the key 'x'")):
        opener(observation="x")().reset("0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"make": "no_such_module:make"}, "there is no module 'no_such_module'"),
        ({"make": "tests.counting:nothing"}, "has no 'nothing'"),
        ({"make": "tests.counting:GOALS"}, "expected a function"),
        ({"splits": {"a": "b"}}, "expected tasks as 'FIRST-LAST'"),
        ({"seed": 3}, "option 'seed'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opener(**options)()


def test_the_adapter_needs_no_package() -> None:
    assert adapter.Gymnasium.Options.model_fields["make"].is_required()
