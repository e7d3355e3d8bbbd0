"""The environment `textworld`: text adventures that TextWorld makes from random seeds."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import shutil
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from genepool.checkpoints.files.atomic import new_directory
from genepool.checkpoints.files.cache import shared_cache
from genepool.errors import EpisodeError, require_packages
from genepool.messages import failures_as, one_line, some
from genepool.settings import Section
from genepool.tasks.agent.environment import Step, Turn, environment
from genepool.tasks.agent.environments.tasks_and_texts import FORM

# So many games are kept, at 0.4 MB each; those that were used longest ago give way.
_KEPT = 2_000
# The interpreter reads lines of 198 bytes, and breaks at some characters.
_LONGEST = 150
_WORDS = re.compile(r"[a-z0-9][a-z0-9' -]*")
# Beside the verbs that a game says it has.
_VERBS = """look l inventory i examine x go north n south s east e west w take get pick drop put
insert open close lock unlock eat wait z search the"""
# What the interpreter would do outside of the game: write files, or begin it anew.
_OUTSIDE = """quit q restart restore save script noscript unscript transcript recording replay
verify version undo oops again g"""
_REFUSED = "That is nothing that can be done here."
_STATUS = re.compile(r"\s*>?\s{9,}-= [^\n]* =-\d+/\d+\s*$")

_PLAYING = (
    """You are playing a text adventure. What you are to do is told at the beginning. Each of your
actions is one command of a few words, such as: look, inventory, go north, examine THING, take
THING, take THING from THING, drop THING, put THING on THING, insert THING into THING, open THING,
close THING, unlock THING with THING, lock THING with THING, eat THING.
"""
    + FORM
)


class TextWorldOptions(Section):
    """Options of the environment `textworld`."""

    rooms: Annotated[int, Field(ge=1, le=30)] = Field(
        default=3, description="A game has so many rooms."
    )
    objects: Annotated[int, Field(ge=1, le=60)] = Field(
        default=6,
        description="A game has about so many objects; more, where its quest needs more.",
    )
    quest_length: Annotated[int, Field(ge=1, le=20)] = Field(
        default=4, description="The shortest way to win a game has so many commands."
    )
    games: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(
        default={"train": 100, "test": 50},
        description="Names of splits, each with the number of its games; every game has a random "
        "seed of its own. A game is made when it is first played, which takes a second, and is "
        "kept in genepool's cache.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="The games are made from this random seed."
    )


@environment("textworld")
class TextWorld:
    """A game of TextWorld at a time, in this process.

    The reward of a command is the score that it has gained, as a share of the game's highest one:
    the rewards of a game that is won have the sum 1. A game is over when it is won or lost. A
    command that would leave the game (quit, save, ...), or do several things in one, does nothing.
    """

    Options = TextWorldOptions
    remote = False
    digest = ""

    def __init__(self, options: TextWorldOptions, directory: Path) -> None:
        """Play nothing yet; `directory` is not needed.

        Raises:
            MissingExtraError: TextWorld is not installed.
        """
        require_packages("textworld", "the environment 'textworld'", "textworld")
        self._options = options
        self._id = ""
        self._playing: Any = None
        self._state: Any = None
        self._known: set[str] = set()

    @property
    def instructions(self) -> str:
        """See `Environment`."""
        return _PLAYING

    def tasks(self, split: str) -> Sequence[str]:
        """See `Environment`."""
        if split not in self._options.games:
            raise EpisodeError(
                f"there is no split '{one_line(split)}'; there are {some(self._options.games)}: "
                "name others with the environment's setting 'games'"
            )
        return tuple(f"{split}-{number}" for number in range(self._options.games[split]))

    def reset(self, id: str) -> Turn:
        """See `Environment`."""
        if self._playing is not None and id == self._id:
            with _quietly("starting a game"):
                self._state = self._playing.reset()
        else:
            self._open(id)
        game = self._state.game
        names = " ".join(map(str, game.entity_names)).lower().split()
        verbs = {*_VERBS.split(), *map(str.lower, game.verbs), *names}
        self._known = verbs.difference(_OUTSIDE.split())
        text, objective = self._state.feedback, str(game.objective)
        start = text.find(objective)
        return self._turn(text[start:] if start >= 0 else f"{objective}\n\n{text}")

    def step(self, text: str) -> Step:
        """See `Environment`."""
        if self._state is None:
            raise EpisodeError("the environment 'textworld': no episode has begun")
        command = " ".join((text.strip().splitlines() or [""])[0].strip(" .!").split())
        before = self._state
        if before.done or not self._sound(command.lower()):
            return Step(self._turn(_REFUSED), 0.0, bool(before.done))
        with _quietly(f"the command '{command}'"):
            self._state, _, _ = self._playing.step(command)
        state = self._state
        state.done = bool(state.won or state.lost)
        gained = float(state.score - before.score) / state.max_score
        return Step(self._turn(state.feedback), gained, state.done)

    def walkthrough(self, id: str) -> tuple[str, ...]:
        """Commands that win a game, the shortest way that its maker knows.

        Raises:
            EpisodeError: there is no such task, or its game cannot be made.
        """
        folder = self._game(id)
        with _quietly(f"task '{one_line(id)}'"):
            textworld: Any = importlib.import_module("textworld")
            return tuple(map(str, textworld.Game.load(str(folder / "game.json")).walkthrough))

    def close(self) -> None:
        """See `Environment`."""
        playing, self._playing, self._state = self._playing, None, None
        if playing is not None:
            playing.close()

    def _open(self, id: str) -> None:
        """Begin a game that is not the last one."""
        folder = self._game(id)
        try:
            self._start(folder)
        except EpisodeError:
            # What is in the cache may be broken: it is made anew, once.
            shutil.rmtree(folder, ignore_errors=True)
            self._start(self._game(id))
        self._id = id

    def _start(self, folder: Path) -> None:
        with _quietly("starting a game"):
            textworld: Any = importlib.import_module("textworld")
            wanted = textworld.EnvInfos(
                admissible_commands=True, won=True, lost=True, score=True, max_score=True,
                objective=True, game=True,
            )  # fmt: skip
            self.close()
            self._playing = textworld.start(str(folder / "game.z8"), wanted)
            # Without it, the interpreter's random numbers come from the clock.
            self._playing.seed(1)
            self._state = self._playing.reset()

    def _turn(self, text: str) -> Turn:
        text = _STATUS.sub("", text).partition("Would you like to RESTART")[0]
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^[ \t]+|[ \t]+$", "", text)).strip()
        done = bool(self._state.done)
        return Turn(text, () if done else tuple(map(str, self._state.admissible_commands)))

    def _sound(self, command: str) -> bool:
        """Whether it is one command, of a verb of the game, or names a thing that was asked for."""
        words = command.split()
        return (
            len(command) <= _LONGEST
            and _WORDS.fullmatch(command) is not None
            and words[0] in self._known
            and "then" not in words
        )

    def _game(self, id: str) -> Path:
        """The folder of a game, which is made if need be."""
        split, _, number = id.rpartition("-")
        if split not in self._options.games or id not in self.tasks(split):
            raise EpisodeError(f"there is no task '{one_line(id)}': expected one such as 'train-0'")
        options = self._options
        words = f"{options.seed} {split} {number}".encode("utf-8", "surrogatepass")
        seed = int.from_bytes(hashlib.sha256(words).digest()[:4], "big") >> 1
        with _quietly("importing it"):
            version = importlib.import_module("textworld").__version__
        made = f"1 {version} {options.rooms} {options.objects} {options.quest_length} {seed}"
        kept = shared_cache()
        if kept is None:
            raise EpisodeError(
                "the environment 'textworld': there is no folder to keep games in; set "
                "GENEPOOL_CACHE to one that can be written"
            )
        folder = kept / "textworld" / hashlib.sha256(made.encode()).hexdigest()[:32]
        if not _is_whole(folder / "game.z8"):
            shutil.rmtree(folder, ignore_errors=True)
            with _quietly(f"making task '{one_line(id)}'"):
                _make(folder, options, seed)
            _forget(folder)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder


def _make(folder: Path, options: TextWorldOptions, seed: int) -> None:
    """Make a game. Its folder appears whole; one that another process has made by then stays."""
    textworld: Any = importlib.import_module("textworld")
    wanted = textworld.GameOptions()
    wanted.nb_rooms, wanted.nb_objects = options.rooms, options.objects
    wanted.quest_length = options.quest_length
    wanted.seeds = seed
    with new_directory(folder) as making:
        wanted.path = str(making / "game.z8")
        textworld.make(wanted)
        (making / "game.ni").unlink()
        for file in making.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            making.rename(folder)
        except OSError:
            if not _is_whole(folder / "game.z8"):
                raise


def _is_whole(story: Path) -> bool:
    """Whether a file of the Z-machine is all there, by the length and checksum in its head.

    The interpreter ends the whole process over one that is not.
    """
    try:
        data = story.read_bytes()
    except OSError:
        return False
    size, checksum = 8 * int.from_bytes(data[26:28], "big"), int.from_bytes(data[28:30], "big")
    return data[:1] == b"\x08" and 64 < size <= len(data) and sum(data[64:size]) % 65536 == checksum


def _forget(newest: Path) -> None:
    """Remove the games that were used longest ago, where there are too many."""
    games = [game for game in newest.parent.iterdir() if not game.name.startswith(".")]
    if len(games) > _KEPT:
        with contextlib.suppress(OSError):
            for game in sorted(games, key=lambda one: one.stat().st_mtime)[: len(games) - _KEPT]:
                if game != newest:
                    shutil.rmtree(game, ignore_errors=True)


@contextlib.contextmanager
def _quietly(what: str) -> Generator[None, None, None]:
    """TextWorld's code: it warns of things that do not matter, and what it raises is told."""
    told = f"the environment 'textworld': {what} failed"
    with warnings.catch_warnings(), failures_as(EpisodeError, told):
        warnings.simplefilter("ignore")
        yield
