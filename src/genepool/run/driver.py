"""The driver: brings a pool to its budget, child by child, and resumes wherever it was left.

Steady state with W proposals in flight. Children are absorbed in the order in which they were
proposed, and child t is proposed from the archive as it stood after child t - W; so a run depends
on its configuration, never on timing or on the number of workers. Children are written whole or not
at all, in order, so that what a crash leaves is where a run goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Member
from genepool.core.exam import FullExam, Questions
from genepool.core.genome import Genome, Vector, digest, encode
from genepool.core.strategies import REJECTED, Outcome, Past, Problem, Proposal, Strategy
from genepool.errors import EvaluationError, PoolError
from genepool.run.config import Run, load_run
from genepool.run.database import begun
from genepool.run.executor import Answer, Executor, SerialExecutor
from genepool.run.guards import Checked, Means, check
from genepool.run.inputs import (
    Inputs,
    check_pins,
    guard_entries,
    open_inputs,
    opening,
    pins,
    problem_of,
    seed_entries,
    task_entries,
)
from genepool.run.interrupt import interruptible
from genepool.run.pool import Pool
from genepool.run.pool_writer import PoolWriter
from genepool.run.progress import Progress, Silence, StepReport
from genepool.run.records import Record, Verdict
from genepool.run.scorer import Scorer
from genepool.weights.threads import available_threads

# A cause that fails this many children in a row is not the children's.
_HOPELESS = 20


@dataclass(frozen=True, slots=True)
class Result:
    """What a call of `evolve` did.

    Attributes:
        pool: where everything is.
        status: as `genepool status --json` prints it.
        session: children absorbed by this call.
        seconds: that they took, setting up left out.
        notices: what is good to know about the seeds, one line each; empty if nothing was to do.
    """

    pool: Path
    status: dict[str, Any]
    session: int
    seconds: float
    notices: tuple[str, ...] = ()


def evolve(
    run: Run | str | os.PathLike[str] | Mapping[str, Any],
    *,
    budget: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    cache: Path | None = None,
) -> Result:
    """Bring a pool to its budget; the same call again resumes, and does nothing when done.

    Args:
        run: a run file, its content as a mapping, or one that is already loaded.
        budget: number of children to have scored in the end; None takes the run file's.
        progress: who watches.
        threads: that may materialise a child; None means the cores of this process. The result
            does not depend on it.
        cache: where digests and inner products of the seeds are kept; it may serve many pools. None
            means the pool.

    Raises:
        GenepoolError: the run file, a seed, a task or the pool is at fault.
        KeyboardInterrupt: Ctrl-C, after the children being scored were finished and written.
    """
    loaded = run if isinstance(run, Run) else load_run(run)
    target = loaded.config.budget if budget is None else budget
    if target < 0:
        raise PoolError(f"budget must be at least 0; got {target}")
    watcher = progress or Silence()
    path = loaded.resolve(loaded.config.pool)
    if begun(path):
        with Pool(path) as pool:
            if _finished(pool, loaded, target):
                return Result(path, pool.status(), 0, 0.0)
    watcher.stage("opening seeds and tasks")
    inputs = open_inputs(loaded)
    for notice in inputs.notices:
        watcher.notice(notice)
    with contextlib.closing(PoolWriter(path)) as pool, interruptible() as interrupted:
        watcher.stage("reading the seeds")
        seeds = (inputs.run, inputs.sources, inputs.checkpoints)
        entries, tasks = seed_entries(*seeds, cache or path), task_entries(inputs)
        if pool.fresh:
            meta = {
                "pins": pins(inputs),
                "config": loaded.config.model_dump(),
                "axis_size": inputs.layout.axis.size,
                "tensors": [[slot.name, slot.start] for slot in inputs.layout.slots],
                "kind": inputs.kind,
                "seed": loaded.config.seed,
                "budget": target,
                "opening": opening(inputs),
                "guards": [asdict(guard) for guard in guard_entries(inputs)],
            }
            pool.set_up(meta, entries, tasks)
        else:
            check_pins(pool, inputs, entries, tasks)
            pool.set_meta("budget", max(target, pool.evaluations))
            pool.set_meta("config", loaded.config.model_dump())
            pool.set_meta("opening", opening(inputs))
        watcher.stage("preparing the seeds")
        problem = problem_of(inputs, cache or path)
        watcher.stage("building the model")
        executor = _executor(inputs, threads)
        try:
            driver = _Driver(inputs, pool, problem, executor, watcher, interrupted)
            session, seconds = driver.run(target)
        finally:
            executor.close()
        return Result(path, pool.status(), session, seconds, inputs.notices)


def _finished(pool: Pool, run: Run, budget: int) -> bool:
    """Whether nothing is left to do for a pool that this very run file made."""
    meta = pool.meta()
    same = json.loads(json.dumps(run.config.model_dump(exclude={"budget"})))
    if {key: value for key, value in meta["config"].items() if key != "budget"} != same:
        return False
    return pool.evaluations >= budget and meta.get("finished") == pool.evaluations


def _executor(inputs: Inputs, threads: int | None) -> Executor:
    config = inputs.run.config
    if config.executor == "process":
        from genepool.run.workers import ProcessExecutor

        workers = config.workers or min(available_threads(), config.in_flight)
        return ProcessExecutor(inputs.run, workers)
    return SerialExecutor(Scorer(inputs, threads))


class _Driver:
    """One session of one pool."""

    def __init__(
        self,
        inputs: Inputs,
        pool: PoolWriter,
        problem: Problem,
        executor: Executor,
        progress: Progress,
        interrupted: threading.Event,
    ) -> None:
        self._inputs = inputs
        self._config = inputs.run.config
        self._strategy: Strategy[Any] = inputs.run.strategy.build(self._config.in_flight)
        self._pool = pool
        self._problem = problem
        self._executor = executor
        self._progress = progress
        self._interrupted = interrupted
        self._held_out = inputs.held_out_resources()
        self._guards = guard_entries(inputs)
        # Of the seeds, by name; what children are measured against.
        self._guard_means: dict[str, Means] = {}
        self._champion: tuple[int, float, Genome] | None = None
        self._champion_held_out: float | None = None
        self._failures = 0
        # States after the last W children, newest last: what proposals are made from.
        self._versions: dict[int, Any] = {}
        # Dense genomes that have left the archive, by the step at which they did.
        self._retired: dict[int, int] = {}

    def run(self, budget: int) -> tuple[int, float]:
        """Absorb children until there are `budget`: how many, in how many seconds."""
        self._restore()
        self._absorb_seeds()
        done = first = self._pool.evaluations
        self._progress.stage("evolving")
        width = self._config.in_flight
        started = time.perf_counter()
        accepted = examples = 0
        flying: dict[int, Proposal] = {}
        while done < budget:
            while len(flying) < width and done + len(flying) < budget:
                if self._interrupted.is_set():
                    break
                step = done + len(flying) + 1
                flying[step] = self._launch(step)
            step = done + 1
            if step not in flying or (self._interrupted.is_set() and self._executor.pending(step)):
                break
            record = self._absorb(flying.pop(step))
            done = step
            accepted += record.verdict == "accepted"
            examples += record.asked
            self._progress.step(
                StepReport(
                    evaluations=done,
                    budget=budget,
                    session=done - first,
                    accepted=accepted,
                    examples=examples,
                    examples_total=(done - first) * self._inputs.examples,
                    champion=self._champion[1] if self._champion else 0.0,
                    held_out=self._champion_held_out,
                    seconds=time.perf_counter() - started,
                )
            )
        seconds = time.perf_counter() - started
        if done < budget:
            raise KeyboardInterrupt
        self._finish(done)
        return done - first, seconds

    # Setting up and finishing

    def _restore(self) -> None:
        """Rebuild the states that the next proposals are made from."""
        pool, strategy = self._pool, self._strategy
        first = max(0, pool.evaluations - self._config.in_flight + 1)
        # Child t has id t + K - 1, K seeds coming first.
        last_id = len(self._problem.seeds) + first - 1
        state = strategy.begin(self._problem)
        if strategy.remembers:
            past = pool.records(last=last_id)
        else:
            past = (pool.record(member) for _, member in sorted(pool.slots(last_id).items()))
        for record in past:
            state = strategy.recall(state, self._past(record))
        self._versions = {first: state}
        for record in pool.records(last_id + 1):
            state = strategy.recall(state, self._past(record))
            self._versions[record.step] = state
        champion = pool.champion()
        if champion is not None:
            row = pool.record(champion)
            self._champion = (champion, row.train or 0.0, pool.genome(champion))
            self._champion_held_out = pool.held_out().get(champion)
        if self._inputs.kind == "vector":
            self._retired = pool.retired()

    def _past(self, record: Record) -> Past:
        if record.verdict in ("guarded", "failed"):
            return Past(record.step, None, None, None)
        if record.slot is None or record.train is None:
            return Past(record.step, None, None, record.scores)
        genome = self._pool.genome(record.id)
        member = Member(record.id, genome, record.parents, record.train)
        return Past(record.step, member, record.slot, record.scores)

    def _absorb_seeds(self) -> None:
        present = self._seeds_present()
        names = [seed.name for seed in self._inputs.run.seeds]
        self._guard_means = {
            names[number]: means
            for number, means in self._pool.guard_means().items()
            if number < present
        }
        for number in range(present, len(self._problem.seeds)):
            name = names[number]
            self._progress.stage(f"scoring seed {name}")
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            genome = self._problem.seeds[number]
            unknown = np.full(self._inputs.examples, np.nan, dtype=np.float32)
            self._executor.submit(0, genome, FullExam(unknown))
            answer = self._executor.result(0)
            if answer.scores is None:
                raise EvaluationError(f"seed '{name}' cannot be scored: {answer.error}")
            checked = self._check(genome, None)
            if checked.verdict is not None:
                raise EvaluationError(f"seed '{name}' cannot be scored: {checked.error}")
            self._guard_means[name] = checked.means
            seconds = answer.seconds + checked.seconds
            self._admit(0, genome, None, replace(answer, seconds=seconds), checked.means)

    def _finish(self, done: int) -> None:
        """Score seeds and champion on the held-out examples and mark the pool as finished."""
        if self._held_out is not None:
            measured = self._pool.held_out()
            wanted = dict(enumerate(self._problem.seeds))
            if self._champion is not None:
                wanted[self._champion[0]] = self._champion[2]
            for number, genome in wanted.items():
                if number not in measured:
                    self._progress.stage("scoring held-out examples")
                    scores = self._score_held_out(genome)
                    self._pool.add_held_out(number, scores, self._held_out.mean(scores))
        self._pool.set_meta("finished", done)

    # One step

    def _launch(self, step: int) -> Proposal:
        state = self._versions[max(0, step - self._config.in_flight)]
        proposal = self._strategy.propose(self._problem, state, step)
        unknown = np.full(self._inputs.examples, np.nan, dtype=np.float32)
        self._executor.submit(step, proposal.genome, self._questions(state, proposal, unknown))
        return proposal

    def _questions(self, state: Any, proposal: Proposal, known: NDArray[np.float32]) -> Questions:
        if self._config.early_stop:
            return self._strategy.exam(state, proposal, known)
        return FullExam(known)

    def _absorb(self, proposal: Proposal) -> Record:
        step = proposal.step
        state = self._versions[step - 1]
        met = self._versions[max(0, step - self._config.in_flight)]
        answer = self._executor.result(step)
        asked, size = answer.asked, self._inputs.examples
        # Where the archive has moved on since the child was proposed (W > 1), a rejection that was
        # certain then may not be so now, and what is left is asked.
        if state is not met and answer.scores is not None and asked < size:
            questions = self._questions(state, proposal, answer.scores)
            if not questions.done:
                self._executor.submit(step, proposal.genome, questions)
                more = self._executor.result(step)
                answer = replace(more, seconds=answer.seconds + more.seconds)
                asked = answer.asked
        if answer.scores is not None and asked == size:
            return self._admit(step, proposal.genome, proposal, answer)
        if answer.scores is None:
            self._count_failure(answer.error)
        verdict: Verdict = "failed" if answer.scores is None else "stopped"
        record = self._record(step, proposal, proposal.genome, verdict, REJECTED, answer, asked)
        self._write(record, self._strategy.skip(state, step))
        return record

    def _admit(
        self,
        step: int,
        genome: Genome,
        proposal: Proposal | None,
        answer: Answer,
        guards: Means = (),
    ) -> Record:
        """Let a fully scored child (or seed) compete, and write what came of it.

        The guards are asked last, and only about a child that would be accepted: to be certain of
        its rejection is cheaper. A child that breaks one is to the strategy like one that failed.
        """
        if answer.scores is None:
            raise RuntimeError("a member that was not scored cannot compete")
        parents, size = proposal.plan.parents if proposal else (), answer.scores.size
        train = self._inputs.resources.mean(answer.scores)
        member = Member(self._next_id(step), genome, parents, train)
        before = self._versions[max(0, step - 1)]
        state, outcome = self._strategy.absorb(before, member, step, answer.scores)
        verdict: Verdict = "accepted" if outcome.accepted else "rejected"
        if outcome.accepted and proposal is not None and self._guards:
            checked = self._check(genome, self._guard_means)
            guards, seconds = checked.means, answer.seconds + checked.seconds
            answer = replace(answer, error=checked.error, seconds=seconds)
            if checked.verdict is not None:
                verdict, state = checked.verdict, self._strategy.skip(before, step)
                outcome = replace(REJECTED, fitness=outcome.fitness)
        if verdict == "failed":
            self._count_failure(answer.error)
        else:
            self._failures = 0
        record = self._record(step, proposal, genome, verdict, outcome, answer, size, train)
        held_out = None
        if outcome.accepted and (self._champion is None or train > self._champion[1]):
            self._champion = (member.id, train, genome)
            held_out = self._track(genome)
        self._write(record, state, held_out, guards)
        return record

    def _record(
        self,
        step: int,
        proposal: Proposal | None,
        genome: Genome,
        verdict: Verdict,
        outcome: Outcome,
        answer: Answer,
        asked: int,
        train: float | None = None,
    ) -> Record:
        dense = isinstance(genome, Vector)
        # Recipes are cheap to name and can be bred again; a dense child is hashed and stored only
        # if it lives on.
        alive = outcome.accepted or (dense and proposal is None)
        merge = None if proposal is None else proposal.merge
        return Record(
            id=self._next_id(step),
            step=step,
            parents=() if proposal is None else proposal.plan.parents,
            plan="" if proposal is None else proposal.plan.as_json(),
            merge=None if merge is None else encode(merge),
            mutation=0.0 if proposal is None else proposal.plan.mutation,
            digest=digest(genome) if alive or not dense else None,
            genome=encode(genome) if alive else None,
            verdict=verdict,
            scores=answer.scores,
            train=train,
            fitness=outcome.fitness,
            slot=outcome.slot,
            evicted=outcome.evicted,
            asked=asked,
            error=answer.error,
            seconds=answer.seconds,
        )

    def _write(
        self,
        record: Record,
        state: Any,
        held_out: tuple[NDArray[np.float32], float] | None = None,
        guards: Means = (),
    ) -> None:
        step = record.step
        forget = self._forgettable(record)
        self._pool.add(record, held_out=held_out, guards=guards, forget=forget)
        self._versions[step] = state
        self._versions.pop(step - self._config.in_flight, None)

    def _forgettable(self, record: Record) -> list[int]:
        """Dense genomes that neither the archive, the champion nor a proposal in flight needs."""
        # What was drawn instead of merged could not be bred again.
        if self._inputs.kind != "vector" or (record.step and record.merge is None):
            return []
        if record.evicted is not None:
            self._retired[record.evicted] = record.step
        out: list[int] = []
        for member, since in list(self._retired.items()):
            champion = self._champion is not None and self._champion[0] == member
            if since <= record.step - self._config.in_flight + 1 and not champion:
                del self._retired[member]
                if member >= len(self._problem.seeds):
                    out.append(member)
        return out

    def _track(self, genome: Genome) -> tuple[NDArray[np.float32], float] | None:
        self._champion_held_out = None
        if not self._config.track_held_out or self._held_out is None:
            return None
        scores = self._score_held_out(genome)
        self._champion_held_out = self._held_out.mean(scores)
        return scores, self._champion_held_out

    def _score_held_out(self, genome: Genome) -> NDArray[np.float32]:
        everything = np.arange(self._inputs.held_out_examples, dtype=np.int64)
        return self._executor.score(genome, "held-out", everything)

    def _check(self, genome: Genome, seeds: Mapping[str, Means] | None) -> Checked:
        """Ask the guards about a model; `seeds` as in `guards.check`."""

        def score(indices: NDArray[np.int64]) -> NDArray[np.float32]:
            return self._executor.score(genome, "guard", indices)

        return check(self._guards, score, seeds)

    def _next_id(self, step: int) -> int:
        return len(self._problem.seeds) + step - 1 if step else self._seeds_present()

    def _seeds_present(self) -> int:
        return sum(1 for _ in self._pool.records(last=len(self._problem.seeds) - 1))

    def _count_failure(self, error: str | None) -> None:
        self._failures += 1
        if self._failures >= _HOPELESS:
            raise EvaluationError(
                f"the last {_HOPELESS} children all failed, the last with: {error}; the "
                "cause is probably not the children. Nothing is lost: mend it and run again"
            )
