"""The evaluator `agent`: scores for episodes against an environment."""

from __future__ import annotations

import json
import math
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.documents import Unreadable, read_text
from genepool.errors import ConfigError, EpisodeError
from genepool.messages import agreeing, at, cause, count, one_line, shown, some
from genepool.tasks.agent.environment import (
    Digested,
    Environment,
    Exclusive,
    Remote,
    Turn,
    open_environment,
)
from genepool.tasks.agent.episode import CONTEXT, ROUNDS, STUCK, Episode, play
from genepool.tasks.agent.options import AgentOptions
from genepool.tasks.agent.policies import open_policy, opening
from genepool.tasks.agent.sessions import Differences, Session
from genepool.tasks.checks import content_digest, require_unique
from genepool.tasks.stored import BlockedTask
from genepool.tasks.task import evaluator

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# Tasks that are begun twice when a task opens, and of the episodes that are played first together
# those that are played once more, one by one, to see whether the environment repeats itself.
_TWICE = 4
# Sessions that are asked at the same time, where the environment allows it.
_THREADS = 16
# Tasks of an environment that are looked at.
_MOST = 100_000
# Bytes of a file with instructions.
_LONGEST = 1 << 20


@evaluator("agent")
class Agent(BlockedTask):
    """Tasks in an environment, and what reward a model earns in each.

    Episodes are played in fixed blocks, in lockstep. A broken environment is no model's fault: it
    is tried again, and then the run stops. Where an episode begins or goes on otherwise than
    before, the run stops too.
    """

    Options = AgentOptions

    def __init__(self, options: AgentOptions, directory: Path) -> None:
        """Look at all tasks: each is begun once, and a few twice.

        Raises:
            ConfigError: environment, policy or options are of no use.
            EpisodeError: the environment is broken, has no such tasks, or does not repeat itself.
        """
        scale = options.scale
        if len(scale) != 2 or not -math.inf < scale[0] < scale[1] < math.inf:
            raise ConfigError(f"scale: expected [lo, hi] with lo below hi; got {scale}")
        low, high = scale
        self._options, self._low, self._high = options, low, high
        self._batch = options.batch
        self._policy = open_policy(options, directory)
        self._opener = open_environment(options.environment, options.settings, directory)
        self._sessions: list[Session] = []
        self._repeats, self._differs = False, Differences()
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()
        weakref.finalize(self, _close, self._sessions)
        (session,) = self._ready(1)
        remote, self.exclusive, told, own = session.ask(_about)
        if own is None:
            own = json.dumps(options.settings, sort_keys=True, default=str)
        if self.exclusive and options.batch > 1:
            raise ConfigError(
                f"environment '{one_line(options.environment)}' keeps no more than one episode "
                f"with these 'settings', and 'batch: {options.batch}' plays so many at a time: say "
                "'batch: 1', or take settings with which it keeps sessions apart (of openenv "
                "'transport: websocket')"
            )
        if remote:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="genepool-session")
        instructions = told
        if options.instructions is not None:
            instructions = _read(directory / options.instructions)
        self._opening = opening(instructions)
        ids = _chosen(session.ask(lambda e: e.tasks(options.split)), options)
        held_out: list[str] = []
        if options.held_out_split is not None:
            split = options.held_out_split
            found = _bounded(session.ask(lambda e: e.tasks(split)), split)
            held_out = list(found)[: options.held_out_limit]
        require_unique([*ids, *held_out], f"environment '{one_line(options.environment)}'")
        self._turns = self._looked_at([*ids, *held_out])
        settings = (options.environment, options.rounds, options.score, low, high, options.batch)
        digest = content_digest(
            ["agent 1", repr(settings), self._policy.digest, str(len(ids)), instructions]
            + [text for id, turn in self._turns.items() for text in (id, turn.text)]
            + [repr(turn.actions) for turn in self._turns.values()]
            + ([own] if own not in ("", "{}") else [])
        )
        super().__init__((*ids, *held_out), len(ids), digest)
        known = Counter(self._turns[id] for id in ids)
        twins = sum(number for number in known.values() if number > 1)
        others = sum(self._turns[id] in known for id in held_out)
        told = (
            (twins, ids, "selection", "others"),
            (others, held_out, "held-out", "selection ones"),
        )
        self.notices = tuple(
            f"{number} of {count(len(of), f'{kind} task')} "
            f"{agreeing(number, 'begins', 'begin')} exactly as {which} do; make sure "
            "that they are not the same"
            for number, of, kind, which in told
            if number
        )

    @property
    def binary(self) -> bool:
        """Rewards may lie between."""
        return False

    @property
    def generates(self) -> bool:
        """See `Generating`."""
        return self._options.policy != "choose"

    def score(self, model: Any, indices: Int64, *, held_out: bool = False) -> Float32:
        """See `Task.score`.

        Raises:
            EvaluationError: the model cannot act.
            EpisodeError: the environment is broken, does not repeat itself, or gives rewards off
                the scale.
        """

        def block(places: list[int]) -> list[float]:
            return [self._score(one) for one in self._played(model, places)]

        return np.array(self._by_blocks(indices, held_out, block), dtype=np.float32)

    def let_differ(self) -> None:
        """See `Doubting`."""
        self._differs.allowed = True

    # What people look at

    def transcripts(
        self, model: Any, indices: Int64, *, held_out: bool = False
    ) -> list[Mapping[str, Any]]:
        """See `Transcribed`."""

        def block(places: list[int]) -> list[Mapping[str, Any]]:
            return [one.transcript(self._score(one)) for one in self._played(model, places)]

        return self._by_blocks(indices, held_out, block)

    def measures(self, model: Any) -> Mapping[str, float]:
        """See `Measured`: which share of episodes was solved, and of those cut off.

        Raises:
            EvaluationError, EpisodeError: as `score`.
        """
        size = min(self._options.measured, len(self.held_out or self.samples))
        episodes: list[Episode] = []
        for places in self._blocks_of(np.arange(size), bool(self.held_out)):
            episodes += self._played(model, places)
        episodes = episodes[:size]
        if not episodes:
            return {}
        return {
            # As scores are kept: a sum of shares may be less than 1 by its last bit.
            "solved": _share(episodes, lambda one: np.float32(self._score(one)) == 1),
            **{
                f"ended by {why}": _share(episodes, lambda one, why=why: one.ended == why)
                for why in (ROUNDS, CONTEXT, STUCK)
            },
        }

    # Playing

    def _played(self, model: Any, places: Sequence[int]) -> list[Episode]:
        turns = {self._ids[place]: self._turns[self._ids[place]] for place in places}
        sessions = self._ready(len(turns))
        episodes = play(
            sessions,
            turns,
            self._opening,
            self._options.rounds,
            self._policy.begin(model),
            self._at_once,
        )
        if not self._repeats:
            for session in sessions[:_TWICE]:
                session.repeat()
            self._repeats = True
        return episodes

    def _score(self, episode: Episode) -> float:
        """An episode's score in [0, 1].

        Raises:
            EpisodeError: it has ended before it began, or its reward is off the scale.
        """
        if not episode.rewards:
            # Nobody can play it, so not all models are to score 0 without a word.
            raise EpisodeError(
                f"task '{one_line(episode.id)}' cannot be played: its beginning "
                f"{episode.told or 'is its end'}"
            )
        how = self._options.score
        rewards = episode.rewards
        value = (
            rewards[-1] if how == "final" else math.fsum(rewards) if how == "sum" else max(rewards)
        )
        slack = 1e-9 * (self._high - self._low)
        if not self._low - slack <= value <= self._high + slack:
            raise EpisodeError(
                f"task '{one_line(episode.id)}': its {how} reward is {value:g}, outside of the "
                f"'scale' from {self._low:g} to {self._high:g}; give the scale on which the "
                "environment rewards"
            )
        return min(1.0, max(0.0, (value - self._low) / (self._high - self._low)))

    def _ready(self, number: int) -> list[Session]:
        while len(self._sessions) < number:
            self._sessions.append(self._new_session())
        return self._sessions[:number]

    def _new_session(self) -> Session:
        return Session(self._opener, self._options.patience, self._stop, self._differs)

    def _at_once(self, calls: Sequence[Callable[[], Any]]) -> Sequence[Any]:
        if self._pool is None:
            return [call() for call in calls]
        self._stop.clear()
        asked: list[Future[Any]] = []
        try:
            asked.extend(self._pool.submit(call) for call in calls)
            return [one.result() for one in asked]
        except BaseException:
            # Nobody waits for what the others would still be told.
            self._stop.set()
            for one in asked:
                one.cancel()
            wait(asked)
            raise

    def _looked_at(self, ids: Sequence[str]) -> dict[str, Turn]:
        """What each task begins with."""
        found: dict[str, Turn] = {}
        size = self._options.batch if self._pool is not None else 1
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            pairs = zip(self._ready(len(part)), part, strict=True)
            turns = self._at_once([lambda s=s, id=id: s.begin(id) for s, id in pairs])
            found.update(zip(part, turns, strict=True))
        if self._policy.needs_actions:
            missing = next((id for id, turn in found.items() if not turn.actions), None)
            if missing is not None:
                raise ConfigError(
                    f"policy '{self._options.policy}' needs the admissible actions, and task "
                    f"'{one_line(missing)}' begins without any; see whether the environment's "
                    "settings can make it tell them, or take 'policy: generate'"
                )
        again = self._new_session()
        try:
            for id in ids[:_TWICE]:
                again.begin(id, found[id])
        finally:
            again.close()
        return found


def _about(environment: Environment) -> tuple[bool, bool, str, str | None]:
    """Whether it is remote, whether it is exclusive, its instructions, and its digest if any."""
    told = environment.instructions
    if not isinstance(told, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EpisodeError(f"expected the environment's instructions as text; got {shown(told)}")
    remote = isinstance(environment, Remote) and environment.remote
    exclusive = isinstance(environment, Exclusive) and environment.exclusive
    own = str(environment.digest) if isinstance(environment, Digested) else None
    return remote, exclusive, told, own


def _read(path: Path) -> str:
    try:
        return read_text(path, _LONGEST)
    except (Unreadable, OSError) as error:
        raise ConfigError(f"instructions: {at(path)}: {cause(error)}") from error


def _chosen(found: Sequence[str], options: AgentOptions) -> list[str]:
    known = _bounded(found, options.split)
    if options.ids is not None:
        unknown = sorted(set(options.ids) - set(known))
        if unknown:
            raise ConfigError(
                f"ids: split '{one_line(options.split)}' has no {some(unknown, 4)}; it has "
                f"{some(known, 4)}"
            )
        known = options.ids
    chosen = list(known)[: options.limit]
    if not chosen:
        raise ConfigError(f"split '{one_line(options.split)}' has no tasks")
    return chosen


def _bounded(found: Sequence[str], split: str) -> Sequence[str]:
    if isinstance(found, str) or not isinstance(found, Sequence):  # pyright: ignore
        raise ConfigError(
            f"split '{one_line(split)}': expected a list of the tasks' ids; got {shown(found)}"
        )
    if len(found) > _MOST:
        raise ConfigError(
            f"split '{one_line(split)}' has {count(len(found), 'task')}, of which at most {_MOST} "
            "can be looked at"
        )
    return [str(one) for one in found]


def _share(episodes: Sequence[Episode], test: Callable[[Episode], bool]) -> float:
    return sum(map(test, episodes)) / len(episodes)


def _close(sessions: Sequence[Session]) -> None:
    for session in sessions:
        session.close()
