"""A small problem, and `Evolution` driven over it without pool or workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genepool.core.archive import Archive
from genepool.core.axis import Axis
from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.examples import examples_of
from genepool.core.genome import Genome, Recipe, Vector, digest, seed_recipe
from genepool.strategies.base import Strategy
from genepool.strategies.evolution import Evolution
from genepool.strategies.problem import Outcome, Problem, Proposal
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
    """Breed `steps` children, `width` in flight, each scored when it is proposed."""
    evolution = Evolution(problem, strategy, in_flight=width, early_stop=stop)
    trial = Trial(evolution.archive)
    blocks, truths, known = problem.examples.blocks, dict[int, np.ndarray](), dict[int, Any]()

    def answered(plan: EvaluationPlan, truth: np.ndarray) -> np.ndarray:
        while not plan.done:
            block = plan.next()
            if blocks is not None:  # never a part of one
                assert np.isin(blocks, blocks[block]).sum() == block.size
            plan.record(block, truth[block])
        return plan.scores

    while evolution.evaluations < steps:
        while evolution.can_ask and evolution.asked < steps:
            proposal = evolution.ask()
            truths[proposal.step] = score(proposal.genome)
            plan = evolution.plan_for(proposal)
            known[proposal.step] = answered(plan, truths[proposal.step])
        proposal = evolution.waiting[0]
        step = proposal.step
        if (plan := evolution.missing(step, known[step])) is not None:
            known[step] = answered(plan, truths[step])
        outcome = evolution.tell(step, known[step])
        if step > 0:
            trial.asked.append(int(np.count_nonzero(~np.isnan(known[step]))))
            trial.outcomes.append(outcome)
            trial.proposals.append(proposal)
    trial.archive = evolution.archive
    return trial
