"""Lossless early stop: which examples to ask a child, in what order, and when it is settled.

M2N2 rejects most children. A child is certain to be rejected as soon as, for every member i, the
difference of their fitnesses stays negative even if the child did as well as it can on every
example not yet asked. Per example that best case is the largest value over the child's score s of

    c(s) * (s - s_ij) / (z_j + s)^alpha,

the child's share less member i's with the child counted in the contest. For 0/1 scores, and
whenever alpha <= 2, it is reached at s = 1.

With a baseline all scores here are what they are above b_j, the archive's worst. A child whose s is
below it takes it down with itself, which changes c and z, while the difference s - s_ij is what it
was: negative. So the best case lies above b_j, where nothing has changed but that the highest score
is 1 - b_j.

Asked first are the examples that are expected to settle it: what failing one costs the child
against the member that it comes closest to beating, times the chance that it fails.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive
from genepool.core.competition import TIE, prices
from genepool.core.early_stop.evaluation_plan import answered

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Margin by which a bound must be beaten, relative to all that is summed up in it: above rounding
# and above the tie rule of `niches`, below anything that a score can express.
_MARGIN = 10 * TIE

_ALL = slice(None)

# Chance that a child fails an example that its parents solve, and one that none of them solves; and
# how much the whole archive says about it, beside the parents. (Measured on the digits: without the
# archive 7 % more is asked from scratch, 2 % less from specialists.)
_FAIL_SOLVED, _FAIL_UNSOLVED = 0.05, 0.95
_ARCHIVE = 0.25
# What being solved by everybody concerned takes from that chance.
_SOLVED = _FAIL_UNSOLVED - _FAIL_SOLVED

# A block is what should settle the child if the chances were true, times this, within limits given
# as shares of all examples: small blocks stop sooner, large ones cost fewer round trips.
_EAGER, _SMALLEST, _LARGEST = 0.7, 1 / 56, 1 / 4


@dataclass(frozen=True, eq=False, slots=True)
class Bounds:
    """Best and worst cases of one archive, against each of its members.

    Both are linear in the members' scores, so that a few numbers per example say them all.

    Attributes:
        scores: float64[P, N], the members', less the baseline like all that follows.
        top: float64[N], the highest score.
        full: float64[N], what a score of 1 on each example pays if the child solves it.
        excess: float64[P, N], by how much a score between 0 and 1 can do better than 1; None where
            it cannot.
        swing: float64[N, P], what failing each example takes from the best case.
        totals: float64[P], best case over all examples of (child's fitness - member's).
        loss: float64[N], what failing costs against the member that is easiest to beat.
        worth: float64[N], what failing is expected to cost a child of parents that solve nothing.
        margin: how far below 0 every total must be; infinite where no child of this archive can be
            rejected for certain before everything is asked.
    """

    scores: Float64
    top: Float64
    full: Float64
    excess: Float64 | None
    swing: Float64
    totals: Float64
    loss: Float64
    worth: Float64
    margin: float
    _relief: dict[int | None, Float64] = field(default_factory=dict[int | None, Float64])

    def relief(self, archive: Archive, slot: int | None) -> Float64:
        """How much less failing is to be expected of a child all of whose weights come from `slot`.

        float64[N]; None stands for a parent that has left the archive, as able as the average.
        """
        found = self._relief.get(slot)
        if found is None:
            parent = archive.average if slot is None else archive.scores[slot]
            found = self._relief[slot] = (1 - _ARCHIVE) * _SOLVED * self.loss * parent
        return found

    def best(self, at: Int64 | slice = _ALL) -> Float64:
        """Best case of (child's share - member's), float64[P, n], on the examples `at`."""
        values = (self.top[at] - self.scores[:, at]) * self.full[at]
        return values if self.excess is None else values + self.excess[:, at]


# Most children leave the archive as it is, so bounds are kept, but no longer than their archive:
# both are as large as all the scores in it.
_kept: WeakKeyDictionary[Archive, Bounds] = WeakKeyDictionary()


def bounds(archive: Archive) -> Bounds:
    """The bounds for children that meet this archive."""
    found = _kept.get(archive)
    if found is None:
        found = _kept[archive] = _bounds(archive)
    return found


def _bounds(archive: Archive) -> Bounds:
    scores, zeros, ones = archive.standing, np.zeros_like(archive.best), np.ones_like(archive.best)
    full, none = prices_at(archive, ones), prices_at(archive, zeros)
    top, gain, most = ones, full, none
    if archive.worst is not None:
        top = 1.0 - archive.worst
        gain, most = top * full, prices_at(archive, archive.worst)
    # With continuous scores and alpha > 2 an example that nobody claims pays the more the less it
    # is solved, without limit. And to a member of fitness 0 (an empty slot) every child is equal.
    fierce = not archive.examples.binary and archive.alpha > 2
    certain = archive.fitness.min() > 0 and not (fierce and archive.contest.min() == 0)
    excess = _excess(archive, full) if fierce else None
    more = 0.0 if excess is None else excess.sum(axis=1)
    totals = gain.sum() - scores @ full + more
    scale = float((gain.sum() - scores @ (full - most) + more).max())
    # A copy always: of one example the transposed scores are the (read-only) scores themselves.
    swing = scores.T.copy()
    swing *= (full - none)[:, None]
    swing -= gain[:, None]
    if archive.worst is not None:
        swing -= (archive.worst * none)[:, None]
    if excess is not None:
        swing -= excess.T
    loss = -swing[:, int(totals.argmax())]
    worth = (_FAIL_UNSOLVED - _ARCHIVE * _SOLVED * archive.average) * loss
    return Bounds(
        *(scores, top, full, excess, swing, totals, loss, worth),
        _MARGIN * scale if certain else math.inf,
    )


def prices_at(archive: Archive, child: Float64, at: Int64 | slice = _ALL) -> Float64:
    """What a score of 1 pays on the examples `at`, float64[n], if the child scores this."""
    examples = archive.examples
    price, best, contest = examples.capacity[at], archive.best[at], archive.contest[at]
    if archive.worst is not None:
        # A child below the worst lifts all others above it.
        lift = np.maximum(archive.worst[at] - child, 0.0)
        child = np.maximum(child - archive.worst[at], 0.0)
        best, contest = best + lift, contest + lift * len(archive.members)
    if archive.scaled:
        price = price * np.maximum(best, child)
    return prices(contest + child, price, archive.alpha)


def keys(worth: Float64) -> NDArray[np.uint16]:
    """Rank keys that fall as worth rises, to 1 in 65,534 of the largest: uint16[N].

    Small integers are sorted by radix, in a fifth of the time; ties keep the order of the examples,
    so that the result does not depend on the processor.
    """
    top = max(float(worth.max()), float(np.finfo(np.float64).tiny))
    return (65534.0 - worth * (65534.0 / top)).astype(np.uint16)


def _excess(archive: Archive, full: Float64) -> Float64:
    """By how much the best case exceeds that of solving the example, float64[P, N].

    Scores between 0 and 1 and fierce fighting: the largest value may lie where the derivative is 0,
    in the stretch where the capacity is constant (up to the archive's best score, `top`) or in the
    one where it is the child's score. Up to alpha 2 the value only rises: for s > a, as z >= top,
    1 / s + 1 / (s - a) >= 2 / (z + s).
    """
    alpha, z, top = archive.alpha, archive.contest, archive.best
    worst = 0.0 if archive.worst is None else archive.worst
    excess = np.zeros_like(archive.scores)
    for row, scores in enumerate(archive.standing):
        level = (z + alpha * scores) / (alpha - 1.0)
        # (alpha - 2) s^2 - (2 z + (alpha - 1) a) s + a z = 0, the larger root.
        middle = 2.0 * z + (alpha - 1.0) * scores
        root = np.sqrt(np.maximum(middle * middle - 4.0 * (alpha - 2.0) * scores * z, 0.0))
        rising = (middle + root) / (2.0 * (alpha - 2.0))
        for candidate in (np.clip(level, 0.0, top), np.clip(rising, top, 1.0 - worst)):
            value = (candidate - scores) * prices_at(archive, candidate + worst)
            np.maximum(excess[row], value - (1.0 - worst - scores) * full, out=excess[row])
    return excess


@dataclass(frozen=True, eq=False, slots=True)
class Rule:
    """How a plan for 0/1 scores goes on, in plain arrays.

    The order is that of falling `worth`: of rising `keys`, equal ones as they are stored. Let
    `expected` be the running sums of `worth` in that order. Start with `done` = 0 examples asked.
    While `done < N` and `max(totals) >= -margin`: if the margin is infinite, ask all that is left;
    else let `enough` be the number of `expected` that are below
    `(expected[done - 1] if done else 0) + eager * max(totals)`, plus 1, less `done`; limit it to
    `smallest` .. `largest`, round it up to a multiple of `grain`, and ask so many; then add to
    `totals` the sum, row by row, of `swing` at the examples that were failed.

    Attributes:
        worth: float64[N], at least 0.
        swing: float64[N, P].
        totals: float64[P].
        margin, eager, smallest, largest, grain: see above.
    """

    worth: Float64
    swing: Float64
    totals: Float64
    margin: float
    eager: float
    smallest: int
    largest: int
    grain: int


class LosslessPlan:
    """One child's evaluation, against one archive.

    Not a value: `record` moves it on. What it asks is a function of its arguments and the answers,
    so that the partial scores of a stopped child repeat like everything else of a run.

    Attributes:
        scores: float32[N], NaN where the child has not been asked.
    """

    def __init__(
        self,
        archive: Archive,
        parents: Sequence[tuple[int | None, float]],
        known: NDArray[np.float32],
    ) -> None:
        """Prepare to ask for what is not known.

        Args:
            archive: the archive that the child will meet.
            parents: slot of each parent (None if it has left the archive) and the share of the
                child's weights that comes from it.
            known: float32[N], NaN where the child has not been asked.
        """
        self.scores = known.copy()
        self._archive = archive
        self._bounds = bounds(archive)
        self._totals = self._bounds.totals.copy()
        self._lead = float(self._totals.max())
        self._known = known == known  # not NaN
        asked = int(np.count_nonzero(self._known))
        if asked:
            (at,) = np.nonzero(self._known)
            self._count(at, known[at])
        self._worth = self._bounds.worth.copy()
        for slot, share in parents:
            self._worth -= share * self._bounds.relief(archive, slot)
        self._next, self._left = 0, known.size - asked

    @cached_property
    def _order(self) -> Int64:
        """int64[M], the examples not known, in the order in which they are asked."""
        blocks = self._archive.examples.blocks
        ranks = keys(self._worth) if blocks is None else _block_ranks(self._worth, blocks)
        # What has been asked already comes last.
        ranks[self._known] = np.iinfo(ranks.dtype).max
        return np.argsort(ranks, kind="stable")[: self._left]

    @cached_property
    def _expected(self) -> Float64:
        """float64[M], what failing in this order is expected to cost, so far."""
        return self._worth.take(self._order).cumsum()

    @cached_property
    def _ends(self) -> Int64 | None:
        """Where a block may end; None for at any multiple of the grain."""
        blocks = self._archive.examples.blocks
        return None if blocks is None else ends_of(blocks[self._order])

    @property
    def rule(self) -> Rule | None:
        """All that `next`, `record` and `done` do, for who can do it faster; None if too much."""
        examples, size = self._archive.examples, self.scores.size
        if self._next or self._left < size or not examples.binary or examples.blocks is not None:
            return None
        limits = self._bounds
        return Rule(
            *(self._worth, limits.swing, self._totals, limits.margin, _EAGER),
            *(math.ceil(_SMALLEST * size), math.ceil(_LARGEST * size), examples.grain),
        )

    def conclude(self, scores: NDArray[np.float32]) -> None:
        """Take in the answers that `rule` led to, float32[N], NaN where it did not ask.

        Any of them means that the child is rejected.
        """
        self.scores = scores
        self._next = int(np.count_nonzero(scores == scores))
        if self._next < self._left:
            self._lead = -math.inf

    @property
    def rejected(self) -> bool:
        """The child is certain to be rejected, whatever it would answer from here."""
        return self._lead < -self._bounds.margin

    @property
    def done(self) -> bool:
        """Nothing is left to ask: rejected for certain, or every example answered."""
        return self._next == self._left or self.rejected

    def next(self) -> Int64:
        """The examples to ask next, int64[n]; empty when done."""
        start, order, expected = self._next, self._order, self._expected
        if self.done:
            return order[:0]
        if self._bounds.margin == math.inf:
            return order[start:].copy()
        before = float(expected[start - 1]) if start else 0.0
        goal = before + _EAGER * self._lead
        enough = int(expected.searchsorted(goal)) + 1 - start
        size = self.scores.size
        block = min(max(enough, math.ceil(_SMALLEST * size)), math.ceil(_LARGEST * size))
        if self._ends is not None:
            last = int(self._ends.searchsorted(min(start + block, self._left)))
            return order[start : self._ends[last]].copy()
        grain = self._archive.examples.grain
        return order[start : start - (-block // grain) * grain].copy()

    def record(self, indices: Int64, scores: NDArray[np.float32]) -> None:
        """Take in the answers to `next()`: float32[n] for int64[n]."""
        self.scores[indices] = scores = answered(indices, scores, self.scores)
        self._next += indices.size
        self._count(indices, scores)

    def _count(self, indices: Int64, scores: NDArray[np.float32]) -> None:
        """Put what was measured in place of the best case."""
        limits = self._bounds
        if self._archive.examples.binary:
            # Solving an example is the best case.
            # Row by row, as compiled code does that asks in our place (`Rule`).
            self._totals += np.add.reduce(limits.swing.take(indices[scores == 0], axis=0), axis=0)
        else:
            child, full = scores.astype(np.float64), limits.full[indices]
            price = prices_at(self._archive, child, indices)
            if self._archive.worst is not None:
                child -= self._archive.worst[indices]
            gained = float(np.dot(child, price)) - (limits.top[indices] * full).sum()
            self._totals += gained - limits.scores[:, indices] @ (price - full)
            if limits.excess is not None:
                self._totals -= limits.excess[:, indices].sum(axis=1)
        # How far ahead of the member that it comes closest to beating the child may still end.
        self._lead = float(self._totals.max())


def _block_ranks(worth: Float64, blocks: Int64) -> Int64:
    """For each example the rank of its block, by the mean worth of its examples."""
    means = np.bincount(blocks, worth) / np.maximum(np.bincount(blocks), 1)
    ranks = np.empty(means.size, dtype=np.int64)
    ranks[np.argsort(-means, kind="stable")] = np.arange(means.size)
    return ranks[blocks]


def ends_of(blocks: Int64) -> Int64:
    """Where runs of equal numbers, none below 0, end."""
    return np.flatnonzero(np.diff(blocks, append=-1)) + 1
