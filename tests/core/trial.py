"""A small problem and a loop over a strategy, as the driver runs it but without pool or workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from genepool.core.archive import Archive, Member
from genepool.core.axis import Axis
from genepool.core.early_stop.lossless import Exam, FullExam
from genepool.core.examples import examples_of
from genepool.core.genome import Genome, Recipe, Vector, digest, seed_recipe
from genepool.strategies import Outcome, Problem, Proposal, Strategy
from tests.core.dense import DenseProducts, densely

Scorer = Callable[[Genome], np.ndarray]


@dataclass
class Trial:
    """What happened in a run, child by child."""

    archive: Archive
    asked: list[int] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)

    @property
    def slots(self) -> list[tuple[int, str] | None]:
        """Id and digest of the member in each slot."""
        return [
            None if member is None else (member.id, digest(member.genome))
            for member in self.archive.members
        ]

    @property
    def accepted(self) -> list[tuple[int | None, int | None]]:
        """Slot and evicted member of each child."""
        return [(outcome.slot, outcome.evicted) for outcome in self.outcomes]


def problem_of(
    draws: np.random.Generator,
    seeds: int = 3,
    size: int = 60,
    examples: int = 60,
    binary: bool = True,
    weighted: bool = False,
    dense: bool = False,
) -> tuple[Problem, Scorer]:
    """Specialists, each able to do its share of the examples, and the scores of any genome."""
    along = Axis(
        np.array([0, size // 4, size // 2, size]), np.array([0, size // 2, size]), ("head", "tail")
    )
    weights = draws.standard_normal((seeds, size)).astype(np.float32).astype(np.float64)
    # What example j asks for lies in one stretch of one seed, so that splits matter.
    wanted = weights[np.arange(examples) % seeds].copy()
    wanted *= draws.random((examples, size)) < 0.5
    wanted += 0.3 * draws.standard_normal((examples, size))
    level = (wanted * wanted).sum(axis=1)

    def score(genome: Genome) -> np.ndarray:
        if isinstance(genome, Recipe):
            values = densely(genome.bounds, genome.coefs, weights)
        else:
            values = genome.values.astype(np.float64)
        reached = (wanted * values).sum(axis=1) / level
        if binary:
            return (reached > 0.55).astype(np.float32)
        return np.clip(4.0 * reached - 1.7, 0.0, 1.0).astype(np.float32)

    limits = draws.choice([0.2, 1.0, 3.0], size=examples) if weighted else np.ones(examples)
    if dense:
        genomes: tuple[Genome, ...] = tuple(Vector(row.astype(np.float32)) for row in weights)
    else:
        genomes = tuple(seed_recipe(size, index, seeds) for index in range(seeds))
    gram = None if dense else DenseProducts(weights)
    return Problem(
        along, gram, examples_of(examples, binary=binary, capacity=limits), genomes, seed=11
    ), score


def run(
    strategy: Strategy,
    problem: Problem,
    score: Scorer,
    steps: int,
    width: int = 1,
    stop: bool = True,
) -> Trial:
    """Breed `steps` children, `width` in flight, absorbed in order.

    Child t is proposed from the archive as it stood after child t - width. What is known of it by
    the time that it is absorbed was asked with the archive of its proposal in mind; what is still
    missing then is asked with the present one.
    """
    archive = strategy.begin(problem)
    for number, genome in enumerate(problem.seeds):
        scores = score(genome)
        member = Member(number, genome, (), problem.examples.mean(scores))
        archive, _ = strategy.absorb(archive, member, 0, scores)
    trial, versions = Trial(archive), {0: archive}
    flying: dict[int, tuple[Proposal, np.ndarray, np.ndarray]] = {}
    unknown = np.full(problem.examples.capacity.size, np.nan, dtype=np.float32)

    def questions(now: Archive, proposal: Proposal, known: np.ndarray) -> Exam | FullExam:
        return strategy.exam(now, proposal, known) if stop else FullExam(known)

    def answered(exam: Exam | FullExam, truth: np.ndarray) -> np.ndarray:
        blocks = problem.examples.blocks
        while not exam.done:
            block = exam.next()
            if blocks is not None:  # never a part of one
                assert np.isin(blocks, blocks[block]).sum() == block.size
            exam.record(block, truth[block])
        return exam.scores

    for step in range(1, steps + 1):
        for upcoming in range(step, min(step + width, steps + 1)):
            if upcoming not in flying:
                then = versions[max(0, upcoming - width)]
                proposal = strategy.propose(problem, then, upcoming)
                truth = score(proposal.genome)
                known = answered(questions(then, proposal, unknown), truth)
                flying[upcoming] = proposal, known, truth
        proposal, known, truth = flying.pop(step)
        now = versions[step - 1]
        if np.isnan(known).any():
            known = answered(questions(now, proposal, known), truth)
        outcome = Outcome(accepted=False, slot=None, evicted=None, fitness=None)
        if not np.isnan(known).any():
            member = Member(
                len(problem.seeds) + step - 1,
                proposal.genome,
                proposal.plan.parents,
                problem.examples.mean(known),
            )
            now, outcome = strategy.absorb(now, member, step, known)
        trial.asked.append(int(np.count_nonzero(~np.isnan(known))))
        trial.outcomes.append(outcome)
        trial.proposals.append(proposal)
        versions[step] = trial.archive = now
    return trial
