"""The contract test of environments.

def test_contract(tmp_path):
    opener = open_environment("mine", {"level": 3}, tmp_path)
    check_environment(opener, "train")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from genepool.errors import EnvironmentDown, EpisodeError
from genepool.messages import pass_on, shown
from genepool.tasks.agent.environment import Environment, Step, Turn
from genepool.testing.require import require

__all__ = ["check_environment"]

# What models write when they are lost.
ODD = (
    "",
    " ",
    "\n\n",
    "no such action",
    "one line\nand a second\r\nand a third",
    "x" * 100_000,
    "a halved character: \ud83d",
    "nothing\x00behind",
    "\x1b[31mred \u202ebackwards \U0001f600",
    'Thought: a brace {, a quote " and a backslash \\',
)


def check_environment(
    opener: Callable[[], Environment],
    split: str,
    *,
    actions: Sequence[str] = ("look", "go north", "wait"),
    tasks: int = 3,
    steps: int = 6,
    seed: int = 0,
) -> None:
    """Check that an environment keeps the contract of `genepool.tasks.agent.environment`.

    Ids are text, all different, and the same in every session. A task begins in the same way at
    every reset, also in the middle of an episode. The same actions lead to the same observations,
    rewards and ends in two sessions, also while these take turns. What is no admissible action is a
    step, whatever text it is: only EnvironmentDown may be raised. Rewards are finite. A split or
    task that does not exist is an EpisodeError. `close` may be called twice, and before anything
    else.

    Args:
        opener: opens a session; called a few times.
        split: with at least one task.
        actions: that are tried where the environment does not say which are admissible; some
            should change what is seen.
        tasks: of the split that are played, evenly spread.
        steps: of an episode, at most.
        seed: of the actions that are drawn.

    Raises:
        AssertionError: what is wrong.
    """
    unused = opener()
    unused.close()
    unused.close()
    one, other = opener(), opener()
    try:
        require(
            isinstance(cast("object", one.instructions), str)
            and one.instructions == other.instructions,
            "instructions must be text, the same in every session",
        )
        ids = _check_ids(one, other, split)
        spread = np.linspace(0, len(ids) - 1, min(tasks, len(ids)))
        chosen = [ids[int(at)] for at in spread.tolist()]
        played = [
            _check_task(one, other, id, actions, steps, np.random.default_rng((seed, number)))
            for number, id in enumerate(chosen)
        ]
        _check_interleaved(one, other, chosen, played)
        for text in ODD:
            _check_odd(one, chosen[0], text)
        require(
            _begun(one, chosen[0]) == _begun(other, chosen[0]),
            "after odd actions, a task begins otherwise than before",
        )
    finally:
        for session in (one, other):
            session.close()
            session.close()


def _check_ids(one: Environment, other: Environment, split: str) -> tuple[str, ...]:
    ids = tuple(one.tasks(split))
    require(len(ids) > 0, f"split '{split}' has no tasks")
    wrong = next((id for id in ids if type(cast("object", id)) is not str or not id), None)
    require(wrong is None, f"ids must be text that is not empty; got {wrong!r}")
    require(len(set(ids)) == len(ids), "ids of a split must differ")
    again = tuple(other.tasks(split)), tuple(one.tasks(split))
    require(again == (ids, ids), "tasks() must give the same ids, in the same order, every time")
    no_such: tuple[tuple[str, Callable[[], object]], ...] = (
        ("split", lambda: one.tasks("no-such-split")),
        ("task", lambda: one.reset("no such task")),
    )
    for what, ask in no_such:
        error: BaseException | None = None
        try:
            ask()
        except BaseException as raised:
            pass_on(raised)
            error = raised
        require(
            isinstance(error, EpisodeError) and not isinstance(error, EnvironmentDown),
            f"a {what} that does not exist must be an EpisodeError; got {error!r}",
        )
    return ids


def _check_task(
    one: Environment,
    other: Environment,
    id: str,
    actions: Sequence[str],
    steps: int,
    draws: np.random.Generator,
) -> list[tuple[str, Step]]:
    """Play a task in one session, and the same in the other; begin it anew in between."""
    first = _begun(one, id)
    _require_same(f"task '{id}' begins", first, _begun(one, id), "at a second reset")
    _require_same(f"task '{id}' begins", first, _begun(other, id), "in another session")
    played = list(_played(one, first, actions, steps, draws))
    for number, (text, before) in enumerate(played):
        what = f"task '{id}' goes on, after action {number + 1} ({text!r}),"
        _require_same(what, before, _step(other, text), "in another session")
    for kept in (played[:1], played):
        again = _begun(one, id)
        _require_same(f"task '{id}' begins", first, again, "at a reset in the middle of an episode")
        for number, (text, before) in enumerate(kept):
            what = f"task '{id}' goes on, after action {number + 1} ({text!r}),"
            _require_same(what, before, _step(one, text), "when it is played again")
    return played


def _played(
    session: Environment, turn: Turn, actions: Sequence[str], steps: int, draws: np.random.Generator
) -> Iterator[tuple[str, Step]]:
    for _ in range(steps):
        known = actions if turn.actions is None else turn.actions
        if not known:
            return
        text = known[int(draws.integers(len(known)))]
        step = _step(session, text)
        yield text, step
        if step.done:
            return
        turn = step.turn


def _check_interleaved(
    one: Environment, other: Environment, ids: Sequence[str], played: Sequence[list[Any]]
) -> None:
    """Two episodes, step by step in turn: different tasks, or the same if there is but one."""
    pairs = [(one, ids[0], played[0]), (other, ids[-1], played[-1])]
    for session, id, _ in pairs:
        _begun(session, id)
    for number in range(max(len(path) for _, _, path in pairs)):
        for session, id, path in pairs:
            if number < len(path):
                text, before = path[number]
                what = f"task '{id}' goes on, after action {number + 1} ({text!r}),"
                _require_same(what, before, _step(session, text), "beside another session")


def _check_odd(session: Environment, id: str, text: str) -> None:
    """An action that is none; afterwards the session must be of use."""
    _begun(session, id)
    try:
        _sound(session.step(text))
    except EnvironmentDown as error:
        require("\n" not in str(error), f"an error must be one line of text; got {str(error)!r}")
    except AssertionError:
        raise
    except BaseException as error:
        pass_on(error)
        raise AssertionError(
            f"the action {shown(text)} is a step like any other; step() raised {error!r}"
        ) from error


def _begun(session: Environment, id: str) -> Turn:
    return _sound_turn(session.reset(id), f"reset({id!r})")


def _step(session: Environment, text: str) -> Step:
    return _sound(session.step(text))


def _sound(step: Any) -> Step:
    require(isinstance(step, Step), f"step() must return a Step; got {shown(step)}")
    _sound_turn(step.turn, "step()")
    reward, done = step.reward, step.done
    require(
        isinstance(reward, (int, float)) and not isinstance(reward, bool) and math.isfinite(reward),
        f"rewards must be finite numbers; got {shown(reward)}",
    )
    require(type(done) is bool, f"done must be a bool; got {shown(done)}")
    return step


def _sound_turn(turn: Any, what: str) -> Turn:
    require(isinstance(turn, Turn), f"{what} must give a Turn; got {shown(turn)}")
    require(type(turn.text) is str, f"{what}: the observation must be text; got {shown(turn.text)}")
    actions: Any = turn.actions
    require(
        actions is None
        or (type(actions) is tuple and all(type(one) is str for one in cast("Any", actions))),
        f"{what}: actions must be None or a tuple of texts; got {shown(actions)}",
    )
    require(
        actions is None or len(set(actions)) == len(actions), f"{what}: an action is listed twice"
    )
    return turn


def _require_same(what: str, before: Turn | Step, now: Turn | Step, where: str) -> None:
    require(before == now, f"{what} otherwise {where}: {shown(before)} and {shown(now)}")
