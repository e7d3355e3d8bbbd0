"""Genomes of members: what a pool does not store is bred again from the ancestry, exactly."""

from __future__ import annotations

from collections.abc import Iterable

from genepool.core.genome import Genome, Recipe, breed, decode, digest, seed_recipe
from genepool.errors import PoolError
from genepool.pool.pool_header import Header
from genepool.pool.records import Record


def bred_again(header: Header, lineage: Iterable[Record]) -> dict[int, Genome]:
    """The genomes of members, by id.

    Args:
        header: of their pool.
        lineage: the members, parents before children, back to those whose genome is stored.

    Raises:
        PoolError: one cannot be bred, or what was bred differs from what was recorded.
    """
    known: dict[int, Genome] = {}
    for row in lineage:
        if row.genome is not None:
            genome = decode(row.genome)
        elif row.step == 0:
            if header.kind != "recipe":
                raise PoolError(f"seed {row.id} has no stored genome")
            genome = seed_recipe(header.axis_size, row.id, len(header.seeds))
        elif row.merge is None:
            raise PoolError(
                f"member {row.id} cannot be made again: its weights were drawn by the strategy, "
                "and only those of accepted members are kept"
            )
        else:
            merge = decode(row.merge)
            if not isinstance(merge, Recipe):
                raise PoolError(f"the merge of member {row.id} is damaged")
            parents = [known[parent] for parent in row.parents]
            genome = breed(merge, parents, row.mutation, header.seed, row.step)
        if row.digest is not None and digest(genome) != row.digest:
            raise PoolError(
                f"member {row.id} was bred again but differs from what was recorded; the pool is "
                "damaged"
            )
        known[row.id] = genome
    return known
