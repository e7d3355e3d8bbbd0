"""The driver: ask, executor, tell, pool. It brings a pool to its budget, child by child.

`Evolution` says who is proposed and who survives; the executor scores; the pool remembers. Children
are written whole or not at all, in order, so that what a crash leaves is where a run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Verdict
from genepool.core.champion import first_best
from genepool.core.genome import Genome, Vector, digest, encode
from genepool.errors import EvaluationError
from genepool.pool.guards import Checked, Means
from genepool.pool.records import Record
from genepool.run.changes import check_scores, sample_guards
from genepool.run.executors.executor import Evaluation
from genepool.run.failures import Failures, require_scored
from genepool.run.finished.observe import observe
from genepool.run.progress import SeedReport, StepReport, TaskScores, task_scores
from genepool.run.resume import resume
from genepool.run.session import Session
from genepool.run.subsets import renew, score_finalists
from genepool.strategies.evolution import Evolution
from genepool.strategies.problem import Outcome, Problem, Proposal


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is shown of the champion: its held-out score where known, and its scores by task."""

    held_out: float | None = None
    tasks: TaskScores = ()


def drive(session: Session, problem: Problem, budget: int, abreast: int) -> tuple[int, float]:
    """Absorb children until there are `budget`: how many in this session, in how many seconds.

    Args:
        session: what the run works with.
        problem: what is evolved.
        budget: children in the end.
        abreast: how many of them are scored at a time.

    Raises:
        KeyboardInterrupt: the run was interrupted, after what had been begun was written.
        GenepoolError: something other than a child is at fault.
    """
    config, pool = session.inputs.run.config, session.pool
    evolution = Evolution(
        problem,
        session.inputs.run.strategy,
        in_flight=config.width,
        early_stop=config.early_stop,
    )
    resume(evolution, pool)
    if evolution.subset.indices is not None and not pool.subset_examples():
        pool.add_subset(0, evolution.subset.indices)
    fresh = not evolution.members
    _score_seeds(session, evolution)
    # Where a run goes on, this has been looked at.
    for note in check_scores(session, problem.seeds, ()) if fresh else ():
        session.progress.notice(note)
    _tell_of_the_seeds(session)
    sample_guards(session, problem.seeds)
    first = evolution.evaluations
    session.progress.stage("evolving")
    took = [record.seconds for record in pool.records(last=len(problem.seeds) - 1)]
    # The first of them also waited for what is loaded and compiled once; all were asked everything.
    share = evolution.subset.size / session.inputs.examples.size
    session.progress.begin(budget - first, min(took) * share, abreast)
    failures = Failures(session, problem.seeds[0])
    started = time.perf_counter()
    _breed(session, evolution, failures, budget, started)
    seconds = time.perf_counter() - started
    if evolution.evaluations < budget:
        raise KeyboardInterrupt
    failures.settle()
    _finish(session, evolution)
    return evolution.evaluations - first, seconds


def _score_seeds(session: Session, evolution: Evolution) -> None:
    """Score those that have not been scored yet."""
    for number in range(evolution.members, len(evolution.problem.seeds)):
        name = session.inputs.run.seeds[number].name
        session.progress.stage(f"scoring seed {name}")
        session.heed_interruption()
        proposal = evolution.ask()
        session.executor.submit(0, proposal.genome, evolution.plan_for(proposal))
        found = session.executor.result(0)
        if found.scores is None:
            raise EvaluationError(f"seed '{name}' cannot be scored: {found.error}")
        checked = session.check_guards(proposal.genome, None)
        if checked.verdict is not None:
            raise EvaluationError(f"seed '{name}' cannot be scored: {checked.error}")
        outcome = evolution.tell(proposal.step, found.scores)
        record = _record(evolution, proposal, outcome, found, checked)
        session.pool.add(record, guards=checked.means, forget=outcome.forget)
        by_task = task_scores(session.inputs.examples, found.scores)
        session.progress.seed(SeedReport(name, record.train or 0.0, by_task, record.seconds))


def _tell_of_the_seeds(session: Session) -> None:
    """Say it where no seed scores on a task, and where the best seed found no place, so that the
    champion may be a worse one."""
    seeds, examples = session.inputs.run.seeds, session.inputs.examples
    records = list(session.pool.records(last=len(seeds) - 1))
    means = [examples.known_means(each.scores) for each in records if each.scores is not None]
    for task, *of_seeds in zip(examples.tasks, *means, strict=True):
        if not any(mean != 0 for mean in of_seeds):
            session.progress.notice(
                f"task '{task.name}': every seed scores 0 on every example, so that nobody is "
                "selected by it until a child does better; look at what the seeds answer, and at "
                "how that is judged"
            )
    best = records[first_best({record.id: record.train or 0.0 for record in records})]
    if best.verdict is not Verdict.ACCEPTED:
        session.progress.notice(
            f"seed '{seeds[best.id].name}' has the best selection score of the seeds, and no place "
            "in the archive, because the others solve its examples too: the champion may score "
            "less. Let the archive hold more members than there are seeds"
        )


def _breed(
    session: Session, evolution: Evolution, failures: Failures, budget: int, started: float
) -> None:
    """Absorb children until there are `budget`, or the run is interrupted."""
    executor, interrupted, pool = session.executor, session.interrupted, session.pool
    first, accepted, examples, scored = evolution.evaluations, 0, 0, 0
    seeds = _guard_means(session) if session.guards else {}
    standing = _standing(session, evolution)
    while evolution.evaluations < budget:
        if (renewal := evolution.renewal) is not None:
            failures.settle()
            renew(session, evolution, renewal)
            standing = _standing(session, evolution)
        while evolution.can_ask and evolution.asked < budget and not interrupted.is_set():
            proposal = evolution.ask()
            executor.submit(proposal.step, proposal.genome, evolution.plan_for(proposal))
        proposal = next(iter(evolution.waiting), None)
        if proposal is None or (interrupted.is_set() and executor.pending(proposal.step)):
            return
        found, checked = _evaluate(session, evolution, proposal, seeds)
        refused = checked is not None and checked.verdict is not None
        outcome = evolution.tell(proposal.step, found.scores, refused=refused)
        record = _record(evolution, proposal, outcome, found, checked)
        held_out = None
        if outcome.leads and found.scores is not None:
            if session.inputs.run.config.track_held_out:
                held_out = _held_out(session, record.id, proposal.genome)
            by_task = task_scores(session.inputs.examples, found.scores)
            standing = _Standing(None if held_out is None else held_out[1], by_task)
        means = () if checked is None else checked.means
        if record.verdict is Verdict.FAILED:
            failures.hold(record, means, outcome.forget)
        else:
            failures.write()
            pool.add(record, held_out=held_out, guards=means, forget=outcome.forget)
        accepted += outcome.accepted
        examples += record.asked
        scored += found.scores is not None
        session.progress.step(
            StepReport(
                evaluations=evolution.evaluations,
                budget=budget,
                session=evolution.evaluations - first,
                accepted=accepted,
                examples=examples,
                examples_total=scored * session.inputs.examples.size,
                champion=0.0 if evolution.champion is None else evolution.champion.train,
                held_out=standing.held_out,
                seconds=time.perf_counter() - started,
                tasks=standing.tasks,
            )
        )


def _evaluate(
    session: Session, evolution: Evolution, proposal: Proposal, seeds: Mapping[str, Means]
) -> tuple[Evaluation, Checked | None]:
    """Wait for a child's scores, and ask the guards about it if need be.

    The guards are asked last, and only about a child that would be accepted, or that the strategy
    would learn from all the same: to be certain of its rejection is cheaper.
    """
    step, executor = proposal.step, session.executor
    found = executor.result(step)
    if found.scores is None:
        return found, None
    # Where the archive has moved on since the child was proposed (W > 1), a rejection that was
    # certain then may not be so now, and what is left is asked.
    if (plan := evolution.missing(step, found.scores)) is not None:
        executor.submit(step, proposal.genome, plan)
        more = executor.result(step)
        found = replace(more, seconds=found.seconds + more.seconds)
    if found.scores is None or not session.guards:
        return found, None
    outcome = evolution.weigh(step, found.scores)
    known = outcome.score is not None
    if outcome.accepted or (known and evolution.strategy.learns_from_rejected):
        return found, session.check_guards(proposal.genome, seeds)
    return found, None


def _record(
    evolution: Evolution,
    proposal: Proposal,
    outcome: Outcome,
    found: Evaluation,
    checked: Checked | None,
) -> Record:
    """What the pool keeps of a child, or seed."""
    genome, seed = proposal.genome, proposal.step <= 0
    dense = isinstance(genome, Vector)
    # Recipes are cheap to name and can be bred again; a dense child is hashed and stored only if it
    # lives on.
    alive = outcome.accepted or (dense and seed)
    refused = None if checked is None else checked.verdict
    return Record(
        id=evolution.member_id(proposal.step),
        step=max(0, proposal.step),
        parents=proposal.plan.parents,
        plan="" if seed else proposal.plan.as_json(),
        merge=None if proposal.merge is None else encode(proposal.merge),
        mutation=proposal.plan.mutation,
        digest=digest(genome) if alive or not dense else None,
        genome=encode(genome) if alive else None,
        verdict=outcome.verdict if refused is None else refused,
        scores=found.scores,
        train=outcome.score,
        fitness=outcome.fitness,
        slot=outcome.slot,
        evicted=outcome.evicted,
        asked=found.asked,
        error=found.error if checked is None else checked.error,
        seconds=found.seconds + (0.0 if checked is None else checked.seconds),
    )


def _held_out(
    session: Session, member: int, genome: Genome
) -> tuple[NDArray[np.float32], float] | None:
    """As `Session.held_out_scores`; None too where a child cannot be scored, which is told.

    Raises:
        EvaluationError: a seed cannot be scored.
    """
    try:
        return session.held_out_scores(genome)
    except EvaluationError as error:
        text = f"member {member} cannot be scored on the held-out examples: {error}"
        if member < len(session.inputs.checkpoints):
            raise EvaluationError(text) from None
        require_scored(session, session.pool.genome(0), text, "held-out")
        session.progress.notice(f"{text}; they never touch selection, and the run goes on")
        return None


def _guard_means(session: Session) -> dict[str, Means]:
    """What children are measured against: the seeds' mean score on each guard, by name."""
    names, means = session.inputs.run.seeds, session.pool.guard_means()
    return {seed.name: means[k] for k, seed in enumerate(names) if k in means}


def _standing(session: Session, evolution: Evolution) -> _Standing:
    """Of a champion that is in the pool."""
    champion = evolution.champion
    if champion is None:
        return _Standing()
    scores, subset = session.pool.record(champion.id).scores, evolution.subset
    # On the examples of now, as its score is.
    tasks = () if scores is None else task_scores(subset.examples, subset.part(scores))
    return _Standing(session.pool.held_out().get(champion.id), tasks)


def _finish(session: Session, evolution: Evolution) -> None:
    """Score seeds and champion on the held-out examples, and mark the pool as finished.

    Raises:
        KeyboardInterrupt: the run was interrupted; what has been scored is written.
    """
    score_finalists(session)
    pool = session.pool
    wanted = dict(enumerate(evolution.problem.seeds))
    champion = pool.champion()
    measured = pool.held_out()
    if champion is not None and champion not in wanted and champion not in measured:
        wanted[champion] = pool.genome(champion)
    for number, genome in wanted.items():
        if session.inputs.held_out is not None and number not in measured:
            session.heed_interruption()
            seeds = session.inputs.run.seeds
            who = f"seed {seeds[number].name}" if number < len(seeds) else f"member {number}"
            session.progress.stage(f"scoring {who} on held-out examples")
            scores = _held_out(session, number, genome)
            if scores is not None:
                session.pool.add_held_out(number, *scores)
    if champion is not None:
        observe(session, {**wanted, champion: pool.genome(champion)})
    session.pool.set_meta("finished", evolution.evaluations)
