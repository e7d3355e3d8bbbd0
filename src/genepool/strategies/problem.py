"""What strategies work on and hand out: problems, plans, proposals, outcomes, trials, renewals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Member, Verdict
from genepool.core.axis import ArrayProducts, Axis, InnerProducts
from genepool.core.axis import axis as one_chromosome
from genepool.core.checks import float32, is_whole
from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.examples import Examples, examples_of
from genepool.core.genome import Genome, Recipe, Vector, express, seed_recipe
from genepool.core.slerp import Angle
from genepool.core.subsets import Subset
from genepool.errors import InputError
from genepool.messages import shown

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Problem:
    """What is evolved, and on what it is scored.

    Attributes:
        axis: where the genomes divide.
        gram: inner products of the seeds; None when genomes are vectors.
        examples: what members are scored on.
        seeds: genomes of the seeds, all of one kind; they are the members 0..K-1.
        seed: the random seed.
        tensors: names of the tensors, in axis order; may be empty.
        vectors: the seeds' weights, float32[D] each, where they are held in memory; may be empty.
    """

    axis: Axis
    gram: InnerProducts | None
    examples: Examples
    seeds: tuple[Genome, ...]
    seed: int
    tensors: tuple[str, ...] = ()
    vectors: tuple[Float32, ...] = ()

    @classmethod
    def of_vectors(
        cls,
        seeds: Sequence[NDArray[np.floating]],
        examples: int | Examples,
        *,
        binary: bool = True,
        seed: int = 0,
        tensors: Mapping[str, int] | None = None,
    ) -> Problem:
        """A problem whose seed models are arrays in memory.

        Args:
            seeds: the seed models, float[D] each: all weights of a model laid end to end.
            examples: number of examples that a model is scored on, or the examples themselves.
            binary: every score is 0 or 1; false: any number from 0 to 1. Only with a number.
            seed: the random seed.
            tensors: name -> number of weights, in the order in which they are laid; strategies that
                treat layers apart need it. None: all weights are one tensor.

        Raises:
            InputError: there are no seeds, they are no vectors of one length of finite numbers, the
                tensors do not fill them, the random seed is no whole number, or there are no
                examples.
        """
        vectors = tuple(float32(seed_model, "seeds").copy() for seed_model in seeds)
        shapes = {vector.shape for vector in vectors}
        if len(shapes) != 1 or len(vectors[0].shape) != 1 or not vectors[0].size:
            raise InputError(
                f"seeds must be vectors of one length; got shapes {[v.shape for v in vectors]}"
            )
        for number, vector in enumerate(vectors):
            if not bool(np.isfinite(vector).all()):
                raise InputError(f"seed {number} holds NaN or infinity")
            vector.setflags(write=False)
        if not isinstance(examples, Examples):
            if not (is_whole(examples) and examples >= 1):
                raise InputError(f"expected a number of examples, at least 1; got {examples!r}")
            examples = examples_of(int(examples), binary=binary)
        if not is_whole(seed):
            raise InputError(f"the random seed must be a whole number; got {shown(seed)}")
        size = vectors[0].size
        sizes = [size] if tensors is None else list(tensors.values())
        if min(sizes, default=0) < 1 or sum(sizes) != size:
            raise InputError(f"tensors must fill {size} weights; got the sizes {sizes}")
        return cls(
            one_chromosome(size, list(accumulate(sizes))),
            ArrayProducts(vectors),
            examples,
            tuple(seed_recipe(size, number, len(vectors)) for number in range(len(vectors))),
            int(seed),
            tuple(tensors or ("weights",)),
            vectors,
        )

    def express(self, genome: Genome) -> Float32:
        """The weights of a genome, float32[D], where the seeds are held in memory (`of_vectors`).

        Raises:
            InputError: they are not, or what is given is no genome.
        """
        if isinstance(genome, Vector):
            return genome.values
        if not isinstance(cast("object", genome), Recipe):
            raise InputError(f"expected a genome, such as proposal.genome; got {shown(genome)}")
        if not self.vectors:
            raise InputError("this problem does not hold the weights of its seeds")
        return express(genome, self.vectors)

    def require_scores(self, scores: Float32) -> None:
        """Refuse what is not one score per example, NaN where it was not asked.

        Raises:
            InputError: a shape or a value.
        """
        size = self.examples.size
        if scores.shape != (size,):
            raise InputError(f"expected {size} scores, one per example; got shape {scores.shape}")
        # These leave NaN out.
        low, high = np.fmin.reduce(scores), np.fmax.reduce(scores)
        if low < 0 or high > 1:
            raise InputError(f"scores must be in [0, 1]; got {low if low < 0 else high}")
        if self.examples.binary and np.count_nonzero(scores) != np.count_nonzero(
            (scores == 1) | (scores != scores)
        ):
            raise InputError("scores must be 0 or 1, as the problem's examples are binary")

    def densely(self) -> Problem:
        """The same problem over dense genomes, for strategies that add noise or draw weights.

        Raises:
            InputError: the weights of the seeds are not held in memory.
        """
        if not any(isinstance(seed, Recipe) for seed in self.seeds):
            return self
        seeds = tuple(Vector(self.express(seed)) for seed in self.seeds)
        return replace(self, gram=None, seeds=seeds)


class Origins(Protocol):
    """What was drawn to make a child: the plan of any strategy."""

    @property
    def parents(self) -> tuple[int, ...]:
        """Member ids; empty for a seed."""
        ...

    @property
    def mutation(self) -> float:
        """Standard deviation of the noise added; 0 for none."""
        ...

    def as_json(self) -> str:
        """For people and reports; a child is made again from its merge."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that makes a child by merging.

    Attributes:
        parents: member ids; one without crossover, else two; empty for a seed.
        ratio: SLERP ratio left of the first split, in [0, 1]; it and its complement take turns.
        splits: positions, equally many per chromosome.
        angle: over what the SLERP angle is measured.
        mutation: standard deviation of the normal noise added; 0 for none.
    """

    parents: tuple[int, ...]
    ratio: float
    splits: tuple[int, ...]
    angle: Angle
    mutation: float

    def as_json(self) -> str:
        """For people and reports; a child is made again from its merge."""
        parents, places = ", ".join(map(str, self.parents)), ", ".join(map(str, self.splits))
        return (
            f'{{"parents": [{parents}], "ratio": {float(self.ratio)!r}, "splits": [{places}], '
            f'"angle": "{self.angle}", "mutation": {float(self.mutation)!r}}}'
        )


@dataclass(frozen=True, eq=False, slots=True)
class Proposal:
    """A model to be scored: a child, or a seed.

    Attributes:
        step: the number of the child, from 1. Seeds come before: K of them have the steps 1-K..0.
        plan: how it came about.
        merge: recipe over the parents, with the coefficients that the plan led to. With it the
            child can be made again from its parents without any inner product. None for a seed, and
            for a child whose weights were drawn.
        genome: how the model is made; `Problem.express` gives its weights.
    """

    step: int
    plan: Origins
    merge: Recipe | None
    genome: Genome


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a child, or seed.

    Attributes:
        verdict: what became of it.
        slot: where it entered the archive; None unless accepted.
        evicted: id of the member that it replaced; None if the slot was empty, or not accepted.
        fitness: its fitness among archive and child; None where it was not fully scored.
        score: mean score on the examples that it was to be scored on, in [0, 1]; None where it was
            not fully scored.
        leads: it is the new champion.
        forget: ids of members whose weights nobody needs any more; they can be made again.
    """

    verdict: Verdict
    slot: int | None
    evicted: int | None
    fitness: float | None
    score: float | None = None
    leads: bool = False
    forget: tuple[int, ...] = ()

    @property
    def accepted(self) -> bool:
        """It entered the archive."""
        return self.verdict is Verdict.ACCEPTED


REJECTED = Outcome(Verdict.REJECTED, slot=None, evicted=None, fitness=None)


@dataclass(frozen=True, eq=False, slots=True)
class Trial:
    """What a pool remembers of one absorbed child, or seed, for resuming.

    Attributes:
        step: of the child, from 1; 0 for a seed.
        member: the member; None unless it was accepted.
        slot: where it went; None unless it was accepted.
        scores: float32[N], NaN where not asked; None if it failed, or broke a guard.
    """

    step: int
    member: Member | None
    slot: int | None
    scores: Float32 | None


@dataclass(frozen=True, eq=False, slots=True)
class Renewal:
    """The archive must be asked other examples, before the next child can be proposed.

    Attributes:
        subset: the examples that members compete for from now on.
        members: the members of the archive that were not asked all of these before.
        known: float32[N] for each of them, NaN where it was not asked.
    """

    subset: Subset
    members: tuple[Member, ...]
    known: tuple[Float32, ...]

    def plans(self) -> list[EvaluationPlan]:
        """What to ask each of the members; `plan.scores` is then what is known of it."""
        part = self.subset.part
        return [self.subset.whole(FullPlan(part(known)), known) for known in self.known]
