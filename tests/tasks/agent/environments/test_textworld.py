"""Games of TextWorld: made from random seeds, kept, played and won."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from genepool.errors import ConfigError, EpisodeError, MissingExtraError
from genepool.tasks.agent.environment import Step, open_environment
from genepool.tasks.agent.environments import textworld as adapter
from genepool.testing import check_environment

# To make the first game takes three seconds.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("textworld") is None, reason="TextWorld is not installed"
    ),
]

SMALL = {"rooms": 2, "objects": 4, "quest_length": 3, "games": {"train": 2, "test": 1}}
# The same game, made and begun in another process, whatever its hashes are; and a digest of it.
ELSEWHERE = """
import hashlib, json, sys
from pathlib import Path
from genepool.tasks.agent.environments.textworld import TextWorld
game = TextWorld(TextWorld.Options(**json.loads(sys.argv[1])), Path())
told = [game.reset("train-0"), game.walkthrough("train-0")]
print(hashlib.sha256(repr(told).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """One cache for all tests: a game takes a second to make."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("games")
        patch.setenv("GENEPOOL_CACHE", str(folder))
        yield folder / "textworld"


@pytest.fixture
def opener(cache: Path) -> Callable[..., Any]:
    return lambda **changes: open_environment("textworld", {**SMALL, **changes}, Path())


def test_it_keeps_the_contract(opener: Callable[..., Any]) -> None:
    check_environment(opener(), "train", tasks=2, steps=5)


def test_a_walkthrough_wins(opener: Callable[..., Any]) -> None:
    session = opener()()
    assert session.tasks("train") == ("train-0", "train-1") and session.tasks("test") == ("test-0",)
    assert "one command" in session.instructions
    begun = set[str]()
    for id in ("train-0", "train-1", "test-0"):
        turn = session.reset(id)
        begun.add(turn.text)
        objective, _, room = turn.text.partition("\n\n")
        assert "TextWorld" in objective and room.startswith("-= ")
        assert "  " not in turn.text and ">" not in turn.text and "$" not in turn.text
        commands = session.walkthrough(id)
        assert len(commands) == 3
        rewards: list[float] = []
        for command in commands:
            assert turn.actions == tuple(sorted(turn.actions)) and command in turn.actions
            step = session.step(command)
            turn, done = step.turn, step.done
            rewards.append(step.reward)
            assert done == (len(rewards) == 3)
        assert sum(rewards) == 1.0 and rewards[-1] > 0
        assert "The End" in turn.text and "RESTART" not in turn.text and turn.actions == ()
        assert session.step("look")[1:] == (0.0, True)
    assert len(begun) == 3
    session.close()
    session.close()


def test_commands_may_be_said_otherwise(opener: Callable[..., Any]) -> None:
    session = opener()()
    seen = session.reset("train-0")
    look = session.step("look")
    for command in ("LOOK", " l ", "Look.", "look\nquit", "look!"):
        assert session.step(command) == look
    assert look.turn.actions == seen.actions


@pytest.mark.parametrize(
    "command",
    ["quit", "q", "save", "restart", "restore", "script", "recording on", "undo", "tw-print x",
     "look. look", "look then look", "look, look", "look; look", "", ">", "\x00", "look\x00",
     "l" * 151, "xyzzy", "caf\xe9", "look \ud83d", "*", '"look"'],
)  # fmt: skip
def test_nothing_leaves_the_game(opener: Callable[..., Any], command: str, tmp_path: Path) -> None:
    session = opener()()
    turn = session.reset("train-0")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        nothing = Step(turn._replace(text="That is nothing that can be done here."), 0.0, False)
        assert session.step(command) == nothing
    finally:
        os.chdir(before)
    assert list(tmp_path.iterdir()) == []
    for played in session.walkthrough("train-0"):
        step = session.step(played)
    assert step.done


def test_what_is_outside_the_game_stays_there(
    opener: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where a thing of the game is named so.
    monkeypatch.setattr(adapter, "_VERBS", "look save script quit")
    session = opener()()
    session.reset("train-0")
    for command in ("save", "script", "quit"):
        assert session.step(command).turn.text == "That is nothing that can be done here."


def test_rewards_are_shares_of_the_highest_score(
    opener: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opener()()
    turn = session.reset("train-0")
    game = type(session._state.game)
    monkeypatch.setattr(game, "max_score", 4)
    rewards = [session.step(command).reward for command in session.walkthrough("train-0")]
    assert sum(rewards) == 0.25 and turn.actions


def test_games_are_made_once(opener: Callable[..., Any], cache: Path) -> None:
    session = opener()()
    first = session.reset("train-0")
    games = sorted(cache.iterdir())
    assert session.reset("train-0") == first and sorted(cache.iterdir()) == games
    for game in games:
        assert sorted(file.name for file in game.iterdir()) == ["game.json", "game.z8"]
    # What was broken since then is made anew. The interpreter would end the process over it.
    for name, damage in (("game.z8", 1000), ("game.z8", 0), ("game.json", 100)):
        for game in games:
            data = (game / name).read_bytes()
            (game / name).write_bytes(data[:damage])
        assert opener()().reset("train-0") == first


def test_the_oldest_games_give_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opener: Callable[..., Any]
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path))
    monkeypatch.setattr(adapter, "_KEPT", 2)
    session = opener(rooms=1, objects=1, quest_length=1, games={"a": 3})()
    for id in ("a-0", "a-1"):
        session.reset(id)
    kept = {game.name: game for game in (tmp_path / "textworld").iterdir()}
    oldest = min(kept.values(), key=lambda game: game.stat().st_mtime_ns)
    os.utime(oldest, (1, 1))
    session.reset("a-2")
    left = {game.name for game in (tmp_path / "textworld").iterdir()}
    assert len(left) == 2 and oldest.name not in left


def test_processes_make_the_same_game_at_the_same_time(
    opener: Callable[..., Any], tmp_path: Path
) -> None:
    made = [
        subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, json.dumps(SMALL)],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "GENEPOOL_CACHE": str(tmp_path),
                 "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE, text=True,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    told = {process.communicate()[0] for process in made}
    assert [process.returncode for process in made] == [0, 0]
    assert len(list((tmp_path / "textworld").iterdir())) == 1
    # It is the one that this process has in a cache of its own.
    session = opener()()
    here = [session.reset("train-0"), session.walkthrough("train-0")]
    assert told == {hashlib.sha256(repr(here).encode()).hexdigest() + "\n"}


def test_what_cannot_be_is_said(
    opener: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = opener()()
    with pytest.raises(EpisodeError, match="there is no split 'dev'; there are 'train', 'test'"):
        session.tasks("dev")
    for id in ("train-2", "train-00", "dev-0", "train", "train--1", "a\nb"):
        with pytest.raises(EpisodeError, match=r"there is no task '.*': expected one such as"):
            session.reset(id)
    with pytest.raises(EpisodeError, match="no episode has begun"):
        session.step("look")
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("GENEPOOL_CACHE", str(file))
    with pytest.raises(EpisodeError, match="set GENEPOOL_CACHE to one that can be written"):
        session.reset("train-0")
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path))
    monkeypatch.setenv("INFORM_HOME", str(tmp_path))
    with pytest.raises(EpisodeError, match="making task 'train-0' failed: FileNotFoundError"):
        session.reset("train-0")
    assert list((tmp_path / "textworld").iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [{"rooms": 0}, {"rooms": 2.5}, {"objects": 61}, {"quest_length": 0}, {"games": {"a": 0}},
     {"seed": -1}, {"walk": 1}],
)  # fmt: skip
def test_options_are_checked(opener: Callable[..., Any], changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(changes))}"):
        opener(**changes)


def test_it_needs_textworld(opener: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[textworld\]"):
        opener()()
