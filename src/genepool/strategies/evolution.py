"""The loop of evolution as a value that anyone can drive: ask and tell.

    problem = Problem.of_vectors([weights_a, weights_b], examples=100)
    evolution = Evolution(problem, M2N2(archive=10))
    while evolution.evaluations < 1000:
        proposal = evolution.ask()
        evolution.tell(proposal.step, score(problem.express(proposal.genome)))
    best = problem.express(evolution.champion.genome)

The seeds come first, then the children. That is all that a caller needs who scores every model on
every example. Who wants to save examples asks `plan_for` whom to ask what, and when to stop; who
scores many models at once says how many are `in_flight`; who asks only a part of the examples at a
time (`M2N2(share=0.25)`) answers `renewal`. `genepool.evolve` does all of this over a pool.

Children are taken in the order in which they were proposed, and child t is proposed from the
archive as it stood after child t - W, where W are in flight. So what comes out is a function of the
problem, the strategy and W, whenever and wherever the scores were computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.core.archive import Archive, Member, Verdict
from genepool.core.champion import first_best
from genepool.core.checks import float32, is_whole
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.subsets import Subset, draw_subset, everything
from genepool.errors import InputError
from genepool.messages import count, shown
from genepool.strategies.base import Strategy
from genepool.strategies.problem import REJECTED, Outcome, Plan, Problem, Proposal, Renewal, Trial
from genepool.strategies.retention import Retention

Float32 = NDArray[np.float32]

_OF_SEED = Plan((), 1.0, (), "global", 0.0)
_STOPPED = replace(REJECTED, verdict=Verdict.STOPPED)


@dataclass(slots=True)
class _Flight:
    """A proposal in flight, the plan by which it is being asked, and the state that plan is of."""

    proposal: Proposal
    plan: EvaluationPlan | None = None
    met: Any = None


def _hold(scores: Float32, answered: Float32) -> bool:
    """Whether all that a plan was answered is among the scores that are told."""
    return scores is answered or not np.isnan(scores[~np.isnan(answered)]).any()


class Evolution:
    """One run, in memory: who is proposed, who survives, who is champion.

    Attributes:
        problem: what is evolved; over dense genomes where the strategy needs these.
        strategy: who proposes and decides.
        in_flight: number W of proposals that may wait for their scores.
        early_stop: `plan_for` stops asking a child once it is certain that it is rejected.
        champion: the best of all that were ever accepted, the first of equals; None before that.
            While members compete for subsets of the examples: of those that were in the archive
            since this subset was drawn, by their scores on it.
    """

    def __init__(
        self, problem: Problem, strategy: Strategy, *, in_flight: int = 1, early_stop: bool = True
    ) -> None:
        """Begin before anything is scored.

        Args:
            problem: what is evolved.
            strategy: who proposes and decides, for instance `M2N2(archive=20)`.
            in_flight: number W of proposals that may wait for their scores, at least 1.
            early_stop: see `plan_for`; what survives is the same either way.

        Raises:
            InputError: W is no number or below 1, there are no seeds, problem or strategy is none,
                or it needs dense genomes and the problem does not hold the weights of its seeds.
            ConfigError: the strategy's options do not go together, or do not fit the problem.
            MissingExtraError: the strategy needs a package that is not installed.
        """
        if not isinstance(cast("object", problem), Problem):
            raise InputError(f"expected a problem, of Problem.of_vectors; got {shown(problem)}")
        proposes = getattr(strategy, "propose", None)  # What acts like a strategy will do.
        if isinstance(cast("object", strategy), type) or not callable(proposes):
            raise InputError(f"expected a strategy, such as M2N2(); got {shown(strategy)}")
        if not is_whole(in_flight) or in_flight < 1 or not problem.seeds:
            raise InputError(
                "expected at least one proposal in flight and at least one seed; "
                f"got {shown(in_flight)} and {len(problem.seeds)}"
            )
        strategy.check(in_flight)
        self.problem = problem.densely() if strategy.dense else problem
        self.strategy, self.in_flight, self.early_stop = strategy, in_flight, early_stop
        self.champion: Member | None = None
        self._subsets = strategy.subsets
        self._unknown = np.full(problem.examples.size, np.nan, dtype=np.float32)
        # Seeds and children that were told.
        self._told = 0
        self._flights: dict[int, _Flight] = {}
        # States after the last W children, by their number: what proposals are made from.
        self._versions: dict[int, Any] = {}
        # With subsets, what is known of the members of the archive.
        self._known: dict[int, Float32] = {}
        self._retention = Retention({}, (), in_flight, len(problem.seeds))
        # What `weigh` found, until `tell`.
        self._weighed: tuple[int, Float32, Any, Member | None, Outcome] | None = None
        self._subset = self._drawn(0)
        self._versions[0] = self._begin()

    def __repr__(self) -> str:
        now = f"{count(self.evaluations, 'evaluation')}, {len(self._flights)} in flight"
        best = "" if self.champion is None else f", best {self.champion.train:.4g}"
        return f"<Evolution by {self.strategy.name}: {now}{best}>"

    # Where the run stands

    @property
    def members(self) -> int:
        """Number of seeds and children that were told."""
        return self._told

    @property
    def evaluations(self) -> int:
        """Number of children that were told."""
        return max(0, self._told - len(self.problem.seeds))

    @property
    def asked(self) -> int:
        """Number of children that were proposed."""
        return max(0, self._told + len(self._flights) - len(self.problem.seeds))

    @property
    def archive(self) -> Archive:
        """The members that compete at present."""
        return self.strategy.archive_of(self._versions[self.evaluations])

    @property
    def subset(self) -> Subset:
        """The examples that members compete for at present; all of them without subsets."""
        return self._subset

    @property
    def waiting(self) -> tuple[Proposal, ...]:
        """Proposals whose scores have not been told, the oldest first."""
        return tuple(flight.proposal for flight in self._flights.values())

    @property
    def can_ask(self) -> bool:
        """Whether `ask` may be called before the oldest proposal in flight is told.

        Fewer than W are in flight, and the next is not the first child while seeds are in flight,
        nor the first of a new subset while children of the last one are.
        """
        step = self._next_step
        if not self._flights:
            return True
        if len(self._flights) >= self.in_flight or (step > 0) != (self._oldest > 0):
            return False
        return self._subset.stop is None or step <= self._subset.stop

    def member_id(self, step: int) -> int:
        """The id that the child of a step gets: seeds come first, from 0."""
        return len(self.problem.seeds) + step - 1

    # Ask and tell

    def ask(self) -> Proposal:
        """The next model to be scored: the seeds in their order (steps 1-K..0), then children.

        Raises:
            InputError: the oldest proposal in flight must be told first, or `renewal` answered.
        """
        if not self.can_ask:
            raise InputError(f"tell step {self._oldest}, the oldest in flight, before asking again")
        renewal = self.renewal
        if renewal is not None:
            if renewal.members:
                raise InputError(
                    "members compete for other examples from now on, which "
                    f"{len(renewal.members)} of the archive must be asked first: see `renewal` and "
                    "`renew`"
                )
            self.renew({})
        step = self._next_step
        if step > 0:
            state = self._versions[self._met_by(step)]
            proposal = self.strategy.propose(self.problem, state, step)
        else:
            proposal = Proposal(step, _OF_SEED, None, self.problem.seeds[self.member_id(step)])
        self._flights[step] = _Flight(proposal)
        return proposal

    def plan_for(self, proposal: Proposal) -> EvaluationPlan:
        """Which examples to ask a proposal in flight, in what order, and when to stop.

            plan = evolution.plan_for(proposal)
            while not plan.done:
                at = plan.next()
                plan.record(at, score(weights, at))
            evolution.tell(proposal.step, plan.scores)

        With an early stop a child is asked until it is certain that it is rejected (or likely
        enough, where the strategy takes a risk); a seed is asked everything.
        """
        flight = self._flights.get(proposal.step)
        if flight is None:
            raise InputError(f"no proposal of step {proposal.step} is in flight")
        if proposal.step > 0:
            flight.met = self._versions[self._met_by(proposal.step)]
            flight.plan = self._plan(flight.met, proposal, self._unknown)
        else:
            flight.plan = FullPlan(self._unknown)
        return flight.plan

    def missing(self, step: int, scores: ArrayLike) -> EvaluationPlan | None:
        """What must still be asked of the oldest proposal before it can be told; None: nothing.

        Nothing is missing where every example was asked. Where `plan_for` stopped early and W is
        above 1, the archive may have moved on meanwhile, and what was certain then may not be now.

        Args:
            step: of the oldest proposal in flight.
            scores: float32[N], NaN where not asked.

        Raises:
            InputError: another proposal is the oldest, or scores are missing for no reason.
        """
        step = self._require_due(step)
        scores = float32(scores, "scores")
        flight, state = self._flights[step], self._versions[max(0, step - 1)]
        plan = flight.plan
        done = plan is not None and flight.met is state and plan.done
        if plan is not None and done and _hold(scores, plan.scores):
            return None
        part = scores if step <= 0 else self._subset.part(scores)
        if not np.isnan(part).any():
            return None
        if plan is None or done or flight.met is not state:
            if plan is None or done or step <= 0:
                raise InputError(
                    f"the proposal of step {step} has {int(np.isnan(part).sum())} of {part.size} "
                    "scores missing (NaN), and `plan_for` did not say that they may be"
                )
            plan = self._plan(state, flight.proposal, scores)
            flight.met, flight.plan = state, plan
        return None if plan.done else plan

    def weigh(self, step: int, scores: ArrayLike) -> Outcome:
        """What would become of the oldest proposal in flight, if it were told these scores.

        For who asks more of a child that would be accepted, before it is: see `refused` of `tell`.

        Raises:
            InputError: as `tell`.
        """
        step = self._require_due(step)
        scores = float32(scores, "scores")
        state, member, outcome = self._decide(step, scores)
        self._weighed = (step, scores.copy(), state, member, outcome)
        return outcome

    def tell(self, step: int, scores: ArrayLike | None, *, refused: bool = False) -> Outcome:
        """Take the scores of the oldest proposal in flight, and say what became of it.

        Args:
            step: `proposal.step`. Scores are told in the order in which proposals were made: when
                a later one is ready first, keep it until its turn.
            scores: float32[N] in [0, 1], one score per example; NaN where `plan_for` has not asked.
                None for a child that could not be scored: it takes no part.
            refused: the child breaks a rule that is not the strategy's; it is to the strategy like
                one that failed.

        Raises:
            InputError: another proposal is the oldest, a score is missing or outside [0, 1], or a
                seed could not be scored or is refused.
        """
        step = self._require_due(step)
        proposal = self._flights[step].proposal
        if step <= 0 and (scores is None or refused):
            got = "None" if scores is None else "'refused'"
            raise InputError(f"seed {self.member_id(step)} must be scored; got {got}")
        if scores is None:
            failed = replace(REJECTED, verdict=Verdict.FAILED)
            return self._close(proposal, self._skipped(step), failed)
        given = float32(scores, "scores")
        weighed = self._weighed
        if weighed and weighed[0] == step and np.array_equal(weighed[1], given, equal_nan=True):
            _, _, state, member, outcome = weighed
        else:
            state, member, outcome = self._decide(step, given)
        if refused:
            fitness, score = outcome.fitness, outcome.score
            outcome = replace(REJECTED, verdict=Verdict.GUARDED, fitness=fitness, score=score)
            return self._close(proposal, self._skipped(step), outcome)
        if member is not None and outcome.accepted:
            if self._subsets is not None:
                self._known[member.id] = given.copy()
                if outcome.evicted is not None:
                    self._known.pop(outcome.evicted, None)
            outcome = replace(outcome, leads=self._lead(member))
        return self._close(proposal, state, outcome)

    def _decide(self, step: int, scores: Float32) -> tuple[Any, Member | None, Outcome]:
        """The state after a proposal, the member if it was fully scored, and what became of it."""
        self.problem.require_scores(scores)
        part = self._subset.part(scores)
        if np.isnan(part).any():
            if self.missing(step, scores) is not None:
                raise InputError(
                    f"the proposal of step {step} must be asked more examples: see `missing`"
                )
            return self._skipped(step), None, _STOPPED
        proposal, mean = self._flights[step].proposal, self._subset.examples.mean(part)
        member = Member(self.member_id(step), proposal.genome, proposal.plan.parents, mean)
        before = self._versions[max(0, step - 1)]
        state, outcome = self.strategy.absorb(before, member, max(0, step), part)
        if step > 0:
            return state, member, replace(outcome, score=mean)
        # Seeds are asked everything, whatever they compete for.
        if self.missing(step, scores) is not None:
            raise InputError(f"seed {member.id} must be scored on all examples")
        return state, member, replace(outcome, score=self.problem.examples.mean(scores))

    def _skipped(self, step: int) -> Any:
        return self.strategy.skip(self._versions[step - 1], step)

    def _close(self, proposal: Proposal, state: Any, outcome: Outcome) -> Outcome:
        """The proposal has landed: what follows is made from the state after it."""
        step = max(0, proposal.step)
        del self._flights[proposal.step]
        self._weighed = None
        self._told += 1
        self._versions[step] = state
        self._versions.pop(step - self.in_flight, None)
        champion = None if self.champion is None else self.champion.id
        forget = self._retention.forget(proposal, outcome, champion)
        return replace(outcome, forget=forget) if forget else outcome

    def _require_due(self, step: int) -> int:
        """The step of the oldest proposal in flight, a plain number.

        Raises:
            InputError: another one is given.
        """
        if not self._flights or step != self._oldest:
            due = f"step {self._oldest}" if self._flights else "nothing"
            order = "proposals are told in the order in which they were asked"
            raise InputError(f"{order}: expected {due}; got step {shown(step)}")
        return self._oldest

    def _lead(self, member: Member) -> bool:
        """Whether a member is better than the champion, and so the champion from now on."""
        now = self.champion or member
        best = first_best({now.id: now.train, member.id: member.train})
        self.champion = member if best == member.id else now
        return best == member.id

    @property
    def _next_step(self) -> int:
        return self._told + len(self._flights) - len(self.problem.seeds) + 1

    @property
    def _oldest(self) -> int:
        return next(iter(self._flights))

    def _met_by(self, step: int) -> int:
        """The number of children after which child `step` is proposed."""
        return max(self._subset.start, step - self.in_flight)

    def _plan(self, state: Any, proposal: Proposal, known: Float32) -> EvaluationPlan:
        part = self._subset.part(known)
        if self.early_stop:
            plan = self.strategy.evaluation_plan(state, proposal, part)
        else:
            plan = FullPlan(part)
        return self._subset.whole(plan, known)

    # Subsets: a part of the examples at a time

    @property
    def renewal(self) -> Renewal | None:
        """Other examples, where those of now are used up: answer with `renew`; else None.

        `ask` does it by itself where all that is needed is known, because every child was told all
        its scores.
        """
        if self._subsets is None or self._flights or self.evaluations != self._subset.stop:
            return None
        subset = self._drawn(self._subset.number + 1)
        members = [member for member in self.archive.members if member is not None]
        new = [m for m in members if np.isnan(subset.part(self._known[m.id])).any()]
        return Renewal(subset, tuple(new), tuple(self._known[member.id] for member in new))

    def renew(self, scores: Mapping[int, ArrayLike | None]) -> None:
        """From now on members compete for the examples of `renewal`.

        Args:
            scores: float32[N] by the id of each member of `renewal`, NaN where it was never asked;
                None for one that could not be scored: it leaves the archive.

        Raises:
            InputError: there is no renewal, or scores of its members on its examples are missing or
                wrong.
        """
        renewal, before = self.renewal, self.archive
        if renewal is None:
            raise InputError("there are no other examples to compete for at present")
        given = {
            member: None if found is None else float32(found, "scores").copy()
            for member, found in scores.items()
        }
        for member in renewal.members:
            found = given.get(member.id, self._unknown)
            if found is None:
                continue
            self.problem.require_scores(found)
            if np.isnan(renewal.subset.part(found)).any():
                raise InputError(f"member {member.id} must be scored on the examples of `renewal`")
        done = self.evaluations
        self._subset = renewal.subset
        state, self.champion = self._begin(), None
        known, self._known = {**self._known, **given}, {}
        for slot, member in enumerate(before.members):
            found = None if member is None else known[member.id]
            if member is not None and found is not None:
                state = self._survive(state, Trial(done, member, slot, found))
        self._versions = {done: state}

    def _drawn(self, number: int) -> Subset:
        if self._subsets is None:
            return everything(self.problem.examples)
        return draw_subset(self._subsets, number, self.problem.examples, self.problem.seed)

    def _begin(self) -> Any:
        """The strategy's state before anybody is in the archive, for these examples."""
        problem = replace(self.problem, examples=self._subset.examples)
        return self.strategy.begin(problem, self.in_flight)

    def _survive(self, state: Any, trial: Trial) -> Any:
        """The state with what is remembered of one child, on the examples of now."""
        scores, member = trial.scores, trial.member
        if scores is not None:
            part = self._subset.part(scores)
            if member is not None:
                member = replace(member, train=self._subset.examples.mean(part))
                if self._subsets is not None:
                    self._known[member.id] = scores
                    self._lead(member)
            trial = replace(trial, member=member, scores=part)
        return self.strategy.recall(state, trial)

    # Resuming

    def resume(
        self,
        members: int,
        champion: Member | None = None,
        retired: Mapping[int, int] | None = None,
        kept: Collection[int] = (),
    ) -> int:
        """Go on after so many members, of which `recall` is to be told next.

        Args:
            members: number of seeds and children that were absorbed in earlier sessions.
            champion: of these sessions; without subsets.
            retired: members that have left the archive and whose weights have not been forgotten
                -> the step at which they left.
            kept: members whose weights are never to be forgotten.

        Returns:
            The id of a member. `recall` first those who were in the archive after it (all up to it,
            if the strategy `remembers`), by slot, then all later ones, in order.
        """
        self._told, self.champion = members, champion
        seeds = len(self.problem.seeds)
        self._retention = Retention(retired or {}, kept, self.in_flight, seeds)
        if self._subsets is not None:
            self._subset = self._drawn(self._subsets.number_after(self.evaluations))
            since = self._subset.start
        else:
            since = max(0, self.evaluations - self.in_flight + 1)
        self._known, self._versions = {}, {since: self._begin()}
        return self.member_id(since)

    def recall(self, trials: Iterable[Trial]) -> None:
        """Take in what was decided in earlier sessions; see `resume`."""
        for trial in trials:
            latest = max(self._versions)
            state = self._survive(self._versions[latest], trial)
            self._versions[max(latest, trial.step)] = state
            self._versions.pop(trial.step - self.in_flight, None)
