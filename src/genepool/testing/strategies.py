"""The contract test of strategies.

def test_contract():
    check_strategy(lambda: MyStrategy(archive=6))
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive, Member
from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.examples import Examples, TaskExamples, lay_out
from genepool.core.genome import Genome, Vector, breed, digest
from genepool.core.subsets import Subsets
from genepool.strategies.base import Strategy
from genepool.strategies.evolution import Evolution
from genepool.strategies.problem import Outcome, Problem, Proposal, Trial
from genepool.testing.require import require

__all__ = ["check_strategy"]

Float32 = NDArray[np.float32]
Score = Callable[[Genome], Float32]

_LENGTH, _EXAMPLES, _SEEDS = 48, 40, 3


def check_strategy(
    make_strategy: Callable[[], Strategy],
    *,
    problem: Problem | None = None,
    steps: int = 60,
    lossless: bool = True,
) -> None:
    """Check that a strategy keeps the contract of `genepool.strategies.base.Strategy`.

    What it proposes and decides is a function of its arguments alone: it is the same when it is
    asked once more, when numpy's and Python's own random numbers stand elsewhere, with another
    instance of the same options, and after any number of later calls, since no state is ever
    changed. It does not depend on when proposals in flight are asked for. A child can be made again
    from its parents by its merge, and its plan is JSON. A child that is accepted sits in the slot
    that the outcome names, in the place of the member that the outcome names, and one that is not
    leaves the archive as it was. Children that fail are skipped. Asked only as far as its
    evaluation plans go, a run ends as one that asks everything. A run that is taken up in the
    middle, from what a pool remembers, goes on as it would have.

    Args:
        make_strategy: makes the strategy, always with the same options.
        problem: with the weights of its seeds in memory (`Problem.of_vectors`). None: three seeds
            of 48 weights in three tensors, and the tasks "one" and "two" with 20 examples each,
            whose labels are a to d, with scores of 0 and 1, and with scores between these.
        steps: number of children of each of some ten runs.
        lossless: the evaluation plans stop only where the end is certain; false: a child may be
            turned away that would have survived, and only the rest is checked.

    Raises:
        AssertionError: what is wrong.
    """
    strategy = make_strategy()
    require(strategy == make_strategy(), "two strategies with the same options must be equal")
    given = [_problem(binary) for binary in (True, False)] if problem is None else [problem]
    for task in given:
        task = task.densely() if strategy.dense else task
        score = _scorer(task, task.examples.binary)
        for width in (1, 3):
            _check_runs(make_strategy, task, score, steps, width, lossless)


def _check_runs(
    make: Callable[[], Strategy],
    problem: Problem,
    score: Score,
    steps: int,
    width: int,
    lossless: bool,
) -> None:
    where = f"with {width} in flight"
    whole = _Run(make(), problem, score, width).to(steps)
    whole.watched.check_again()
    with _OtherRandomNumbers():
        again = _Run(make(), problem, score, width, eager=False).to(steps)
    whole.require_same(again, f"{where}: the same run again, proposals asked for as late as can be")
    failing = [_Run(make(), problem, score, width, failing=7).to(steps) for _ in range(2)]
    failing[0].require_same(failing[1], f"{where}: the same run with children that fail, again")
    stopping = _Run(make(), problem, score, width, stop=True).to(steps)
    if lossless:
        whole.require_same(stopping, f"{where}: the run that asks only what its plans ask")
    for cut in {1, steps // 3, steps - 1}:
        first = _Run(make(), problem, score, width, eager=False).to(cut)
        second = first.taken_up(make()).to(steps)
        whole.require_same(second, f"{where}: the run that was taken up after {cut} children")


class _Watched:
    """A strategy whose calls are each made twice, and must then have given the same."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.calls: list[tuple[Problem, Any, Proposal]] = []

    @property
    def remembers(self) -> bool:
        return self.inner.remembers

    @property
    def dense(self) -> bool:
        return self.inner.dense

    @property
    def subsets(self) -> Subsets | None:
        return self.inner.subsets

    def check(self, in_flight: int) -> None:
        self.inner.check(in_flight)

    def begin(self, problem: Problem, in_flight: int) -> Any:
        return self.inner.begin(problem, in_flight)

    def propose(self, problem: Problem, state: Any, step: int) -> Proposal:
        proposal = self.inner.propose(problem, state, step)
        require(proposal.step == step, f"propose() for step {step} gave step {proposal.step}")
        self.calls.append((problem, state, proposal))
        _require_proposed(self.inner, problem, state, proposal, "when asked twice")
        return proposal

    def check_again(self) -> None:
        """What was proposed is proposed again, by states that much has been made from since."""
        for problem, state, proposal in self.calls:
            _require_proposed(
                self.inner, problem, state, proposal, "after the run: a state changed"
            )

    def evaluation_plan(self, state: Any, proposal: Proposal, known: Float32) -> EvaluationPlan:
        return self.inner.evaluation_plan(state, proposal, known)

    def absorb(self, state: Any, member: Member, step: int, scores: Float32) -> tuple[Any, Outcome]:
        before, kept = _sitting(self.inner.archive_of(state)), scores.copy()
        after, outcome = self.inner.absorb(state, member, step, scores)
        what = f"absorb() of the child of step {step}"
        require(kept.tobytes() == scores.tobytes(), f"{what} wrote into the scores")
        require(before == _sitting(self.inner.archive_of(state)), f"{what} changed the old state")
        _, again = self.inner.absorb(state, member, step, scores)
        require(outcome == again, f"{what} decided otherwise when asked twice: {outcome}, {again}")
        now = _sitting(self.inner.archive_of(after))
        expected = dict(before)
        if outcome.accepted:
            slot = -1 if outcome.slot is None else outcome.slot
            require(
                outcome.evicted == before.get(slot),
                f"{what} says that {outcome.evicted} was replaced, but slot {slot} held "
                f"{before.get(slot)}",
            )
            expected[slot] = member.id
        else:
            found = (outcome.slot, outcome.evicted)
            require(found == (None, None), f"{what} rejects, and names slot and evicted {found}")
        require(
            now == expected, f"{what}: the archive holds {now} by slot, and should hold {expected}"
        )
        return after, outcome

    def recall(self, state: Any, trial: Trial) -> Any:
        return self.inner.recall(state, trial)

    def skip(self, state: Any, step: int) -> Any:
        return self.inner.skip(state, step)

    def archive_of(self, state: Any) -> Archive:
        return self.inner.archive_of(state)


@dataclass
class _Run:
    """A run with all that became of its children, and what a pool would remember of them."""

    strategy: Strategy
    problem: Problem
    score: Score
    width: int
    eager: bool = True
    stop: bool = False
    failing: int = 0
    genomes: dict[int, Genome] = field(default_factory=dict[int, Genome])
    trials: list[Trial] = field(default_factory=list[Trial])
    slots: list[dict[int, int]] = field(default_factory=list[dict[int, int]])
    log: dict[int, tuple[object, ...]] = field(default_factory=dict[int, tuple[object, ...]])

    def __post_init__(self) -> None:
        self.watched = _Watched(self.strategy)
        self.known: dict[int, Float32] = {}
        self.evolution = Evolution(
            self.problem,
            cast("Strategy", self.watched),
            in_flight=self.width,
            early_stop=self.stop,
        )

    def to(self, steps: int) -> _Run:
        """Go on until so many children were told."""
        evolution = self.evolution
        while evolution.evaluations < steps:
            while evolution.can_ask and evolution.asked < steps:
                self._ask()
                if not self.eager:
                    break
            self._tell()
        return self

    def taken_up(self, strategy: Strategy) -> _Run:
        """The same run in another process, which knows what a pool keeps."""
        old = self.evolution
        out = _Run(strategy, self.problem, self.score, self.width, stop=self.stop)
        out.genomes, out.log = dict(self.genomes), dict(self.log)
        out.trials, out.slots = list(self.trials), list(self.slots)
        champion = None if strategy.subsets is not None else old.champion
        last = out.evolution.resume(old.members, champion)
        if strategy.remembers:
            out.evolution.recall(self.trials)
        else:
            there = sorted(self.slots[last].items()) if last >= 0 else []
            first = [self.trials[member] for _, member in there]
            out.evolution.recall([*first, *self.trials[last + 1 :]])
        return out

    def require_same(self, other: _Run, what: str) -> None:
        """Every child was proposed alike and met the same end."""
        for step, mine in self.log.items():
            require(
                mine == other.log[step],
                f"{what}: child {step} (genome, plan, accepted, slot, evicted) is "
                f"{other.log[step]}; it was {mine}",
            )
        one, two = _sitting(self.evolution.archive), _sitting(other.evolution.archive)
        require(one == two, f"{what}: ends with the members {two} by slot; they were {one}")

    def _ask(self) -> None:
        evolution = self.evolution
        renewal = evolution.renewal
        if renewal is not None and renewal.members:
            plans = list(zip(renewal.members, renewal.plans(), strict=True))
            evolution.renew({m.id: self._answered(plan, m.genome) for m, plan in plans})
        proposal = evolution.ask()
        if proposal.step > 0:
            self._check_proposal(proposal)
        self.genomes[evolution.member_id(proposal.step)] = proposal.genome
        if self.stop:
            plan = evolution.plan_for(proposal)
            self.known[proposal.step] = self._answered(plan, proposal.genome)

    def _tell(self) -> None:
        evolution, proposal = self.evolution, self.evolution.waiting[0]
        step, number = proposal.step, self.evolution.member_id(proposal.step)
        scores: Float32 | None = self.known.pop(step, None)
        if scores is None:
            scores = self.score(proposal.genome)
        elif (plan := evolution.missing(step, scores)) is not None:
            scores = self._answered(plan, proposal.genome)
        if self.failing and step > 0 and step % self.failing == 0:
            scores = None
        outcome = evolution.tell(step, scores)
        member = None
        if outcome.accepted:
            member = Member(number, proposal.genome, proposal.plan.parents, outcome.score or 0.0)
        self.trials.append(Trial(max(0, step), member, outcome.slot, scores))
        self.slots.append(_sitting(evolution.archive))
        found = (digest(proposal.genome), proposal.plan.as_json())
        self.log[step] = (*found, outcome.accepted, outcome.slot, outcome.evicted)

    def _answered(self, plan: EvaluationPlan, genome: Genome) -> Float32:
        truth, asked = self.score(genome), 0
        while not plan.done:
            block = plan.next()
            require(block.size > 0, "an evaluation plan that is not done must ask for something")
            asked += block.size
            require(asked <= truth.size, "an evaluation plan asks for an example twice")
            plan.record(block, truth[block])
        return plan.scores

    def _check_proposal(self, proposal: Proposal) -> None:
        what, plan = f"the child of step {proposal.step}", proposal.plan
        number = self.evolution.member_id(proposal.step)
        try:
            told = json.loads(plan.as_json())
        except ValueError as error:
            raise AssertionError(f"{what}: its plan is no JSON: {plan.as_json()!r}") from error
        require(isinstance(told, dict), f"{what}: its plan must be a JSON object; got {told!r}")
        wrong = [parent for parent in plan.parents if not 0 <= parent < number]
        require(not wrong, f"{what} (member {number}) names parents that are not there: {wrong}")
        genome, merge = proposal.genome, proposal.merge
        kinds = {type(seed) for seed in self.problem.seeds}
        require(
            type(genome) in kinds,
            f"{what} is a {type(genome).__name__}, which the seeds are not: see `dense`",
        )
        if merge is None:
            return
        require(
            merge.sources == len(plan.parents),
            f"{what}: its merge has {merge.sources} sources, and its plan the parents "
            f"{plan.parents}",
        )
        parents = [self.genomes[parent] for parent in plan.parents]
        made = breed(merge, parents, plan.mutation, self.problem.seed, proposal.step)
        require(
            digest(made) == digest(genome),
            f"{what} cannot be made again: `breed` gives another genome for its merge, its parents "
            f"{plan.parents} and its mutation {plan.mutation}",
        )


class _OtherRandomNumbers:
    """Inside, the random numbers that everybody shares are others; afterwards as before."""

    def __enter__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(271828)
        np.random.seed(271828)  # noqa: NPY002

    def __exit__(self, *_: object) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002


def _require_proposed(
    strategy: Strategy, problem: Problem, state: Any, first: Proposal, when: str
) -> None:
    second = strategy.propose(problem, state, first.step)
    same = (
        digest(first.genome) == digest(second.genome)
        and first.plan == second.plan
        and first.plan.as_json() == second.plan.as_json()
    )
    require(
        same,
        f"propose() for step {first.step} gives another child {when}: "
        f"{second.plan.as_json()}, before {first.plan.as_json()}",
    )


def _sitting(archive: Archive) -> dict[int, int]:
    """Slot -> id of who sits there."""
    return {slot: member.id for slot, member in enumerate(archive.members) if member is not None}


def _problem(binary: bool) -> Problem:
    draws = np.random.default_rng(29)
    seeds = [draws.standard_normal(_LENGTH).astype(np.float32) for _ in range(_SEEDS)]
    third = _LENGTH // 3
    tensors = {f"layers.{number}.weight": third for number in range(3)}
    return Problem.of_vectors(seeds, _examples(binary), seed=11, tensors=tensors)


def _examples(binary: bool) -> Examples:
    half = _EXAMPLES // 2
    labels = tuple("abcd"[number % 4] for number in range(half))
    tasks = [TaskExamples(name, half, 1.0, labels) for name in ("one", "two")]
    return lay_out(tasks, binary=binary)


def _scorer(problem: Problem, binary: bool) -> Score:
    """Each example wants a part of one seed, so that it matters who is merged, and where."""
    draws = np.random.default_rng(31)
    count = problem.examples.size
    rows = [problem.vectors[number % len(problem.vectors)] for number in range(count)]
    wanted = np.stack(rows).astype(np.float64)
    wanted *= draws.random(wanted.shape) < 0.5
    wanted += 0.3 * draws.standard_normal(wanted.shape)
    level = (wanted * wanted).sum(axis=1)

    def score(genome: Genome) -> Float32:
        weights = genome.values if isinstance(genome, Vector) else problem.express(genome)
        reached = (wanted * weights.astype(np.float64)).sum(axis=1) / level
        if binary:
            return (reached > 0.55).astype(np.float32)
        return np.clip(4.0 * reached - 1.7, 0.0, 1.0).astype(np.float32)

    return score
