"""Seeds prepared for the kernels: where every tensor of every source lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import FLOATING, Raw, as_float32
from genepool.checkpoints.layout import Layout, Slot
from genepool.core.genome import Genome, Recipe
from genepool.core.rng import noise_words
from genepool.errors import CheckpointError, InputError
from genepool.messages import at, one_line

Int64 = NDArray[np.int64]

_F32 = FLOATING.index("F32")
_WHOLE = np.ones((1, 1))
_SILENCE = np.empty(0, dtype=np.uint16)


def address_of(array: Raw) -> int:
    """The address of an array's first byte, valid while the array lives."""
    return int(array.__array_interface__["data"][0])


@dataclass(frozen=True, eq=False, slots=True)
class Sources:
    """K seeds over one layout.

    Attributes:
        checkpoints: the seeds; held, because the addresses point into them.
        layout: of all of them.
        tensors: int64[T+1], the parameter axis' tensor boundaries.
        addresses: int64[T, K], of tensor t in seed k.
        codes: int64[T, K], its dtype as an index into FLOATING.
    """

    checkpoints: tuple[Checkpoint, ...]
    layout: Layout
    tensors: Int64
    addresses: Int64
    codes: Int64

    def check(self) -> None:
        """Raise CheckpointError if a seed's file has been cut short."""
        for checkpoint in self.checkpoints:
            checkpoint.check()

    def terms(self, genome: Genome) -> Terms:
        """What the kernel needs to compute a genome over these seeds.

        Raises:
            InputError: the genome's length or number of seeds is another.
        """
        size = self.layout.axis.size
        if genome.size != size:
            raise InputError(
                f"the genome has {genome.size} positions and the model has {size} mergeable "
                "parameters; was it bred from other seeds?"
            )
        if isinstance(genome, Recipe):
            if genome.sources != len(self.checkpoints):
                raise InputError(
                    f"the genome is a recipe over {genome.sources} seeds; "
                    f"{len(self.checkpoints)} were given"
                )
            bounds = np.ascontiguousarray(genome.bounds)
            coefs = np.ascontiguousarray(genome.coefs, dtype=np.float32)
            return Terms(
                self.tensors,
                self.addresses,
                self.codes,
                bounds,
                coefs,
                genome,
                words=_SILENCE,
                mutation=np.float32(0),
            )
        origin = genome.origin
        if origin is None:
            return self._dense(_WHOLE, [0, size], [genome.values], _SILENCE, 0.0)
        parents = [parent.values for parent in origin.parents]
        mutated = origin.mutation != 0
        words = noise_words(origin.seed, origin.step, size) if mutated else _SILENCE
        return self._dense(origin.merge.coefs, origin.merge.bounds, parents, words, origin.mutation)

    def _dense(
        self,
        coefs: NDArray[np.float64],
        bounds: Int64 | list[int],
        vectors: list[NDArray[np.float32]],
        words: NDArray[np.uint16],
        mutation: float,
    ) -> Terms:
        """A recipe over dense genomes instead of the seeds, with noise on top."""
        held = [np.ascontiguousarray(values, dtype=np.float32) for values in vectors]
        starts = np.array([address_of(values) for values in held], dtype=np.int64)
        addresses = starts + 4 * self.tensors[:-1, None]
        return Terms(
            self.tensors,
            addresses,
            np.full_like(addresses, _F32),
            np.array(bounds, dtype=np.int64),
            np.ascontiguousarray(coefs, dtype=np.float32),
            held,
            words,
            np.float32(mutation),
        )


@dataclass(frozen=True, eq=False, slots=True)
class Terms:
    """A genome over its sources, as `kernels.express` takes it; `kept` keeps the memory alive.

    Attributes:
        words: uint16[D], the random bits of the noise added; empty for none.
        mutation: its standard deviation.
    """

    tensors: Int64
    addresses: Int64
    codes: Int64
    bounds: Int64
    coefs: NDArray[np.float32]
    kept: object
    words: NDArray[np.uint16]
    mutation: np.float32

    def only(self, tensor: int) -> Terms:
        """The same for one tensor of the parameter axis; positions stay what they were."""
        return Terms(
            self.tensors[tensor : tensor + 2],
            self.addresses[tensor : tensor + 1],
            self.codes[tensor : tensor + 1],
            self.bounds,
            self.coefs,
            self.kept,
            self.words,
            self.mutation,
        )


def prepare_sources(checkpoints: Sequence[Checkpoint], layout: Layout) -> Sources:
    """Look up every tensor of every seed.

    Raises:
        InputError: no seeds, or the layout is not theirs.
        CheckpointError: a file has been cut short since it was opened.
    """
    if not checkpoints:
        raise InputError("expected at least one checkpoint; got none")
    rows: list[list[tuple[int, int]]] = []
    for slot in layout.slots:
        row: list[tuple[int, int]] = []
        for checkpoint in checkpoints:
            tensor = checkpoint.tensors.get(slot.name)
            if tensor is None or not _covers(tensor, slot) or tensor.dtype not in FLOATING:
                raise InputError(
                    f"{at(checkpoint.path)}: the layout is of other checkpoints; it has "
                    f"'{one_line(slot.name)}' of shape {list(slot.shape)}"
                )
            row.append((address_of(tensor.raw), FLOATING.index(tensor.dtype)))
        rows.append(row)
    table = np.array(rows, dtype=np.int64)
    sources = Sources(
        tuple(checkpoints),
        layout,
        np.array(layout.axis.tensors),
        np.ascontiguousarray(table[:, :, 0]),
        np.ascontiguousarray(table[:, :, 1]),
    )
    sources.check()
    return sources


def require_finite(checkpoints: Sequence[Checkpoint], name: str, start: int, stop: int) -> None:
    """Raise CheckpointError if elements start..stop of a tensor are such as no merge can use."""
    for checkpoint in checkpoints:
        found = checkpoint.tensors[name]
        values = as_float32(found.raw[start:stop], found.dtype)
        if not bool(np.isfinite(values).all()):
            what = "NaN" if bool(np.isnan(values).any()) else "infinity"
            raise CheckpointError(
                f"{at(checkpoint.path)}: tensor '{one_line(name)}' holds {what}: the weights are "
                "damaged or out of float32's range, and cannot be merged"
            )


def _covers(tensor: Tensor, slot: Slot) -> bool:
    """Whether a tensor is what merges, or that and further rows."""
    if tensor.shape == slot.shape:
        return True
    return tensor.shape[1:] == slot.shape[1:] and tensor.shape[:1] >= slot.shape[:1] != ()
