"""Risk-limited early stop: a child is turned away on evidence, by a betting martingale.

What is bounded: for every child that would enter the archive if it were asked every example, the
chance that it is turned away is at most `risk`, over the random order in which it is asked. Nothing
is supposed of the child, the examples or the predictions made here; those only decide how soon
evidence is found.

How: a child belongs in the archive if for some member i its losses x_ij (what it falls short of its
best case against i on example j) sum up to at most T_i, its lead over i in the best case. Examples
are asked in random order without replacement, an example that is left with a chance p_j in
proportion to its eagerness. With any prediction y_ij of what is left, made before the answer,

    Z = (x_ij - y_ij) / p_j + sum of y_ik over the examples k that are left

has as its mean the losses left, which are at most m_i (T_i less the losses so far) for a child that
beats i. A bet on `Z > m_i` multiplies the money M_i of the member that makes it, at first 1:

    M_i <- M_i * (1 + stake * (Z - m_i)),    stake >= 0, chosen before the answer, M_i never below 0

which for such a child is a supermartingale: the chance that M_i ever reaches `1 / risk` is at most
`risk` (Ville 1939). The child is turned away once every M_i has reached it. As a child that belongs
is refused only if the member that it beats was among them, no correction for their number is
needed.

The construction is that of risk-limiting audits of elections and accounts (Waudby-Smith, Stark,
Ramdas 2021, arXiv 2107.11323; Shekhar, Xu, Lipton, Liang, Ramdas 2023, arXiv 2305.06884).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from genepool.core.archive import Archive
from genepool.core.early_stop.evaluation_plan import answered
from genepool.core.early_stop.lossless import bounds, ends_of, prices_at
from genepool.core.rng import Generator
from genepool.errors import InputError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Examples by how well the parents do on them: upper limits of the strata, the share of its score
# that a child is at first expected to lose there, and how eagerly they are asked.
_LIMITS = np.array([0.01, 0.5, 0.99])
_LOSS = np.array([0.95, 0.65, 0.35, 0.05])
_EAGER = np.array([1.0, 1.0, 1.0, 0.25])
# How many answers the expectations above are worth.
_STRENGTH = 4.0

# A block is this share of all examples, or of those already asked: asking in small blocks stops
# sooner, in large ones costs less.
_SMALLEST, _GROWTH = 1 / 56, 1 / 8

# Of the largest stake that can be paid.
_BOLDEST = 0.9

# Every example has at least this chance, relative to the most eagerly asked: otherwise what it
# might cost would not be counted.
_SHYEST = 1e-3

_TINY = 1e-300


@dataclass(frozen=True, eq=False, slots=True)
class _Stakes:
    """What the gamblers know of an archive before any child.

    Attributes:
        worth: float64[N], above 0: what an example can cost against the member that is easiest to
            beat; examples are asked in proportion to it, and to `_EAGER`.
        most: float64[N, P], what it can cost against each.
        squares: float64[N, P], squares of that by worth.
        largest: float64[P], the largest of `most / worth`.
    """

    worth: Float64
    most: Float64
    squares: Float64
    largest: Float64


_kept: WeakKeyDictionary[Archive, _Stakes] = WeakKeyDictionary()


def _stakes(archive: Archive) -> _Stakes:
    found = _kept.get(archive)
    if found is None:
        limits = bounds(archive)
        most = -limits.swing
        worth = most[:, int(limits.totals.argmax())]
        worth = np.maximum(worth, max(_SHYEST * float(worth.max()), _TINY))
        by_worth = most / worth[:, None]
        found = _kept[archive] = _Stakes(worth, most, most * by_worth, by_worth.max(axis=0))
    return found


class RiskLimitedPlan:
    """One child's evaluation, against one archive, at a bounded risk of turning it away wrongly.

    Not a value: `record` moves it on. What it asks is a function of its arguments and the answers.

    Attributes:
        scores: float32[N], NaN where the child has not been asked.
    """

    def __init__(
        self,
        archive: Archive,
        parents: Sequence[tuple[int | None, float]],
        known: NDArray[np.float32],
        risk: float,
        draws: Generator,
    ) -> None:
        """Prepare to ask for what is not known.

        Args:
            archive: the archive that the child will meet.
            parents: slot of each parent (None if it has left the archive) and the share of the
                child's weights that comes from it.
            known: float32[N], NaN where the child has not been asked.
            risk: in (0, 1).
            draws: random numbers that nothing else has used: the bound is over it.
        """
        self.scores = known.copy()
        self._archive = archive
        self._limits, self._stakes = bounds(archive), _stakes(archive)
        self._needed = -math.log(risk)
        # Ties go to the child, hence the margin.
        self._room = self._limits.totals + self._limits.margin
        unknown = np.isnan(known)
        asked, left = np.flatnonzero(~unknown), np.flatnonzero(unknown)
        if asked.size:
            self._room -= self._losses(asked, known[asked]).sum(axis=0)
        pupil = np.zeros(known.size)
        for slot, share in parents:
            pupil += share * (archive.average if slot is None else archive.scores[slot])
        stratum = _LIMITS.searchsorted(pupil[left], side="right")
        eager = self._stakes.worth[left] * _EAGER[stratum]
        # What is drawn is an example, or a block of them where these are asked as a whole.
        blocks = archive.examples.blocks
        # An exponential race: of those left, each is next with a chance in proportion to eager.
        if blocks is None:
            order = np.argsort(draws.standard_exponential(left.size) / eager, kind="stable")
            self._ends = np.arange(1, left.size + 1)
        else:
            names, lots = np.unique(blocks[left], return_inverse=True)
            eager = np.bincount(lots, eager, names.size)
            times = draws.standard_exponential(names.size) / eager
            order = np.lexsort((lots, times[lots]))
            self._ends, eager = ends_of(lots[order]), eager[lots]
        self._order, self._stratum = left[order], stratum[order]
        self._eager = eager[order][self._ends - 1]
        self._eager_left = np.cumsum(self._eager[::-1])[::-1]
        member_of = (self._stratum == np.arange(_LOSS.size)[:, None]).astype(np.float64)
        # Per stratum, of what is left: float64[4, P].
        self._most_left = member_of @ self._stakes.most[self._order]
        self._squares_left = member_of @ self._stakes.squares[self._order]
        self._lost, self._seen = _LOSS * _STRENGTH, np.full(_LOSS.size, _STRENGTH)
        self._money = np.zeros(self._room.size)
        self._settled = self._room < 0
        self._next = self._lot = 0

    @property
    def rejected(self) -> bool:
        """Turned away: every gambler has won, or it is certain anyway."""
        return bool(self._settled.all())

    @property
    def done(self) -> bool:
        """Nothing is left to ask: turned away, or every example answered."""
        return self._next == self._order.size or self.rejected

    def next(self) -> Int64:
        """The examples to ask next, int64[n]; empty when done."""
        start, size = self._next, self._order.size
        if self.done:
            return self._order[:0]
        if self._limits.margin == math.inf:
            return self._order[start:].copy()
        grain = self._archive.examples.grain
        block = math.ceil(max(_SMALLEST * self.scores.size, _GROWTH * start) / grain) * grain
        last = int(self._ends.searchsorted(min(start + block, size)))
        return self._order[start : self._ends[last]].copy()

    def record(self, indices: Int64, scores: NDArray[np.float32]) -> None:
        """Take in the answers to `next()`: float32[n] for int64[n]."""
        given = answered(indices, scores, self.scores)
        start, lot = self._next, self._lot
        stop: int = start + given.size
        asked = self._order[start:stop]
        if not np.array_equal(asked, indices) and set(asked.tolist()) != set(indices.tolist()):
            raise InputError("expected scores of the examples that `next()` gave; got others")
        self.scores[indices] = given
        self._next = stop
        # What follows hangs on the order in which they were asked.
        indices, scores = asked, self.scores[asked]
        self._lot = last = int(self._ends.searchsorted(stop)) + 1
        if self._limits.margin == math.inf:
            return
        strata = self._stratum[start:stop]
        most, losses = self._stakes.most[indices], self._losses(indices, scores)
        # What is foreseen of each example left, and every stake, is from before these answers.
        foreseen = self._lost / self._seen
        guess = most * foreseen[strata, None]
        eager, eager_left = self._eager[lot:last, None], self._eager_left[lot:last, None]
        if eager.size < indices.size:
            starts = np.append(start, self._ends[lot : last - 1]) - start
            guess, lots = np.add.reduceat(guess, starts), np.add.reduceat(losses, starts)
        else:
            lots = losses
        # Before each lot's own answer, float64[lots, P].
        room = self._room - (lots.cumsum(axis=0) - lots)
        ahead = foreseen @ self._most_left - (guess.cumsum(axis=0) - guess) - room
        depth = float((foreseen / _EAGER).max()) * self._stakes.largest * eager_left - ahead
        possible = depth > 0
        spread = (foreseen * (1.0 - foreseen) / _EAGER) @ self._squares_left * eager_left
        stake = np.maximum(ahead, 0.0) / (spread + ahead * ahead + _TINY)
        stake = np.minimum(stake, _BOLDEST / np.where(possible, depth, 1.0))
        gain = (lots - guess) * (eager_left / eager) + ahead
        gains = np.log1p(np.where(possible, stake * gain, 0.0)).cumsum(axis=0)
        room -= lots
        # Where nothing can be lost any more, the child cannot belong either.
        won = (self._money + gains >= self._needed) | (room < 0) | ~possible
        self._settled |= won.any(axis=0)
        self._money, self._room = self._money + gains[-1], room[-1].copy()
        member_of = (strata == np.arange(_LOSS.size)[:, None]).astype(np.float64)
        self._most_left -= member_of @ most
        self._squares_left -= member_of @ self._stakes.squares[indices]
        self._lost = self._lost + member_of @ (1.0 - scores)
        self._seen = self._seen + member_of.sum(axis=1)

    def _losses(self, indices: Int64, scores: NDArray[np.float32]) -> Float64:
        """By how much the answers fall short of the best case, float64[n, P]."""
        if self._archive.examples.binary:
            return self._stakes.most[indices] * (scores == 0)[:, None]
        child = scores.astype(np.float64)
        theirs = self._archive.scores[:, indices]
        gained = (child - theirs) * prices_at(self._archive, child, indices)
        return (self._limits.best(indices) - gained).T
