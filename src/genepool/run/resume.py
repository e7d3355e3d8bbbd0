"""Going on where a pool was left: `Evolution` is told what its members were."""

from __future__ import annotations

from collections.abc import Mapping

from genepool.core.archive import Member, Verdict
from genepool.core.genome import Genome
from genepool.pool.reader import Pool
from genepool.pool.records import Record
from genepool.strategies.evolution import Evolution
from genepool.strategies.problem import Trial


def resume(evolution: Evolution, pool: Pool) -> None:
    """Bring an evolution to where a pool stands.

    Args:
        evolution: nothing has been asked of it yet.
        pool: of the same problem and strategy.
    """
    header = pool.header
    last = evolution.resume(
        pool.seeds_scored + pool.evaluations,
        None if header.subsets is not None else _champion(pool),
        pool.retired() if header.kind == "vector" else None,
        pool.finalists(),
    )
    if evolution.strategy.remembers:
        evolution.recall(_trial(record, pool) for record in pool.records())
        return
    place = sorted(pool.slots(last).items())
    records = [*pool.chosen([member for _, member in place]).values(), *pool.records(last + 1)]
    genomes = pool.genomes([record.id for record in records if record.slot is not None])
    evolution.recall(_trial(record, pool, genomes) for record in records)


def _champion(pool: Pool) -> Member | None:
    champion = pool.champion()
    if champion is None:
        return None
    record = pool.record(champion)
    return Member(champion, pool.genome(champion), record.parents, record.train or 0.0)


def _trial(record: Record, pool: Pool, genomes: Mapping[int, Genome] | None = None) -> Trial:
    if record.verdict in (Verdict.GUARDED, Verdict.FAILED) or record.scores is None:
        return Trial(record.step, None, None, None)
    if record.slot is None or record.train is None:
        return Trial(record.step, None, None, record.scores)
    genome = pool.genome(record.id) if genomes is None else genomes[record.id]
    member = Member(record.id, genome, record.parents, record.train)
    return Trial(record.step, member, record.slot, record.scores)
