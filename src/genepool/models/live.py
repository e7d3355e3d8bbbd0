"""A live model: what tasks score, and the memory that genomes are materialised into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome
from genepool.materialise.cpu import Destination, Materialiser


class Writer(Protocol):
    """Writes genomes into a live model."""

    def write(self, genome: Genome) -> None:
        """Compute a genome into the model's memory."""
        ...


@dataclass(frozen=True, eq=False)
class LiveModel:
    """One model in memory, to be filled with genome after genome.

    Attributes:
        value: what tasks are given: a read-only mapping of read-only arrays, a torch network, or a
            `LanguageModel`.
        destinations: memory of the tensors, as `Materialiser` takes it; empty where the network is
            not in plain memory (another device, or strided).
        tensors: the network's tensors, as `DeviceMaterialiser` takes them; empty for arrays.
    """

    value: Any
    destinations: Mapping[str, Destination | None]
    tensors: Mapping[str, Any]

    def writer(
        self, checkpoints: Sequence[Checkpoint], layout: Layout, threads: int | None = None
    ) -> Writer:
        """What writes genomes over these seeds into the model; see `weights.materialise`.

        Raises:
            InputError, CheckpointError: the seeds or the layout are not those of the model.
        """
        if self.destinations:
            return Materialiser(checkpoints, layout, self.destinations, threads)
        from genepool.materialise.torch import DeviceMaterialiser

        return DeviceMaterialiser(checkpoints, layout, self.tensors, threads)
