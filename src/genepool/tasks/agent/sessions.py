"""Sessions that outlive their server: what breaks is opened anew and played up to where it was."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import numpy as np

from genepool.errors import EnvironmentDown, EpisodeError, GenepoolError
from genepool.messages import cause, one_line, pass_on, shown
from genepool.tasks.agent.environment import Environment, Remote, Step, Turn

_Found = TypeVar("_Found")

# Seconds until a broken environment is tried again, at first and at most.
_FIRST, _LONGEST = 0.25, 30.0
# Seconds that a broken environment is waited for before that is told, and between two such lines.
_SILENT, _AGAIN = 1.0, 60.0
# Times that an environment is tried again that raised what it should not.
_ERRORS = 2

# What can be done where a task does not repeat itself.
_ADVICE = (
    ": fix the environment's random seed, or leave the task out; where sessions of one process "
    "share what they should not, 'batch: 1' plays one at a time"
)

_LOG = logging.getLogger("genepool.agent")
_told = -math.inf  # when it was told last that an environment is waited for, by any session

# Characters of an observation that are kept: what follows is cut off, and no model sees it.
LONGEST_TEXT = 100_000
# Admissible actions of one turn.
_MOST_ACTIONS = 10_000


class _RandomNumbers:
    """The random numbers of one session.

    Environments in this process may draw from the generators that all code of a process shares. If
    sessions shared them too, an episode would depend on the others that are played beside it.
    """

    def __init__(self) -> None:
        """They are others for each session, so that it shows where an environment sets none."""
        self._states: Any = random.Random().getstate(), np.random.RandomState().get_state()

    @contextlib.contextmanager
    def put_in(self) -> Generator[None, None, None]:
        """Let what is inside draw them. Of the process's own one is drawn then, or none if none was
        drawn inside: who looks whether a task draws random numbers must see it."""
        outside = _states()
        _set_states(self._states)
        try:
            yield
        finally:
            before, self._states = self._states, _states()
            _set_states(outside)
            if self._states[0] != before[0]:
                random.random()
            if not all(map(np.array_equal, self._states[1], before[1])):
                np.random.random()  # noqa: NPY002


def _states() -> Any:
    return random.getstate(), np.random.get_state()  # noqa: NPY002


def _set_states(states: Any) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


class Differences:
    """What a task does where an episode goes on otherwise than before.

    Attributes:
        allowed: whether it is told, once, and then passed over; otherwise it is an error.
    """

    def __init__(self) -> None:
        self.allowed = False
        self._told = False

    def __call__(self, text: str) -> None:
        """Tell it.

        Raises:
            EpisodeError: it is not allowed.
        """
        if not self.allowed:
            raise EpisodeError(f"{text}{_ADVICE}; 'changed_scores: tell' goes on all the same")
        if not self._told:
            self._told = True
            _LOG.warning("%s. This is told once", text)


class Session:
    """One episode after another, whatever happens to the environment in between."""

    def __init__(
        self,
        opener: Callable[[], Environment],
        patience: float,
        stop: threading.Event,
        differs: Differences,
    ) -> None:
        """Open nothing yet.

        Args:
            opener: gives a new session.
            patience: seconds for which a broken environment is tried again.
            stop: set when nobody waits for the answer any longer.
            differs: what is done where an episode goes on otherwise than before.
        """
        self._opener = opener
        self._patience = patience
        self._stop = stop
        self._differs = differs
        self._environment: Environment | None = None
        self._numbers = _RandomNumbers()
        self._id = ""
        self._first: Turn | None = None
        self._played: list[tuple[str, Step]] = []

    def ask(self, question: Callable[[Environment], _Found]) -> _Found:
        """Ask about the environment itself, outside of any episode.

        Raises:
            EpisodeError: it has no answer, or did not answer for as long as there is patience.
        """
        self._first = None
        return self._patiently(lambda: self._call(self._opened(), question))

    def begin(self, id: str, expected: Turn | None = None) -> Turn:
        """Begin an episode.

        Args:
            id: of a task.
            expected: what it began with before; None where that is not known.

        Raises:
            EpisodeError: it begins otherwise this time, or the environment is broken.
        """
        self._id, self._first, self._played = id, expected, []

        def reset() -> Turn:
            return self._begun(self._opened())

        self._first = self._patiently(reset)
        return self._first

    def act(self, text: str) -> Step:
        """Act in the episode that goes on.

        Raises:
            EpisodeError: the environment is broken, or does not repeat itself.
        """
        step = self._patiently(
            lambda: _sound(self._call(self._caught_up(), lambda e: e.step(text)))
        )
        self._played.append((text, step))
        return step

    def repeat(self) -> None:
        """Play the episode again, as far as it went.

        Raises:
            EpisodeError: the environment is broken, or does not repeat itself.
        """
        self._patiently(self._repeated)

    def close(self) -> None:
        """Give up the session, if one is open."""
        environment, self._environment = self._environment, None
        if environment is not None:
            with contextlib.suppress(Exception):
                environment.close()

    def _opened(self) -> Environment:
        if self._environment is None:
            self._environment = self._opener()
        return self._environment

    def _caught_up(self) -> Environment:
        """The open session; or a new one, in which all that was played is played again."""
        if self._environment is None and not self._repeated():
            raise EnvironmentDown("an episode that is played again ends before it is where it was")
        return self._opened()

    def _repeated(self) -> bool:
        """Play the episode again; whether it came as far as it went."""
        environment = self._opened()
        self._begun(environment)
        for number, (text, before) in enumerate(self._played):
            now = _sound(self._call(environment, lambda e, text=text: e.step(text)))
            if now != before:
                where = f"goes on, after action {number + 1} ({one_line(text)}),"
                self._differs(self._otherwise(where, before, now))
            if now.done and not before.done:
                return False
        return True

    def _begun(self, environment: Environment) -> Turn:
        """What the episode begins with; the task's digest holds it, so that it may not differ."""
        turn = _sound_turn(self._call(environment, lambda e: e.reset(self._id)))
        if self._first is not None and self._first != turn:
            raise EpisodeError(self._otherwise("begins", self._first, turn) + _ADVICE)
        return turn

    def _call(self, environment: Environment, ask: Callable[[Environment], _Found]) -> _Found:
        if isinstance(environment, Remote) and environment.remote:
            return ask(environment)
        with self._numbers.put_in():
            return ask(environment)

    def _otherwise(self, where: str, before: Turn | Step, now: Turn | Step) -> str:
        what = f"task '{one_line(self._id)}' {where} otherwise than before"
        return (
            f"{what}: {_difference(before, now)}. The same task must always go the same way, or "
            "members are asked different things"
        )

    def _patiently(self, attempt: Callable[[], _Found]) -> _Found:
        begin, pause, errors = time.monotonic(), _FIRST, 0
        while True:
            try:
                return attempt()
            except EnvironmentDown as error:
                failure: Exception = error
            except GenepoolError:
                raise
            except BaseException as error:
                # Somebody else's code: whatever it raises, no model is to blame.
                pass_on(error)
                failure, errors = EnvironmentDown(f"it failed: {cause(error)}"), errors + 1
            self.close()
            waited = time.monotonic() - begin
            left = self._patience - waited
            if left <= 0 or errors > _ERRORS or self._stop.wait(min(pause, left)):
                playing = f" in task '{one_line(self._id)}'" if self._first is not None else ""
                raise EpisodeError(
                    f"the environment is broken{playing}: {failure}. Nothing is lost: mend it and "
                    "run the same command again"
                ) from failure
            if waited > _SILENT:
                _tell(failure, left)
            pause = min(2 * pause, _LONGEST)


def _tell(failure: Exception, left: float) -> None:
    """Log that the environment is waited for; many sessions say it once."""
    global _told
    now = time.monotonic()
    if now - _told > _AGAIN:
        _told = now
        _LOG.warning("%s. It is tried again for %.0f s more", one_line(failure), left)


def _sound_turn(turn: Turn) -> Turn:
    """A turn as it is used; environments are mistrusted."""
    text, actions = turn
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"expected an observation as text; got {shown(text)}")
    if actions is not None:
        if isinstance(actions, str) or len(actions) > _MOST_ACTIONS:
            raise EpisodeError(f"expected at most {_MOST_ACTIONS} actions; got {shown(actions)}")
        actions = tuple(actions)
        wrong = next((one for one in actions if not isinstance(one, str)), None)  # pyright: ignore
        if wrong is not None:
            raise TypeError(f"expected actions as text; got {shown(wrong)}")
    return Turn(_whole(text[:LONGEST_TEXT]), actions and tuple(map(_whole, actions)))


def _whole(text: str) -> str:
    """A text without halves of characters, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _sound(step: Step) -> Step:
    turn, reward, done = step
    if isinstance(reward, bool) or not isinstance(reward, numbers.Real):
        raise TypeError(f"expected a reward as a number; got {shown(reward)}")
    if not math.isfinite(reward):
        raise EpisodeError(f"expected a finite reward; got {reward}")
    if done not in (True, False):
        raise TypeError(f"expected whether the episode is done, True or False; got {shown(done)}")
    return Step(_sound_turn(turn), float(reward), bool(done))


def _difference(before: Turn | Step, now: Turn | Step) -> str:
    if isinstance(before, Step) and isinstance(now, Step):
        if before.turn != now.turn:
            return _difference(before.turn, now.turn)
        return f"reward {before.reward} and done {before.done}, now {now.reward} and {now.done}"
    if isinstance(before, Turn) and isinstance(now, Turn):
        if before.text == now.text:
            return f"the actions were {shown(before.actions)}, now {shown(now.actions)}"
        pairs = enumerate(zip(before.text, now.text, strict=False))
        shorter = min(len(before.text), len(now.text))
        place = next((at for at, (a, b) in pairs if a != b), shorter)
        start = max(0, place - 20)
        return (
            f"'...{one_line(before.text[start : place + 40])}' was "
            f"'...{one_line(now.text[start : place + 40])}' this time"
        )
    return f"{shown(before)} and {shown(now)}"
