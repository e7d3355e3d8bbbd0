"""Re-evaluation, where members compete for subsets: the archive is asked what is new to it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan, FullPlan
from genepool.core.genome import Genome
from genepool.errors import EvaluationError
from genepool.messages import count
from genepool.pool.records import FINAL, Reevaluation
from genepool.run.failures import require_scored
from genepool.run.session import Session
from genepool.strategies.evolution import Evolution
from genepool.strategies.problem import Renewal

# By member: float32[N], NaN where it was never asked; None if it failed.
Known = dict[int, NDArray[np.float32] | None]


def renew(session: Session, evolution: Evolution, renewal: Renewal) -> None:
    """Let members compete for other examples, on which the archive is scored first.

    Raises:
        KeyboardInterrupt: the run was interrupted; what has been answered is written.
        EvaluationError: see `_reevaluate`.
    """
    pool, subset = session.pool, renewal.subset
    if subset.indices is None:
        raise RuntimeError("a run without subsets has nothing to renew")
    session.progress.stage(f"subset {subset.number}: scoring the archive on other examples")
    pool.add_subset(subset.number, subset.indices)
    # Those that failed on these examples before the run was interrupted.
    known: Known = dict.fromkeys(pool.departed())
    asked = [
        (member.id, member.genome, plan)
        for member, plan in zip(renewal.members, renewal.plans(), strict=True)
        if member.id not in known
    ]
    needed = not evolution.archive.slots.keys() - {member for member, _, _ in asked} - known.keys()
    evolution.renew({**known, **_reevaluate(session, subset.number, asked, needed=needed)})
    session.progress.stage("evolving")


def score_finalists(session: Session) -> None:
    """Score the most promising of the archive on all examples: the best of all that are known on
    these is champion.

    Raises:
        KeyboardInterrupt, EvaluationError: as `renew`.
    """
    pool = session.pool
    subsets = pool.header.subsets
    if subsets is None:
        return
    session.progress.stage("scoring the finalists on all examples")
    # As they were before any final: asked in pieces or in one, they are the same.
    alive = list(pool.chosen(pool.slots().values(), finals=False).values())
    alive.sort(key=lambda record: (-(record.train or 0.0), record.id))
    # Subset by subset, some of the others have come to be known on all examples too.
    best = {record.id for record in alive[: subsets.finalists]}
    found = pool.chosen([record.id for record in alive])
    plans = {m: FullPlan(r.scores) for m, r in found.items() if r.scores is not None}
    left = [m for m, plan in plans.items() if m in best and not plan.done]
    genomes = pool.genomes(left)
    _reevaluate(session, FINAL, [(member, genomes[member], plans[member]) for member in left])
    known = {*range(len(pool.header.seeds)), *pool.finalists()}
    for member, plan in plans.items():
        if plan.done and member not in known:
            nothing = np.full_like(plan.scores, np.nan)
            pool.add_reevaluation(Reevaluation(member, FINAL, nothing, None, 0, 0.0))


def _reevaluate(
    session: Session,
    number: int,
    asked: Iterable[tuple[int, Genome, EvaluationPlan]],
    *,
    needed: bool = False,
) -> Known:
    """Ask members what they do not know, and write the answers as they come.

    All of them were scored before. Where some fail now, that is theirs if a seed does not.

    Args:
        session: where they live, and who asks.
        number: of the subset, or `FINAL`.
        asked: id and genome of each member, and what to ask it.
        needed: whether one of them must be left.

    Raises:
        KeyboardInterrupt: as `renew`.
        EvaluationError: a seed fails as well, or all of them do; no failure is written.
    """
    out: Known = {}
    failed: list[Reevaluation] = []
    waiting: list[tuple[int, int, NDArray[np.float32]]] = []
    for place, (member, genome, plan) in enumerate(asked):
        # Numbers that no child has.
        key = -2 - place
        waiting.append((key, member, plan.scores.copy()))
        session.executor.submit(key, genome, plan)
    for key, member, before in waiting:
        session.heed_interruption()
        found = session.executor.result(key)
        new, asked_now = None, 0
        if found.scores is not None:
            new = np.where(np.isnan(before), found.scores, np.float32(np.nan))
            asked_now = int(np.count_nonzero(~np.isnan(new)))
        again = Reevaluation(member, number, new, found.error, asked_now, found.seconds)
        out[member] = found.scores
        if found.scores is None:
            failed.append(again)
        else:
            session.pool.add_reevaluation(again)
    if failed:
        text = f"{count(len(failed), 'member')} of the archive failed, one with: {failed[-1].error}"
        if needed and len(failed) == len(out):
            raise EvaluationError(f"{text}; nobody would be left to breed from")
        require_scored(session, session.pool.genome(0), text)
    for again in failed:
        session.pool.add_reevaluation(again)
    return out
