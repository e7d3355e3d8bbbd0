"""The driver: brings a pool to its budget, child by child, and resumes wherever it was left.

Steady state with W proposals in flight. Children are absorbed in the order in which they were
proposed, and child t is proposed from the archive as it stood after child t - W; so a run depends
on its configuration, never on timing or on the number of workers. Children are written whole or not
at all, in order, so that what a crash leaves is where a run goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Member, Verdict
from genepool.core.early_stop.lossless import FullExam, Questions
from genepool.core.genome import Genome, Vector, digest, encode
from genepool.core.subsets import draw_round, everything
from genepool.errors import EvaluationError
from genepool.pool.guards import Checked, Means, check
from genepool.pool.pool_header import GuardEntry
from genepool.pool.records import FINAL, Record
from genepool.pool.writer import PoolWriter
from genepool.run.executors.executor import Answer, Executor
from genepool.run.inputs import Inputs
from genepool.run.progress import Progress, SeedReport, StepReport, TaskScores, task_scores
from genepool.run.subsets import Known, ask_again
from genepool.strategies import REJECTED, Outcome, Past, Problem, Proposal, Strategy

# Where so many children fail in a row, the cause may not be theirs.
_HOPELESS = 20


class Driver:
    """One session of one pool."""

    def __init__(
        self,
        inputs: Inputs,
        guards: Sequence[GuardEntry],
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
        self._held_out = inputs.held_out
        self._guards = guards
        # Of the seeds, by name; what children are measured against.
        self._guard_means: dict[str, Means] = {}
        self._champion: tuple[int, float, Genome] | None = None
        self._champion_held_out: float | None = None
        self._champion_tasks: TaskScores = ()
        # Children that failed one after the other, not written yet: should the cause not be theirs,
        # they are to be scored anew once it is mended.
        self._failed: list[tuple[Record, Means, list[int]]] = []
        self._rounds = inputs.run.strategy.rounds
        self._round = everything(problem.examples)
        # States after the last W children, newest last: what proposals are made from.
        self._versions: dict[int, Any] = {}
        # Of earlier sessions: the best of them may be the champion for good.
        self._finalists: set[int] = set()
        # Dense genomes that have left the archive, by the step at which they did.
        self._retired: dict[int, int] = {}

    def run(self, budget: int) -> tuple[int, float]:
        """Absorb children until there are `budget`: how many, in how many seconds."""
        self._restore()
        self._absorb_seeds()
        done = first = self._pool.evaluations
        self._progress.stage("evolving")
        took = [record.seconds for record in self._pool.records(last=len(self._problem.seeds) - 1)]
        abreast = self._config.in_flight if self._config.executor == "process" else 1
        self._progress.begin(budget - done, sum(took) / len(took) / abreast)
        width = self._config.in_flight
        started = time.perf_counter()
        accepted = examples = 0
        flying: dict[int, Proposal] = {}
        while done < budget:
            if done == self._round.stop:
                self._write_failed()
                self._renew(done)
            last = min(budget, self._round.stop or budget)
            while len(flying) < width and done + len(flying) < last:
                if self._interrupted.is_set():
                    break
                step = done + len(flying) + 1
                flying[step] = self._launch(step)
            step = done + 1
            if step not in flying or (self._interrupted.is_set() and self._executor.pending(step)):
                break
            record = self._absorb(flying.pop(step))
            done = step
            accepted += record.verdict is Verdict.ACCEPTED
            examples += record.asked
            self._progress.step(
                StepReport(
                    evaluations=done,
                    budget=budget,
                    session=done - first,
                    accepted=accepted,
                    examples=examples,
                    examples_total=(done - first) * self._inputs.examples.size,
                    champion=self._champion[1] if self._champion else 0.0,
                    held_out=self._champion_held_out,
                    seconds=time.perf_counter() - started,
                    tasks=self._champion_tasks,
                )
            )
        seconds = time.perf_counter() - started
        if done < budget:
            raise KeyboardInterrupt
        self._write_failed()
        self._finish(done)
        return done - first, seconds

    # Setting up and finishing

    def _restore(self) -> None:
        """Rebuild the states that the next proposals are made from."""
        pool, strategy = self._pool, self._strategy
        self._enter(0 if self._rounds is None else self._rounds.at(pool.evaluations))
        first = max(self._round.start, pool.evaluations - self._config.in_flight + 1)
        # Child t has id t + K - 1, K seeds coming first.
        last_id = len(self._problem.seeds) + first - 1
        state = self._begin()
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
        if self._rounds is None:
            self._set_champion()
        else:
            self._set_leader()
        self._finalists = set(pool.finalists())
        if self._inputs.kind == "vector":
            self._retired = pool.retired()

    def _past(self, record: Record) -> Past:
        if record.verdict in (Verdict.GUARDED, Verdict.FAILED) or record.scores is None:
            return Past(record.step, None, None, None)
        if record.slot is None or record.train is None:
            return Past(record.step, None, None, self._round.part(record.scores))
        return self._survivor(record, record.slot, record.scores)

    def _set_champion(self) -> None:
        champion = self._pool.champion()
        if champion is not None:
            row = self._pool.record(champion)
            train = row.train or 0.0
            self._champion = (champion, train, self._pool.genome(champion))
            self._champion_held_out = self._pool.held_out().get(champion)
            if row.scores is not None:
                self._champion_tasks = task_scores(self._inputs.examples, row.scores)

    def _set_leader(self) -> None:
        """The best that has been in the archive in this round, on its examples."""
        pool = self._pool
        before = len(self._problem.seeds) + self._round.start - 1
        at_start = [pool.record(member) for _, member in sorted(pool.slots(before).items())]
        known = {
            record.id: self._round.mean(record.scores)
            for record in [*at_start, *pool.records(before + 1)]
            if record.slot is not None and record.scores is not None
        }
        if known:
            leader = max(known, key=lambda member: known[member])
            self._champion = (leader, known[leader], pool.genome(leader))
            self._champion_held_out = pool.held_out().get(leader)

    def _lead(self, member: int, train: float, genome: Genome, scores: Any) -> bool:
        """Whether a member is better than all before it, and so the champion."""
        if self._champion is not None and train <= self._champion[1]:
            return False
        self._champion = (member, train, genome)
        self._champion_tasks = task_scores(self._inputs.examples, scores)
        return True

    def _survivor(self, record: Record, slot: int, scores: NDArray[np.float32]) -> Past:
        """A member in its slot, with its scores in this round."""
        train = self._round.mean(scores)
        member = Member(record.id, self._pool.genome(record.id), record.parents, train)
        return Past(record.step, member, slot, self._round.part(scores))

    # Rounds: a part of the examples at a time

    def _enter(self, number: int) -> None:
        """From now on members compete for the examples of this round."""
        if self._rounds is not None:
            examples, seed = self._problem.examples, self._problem.seed
            self._round = draw_round(self._rounds, number, examples, seed)

    def _begin(self) -> Any:
        """The strategy's state before anybody is in the archive, for this round's examples."""
        return self._strategy.begin(replace(self._problem, examples=self._round.examples))

    def _renew(self, done: int) -> None:
        """Draw other examples, and ask the archive those that are new to it."""
        pool = self._pool
        self._enter(self._round.number + 1)
        number, examples = self._round.number, self._round.indices
        if examples is None:
            raise RuntimeError("a run without rounds has nothing to renew")
        self._progress.stage(f"round {number}: scoring the archive on other examples")
        pool.add_subset(number, examples)
        slots = pool.slots()
        records = {slot: pool.record(member) for slot, member in sorted(slots.items())}
        known = self._ask_again(list(records.values()), number, examples)
        state = self._begin()
        self._champion = None
        for slot, record in records.items():
            scores = known[record.id]
            if scores is None:
                continue
            past = self._survivor(record, slot, scores)
            state = self._strategy.recall(state, past)
            if past.member is not None:
                self._lead(record.id, past.member.train, past.member.genome, scores)
        self._versions = {done: state}
        self._progress.stage("evolving")

    def _ask_again(self, records: list[Record], number: int, examples: NDArray[np.int64]) -> Known:
        return ask_again(self._pool, self._executor, records, number, examples, self._interrupted)

    def _settle(self) -> None:
        """Score the most promising of the archive on all examples: the best of them is known."""
        if self._rounds is None:
            return
        self._progress.stage("scoring the finalists on all examples")
        # As they were before any final: asked in pieces or in one, they are the same.
        alive = [self._pool.record(m, finals=False) for m in self._pool.slots().values()]
        alive.sort(key=lambda record: (-(record.train or 0.0), record.id))
        finalists = [self._pool.record(record.id) for record in alive[: self._rounds.finalists]]
        everywhere = np.arange(self._inputs.examples.size, dtype=np.int64)
        self._ask_again(finalists, FINAL, everywhere)
        self._set_champion()

    def _absorb_seeds(self) -> None:
        present = self._seeds_present()
        if self._round.indices is not None and not self._pool.subset_examples():
            self._pool.add_subset(0, self._round.indices)
        names = [seed.name for seed in self._inputs.run.seeds]
        self._guard_means = {
            names[number]: means
            for number, means in self._pool.guard_means().items()
            if number < present
        }
        for number, genome in list(enumerate(self._problem.seeds))[present:]:
            name = names[number]
            self._progress.stage(f"scoring seed {name}")
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            unknown = np.full(self._inputs.examples.size, np.nan, dtype=np.float32)
            self._executor.submit(0, genome, FullExam(unknown))
            answer = self._executor.result(0)
            if answer.scores is None:
                raise EvaluationError(f"seed '{name}' cannot be scored: {answer.error}")
            checked = self._check(genome, None)
            if checked.verdict is not None:
                raise EvaluationError(f"seed '{name}' cannot be scored: {checked.error}")
            self._guard_means[name] = checked.means
            seconds = answer.seconds + checked.seconds
            record = self._admit(0, genome, None, replace(answer, seconds=seconds), checked.means)
            by_task = task_scores(self._inputs.examples, answer.scores)
            self._progress.seed(SeedReport(name, record.train or 0.0, by_task, seconds))

    def _finish(self, done: int) -> None:
        """Score seeds and champion on the held-out examples and mark the pool as finished."""
        self._settle()
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
        state = self._versions[self._met_by(step)]
        proposal = self._strategy.propose(self._problem, state, step)
        unknown = np.full(self._inputs.examples.size, np.nan, dtype=np.float32)
        self._executor.submit(step, proposal.genome, self._questions(state, proposal, unknown))
        return proposal

    def _met_by(self, step: int) -> int:
        """The number of children after which child `step` is proposed."""
        return max(self._round.start, step - self._config.in_flight)

    def _questions(self, state: Any, proposal: Proposal, known: NDArray[np.float32]) -> Questions:
        part = self._round.part(known)
        exam = self._strategy.exam if self._config.early_stop else None
        questions = FullExam(part) if exam is None else exam(state, proposal, part)
        return self._round.whole(questions, known)

    def _absorb(self, proposal: Proposal) -> Record:
        step = proposal.step
        state = self._versions[step - 1]
        met = self._versions[self._met_by(step)]
        answer = self._executor.result(step)
        asked, size = answer.asked, self._round.size
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
        verdict = Verdict.FAILED if answer.scores is None else Verdict.STOPPED
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

        The guards are asked last, and only about a child that would be accepted, or that the
        strategy would learn from all the same: to be certain of its rejection is cheaper. A child
        that breaks one is to the strategy like one that failed.
        """
        if answer.scores is None:
            raise RuntimeError("a member that was not scored cannot compete")
        parents, size = proposal.plan.parents if proposal else (), answer.asked
        train = self._round.mean(answer.scores)
        # Seeds are asked everything, whatever they compete for.
        known = train if proposal else self._inputs.examples.mean(answer.scores)
        member = Member(self._next_id(step), genome, parents, train)
        before, scores = self._versions[max(0, step - 1)], self._round.part(answer.scores)
        state, outcome = self._strategy.absorb(before, member, step, scores)
        verdict = Verdict.ACCEPTED if outcome.accepted else Verdict.REJECTED
        matters = outcome.accepted or self._strategy.learns_from_rejected
        if matters and proposal is not None and self._guards:
            checked = self._check(genome, self._guard_means)
            guards, seconds = checked.means, answer.seconds + checked.seconds
            answer = replace(answer, error=checked.error, seconds=seconds)
            if checked.verdict is not None:
                verdict, state = checked.verdict, self._strategy.skip(before, step)
                outcome = replace(REJECTED, fitness=outcome.fitness)
        record = self._record(step, proposal, genome, verdict, outcome, answer, size, known)
        leads = outcome.accepted and self._lead(member.id, train, genome, answer.scores)
        held_out = self._track(genome) if leads else None
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
        if record.verdict is Verdict.FAILED:
            self._failed.append((record, guards, forget))
            self._require_hope(record.error)
        else:
            self._write_failed()
            self._pool.add(record, held_out=held_out, guards=guards, forget=forget)
        self._versions[step] = state
        self._versions.pop(step - self._config.in_flight, None)

    def _write_failed(self) -> None:
        for record, guards, forget in self._failed:
            self._pool.add(record, guards=guards, forget=forget)
        self._failed.clear()

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
            champion = champion or member in self._finalists
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
        everything = np.arange(0 if self._held_out is None else self._held_out.size, dtype=np.int64)
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

    def _require_hope(self, error: str | None) -> None:
        """Where many children fail, one after the other, ask whether a seed can still be scored."""
        if len(self._failed) < _HOPELESS:
            return
        text = f"the last {_HOPELESS} children all failed, the last with: {error}"
        seed = self._problem.seeds[0]
        everything = np.arange(self._inputs.examples.size, dtype=np.int64)
        try:
            self._executor.score(seed, "train", everything)
            cause = self._check(seed, None).error if self._guards else None
        except EvaluationError as failure:
            cause = str(failure)
        if cause is not None:
            raise EvaluationError(
                f"{text}; and now seed '{self._inputs.run.seeds[0].name}' fails too ({cause}). The "
                "children are not counted: mend it and run again, and they are scored anew"
            )
        self._progress.notice(f"{text}; the seeds do not fail, so that it is the children's fault")
        self._write_failed()
