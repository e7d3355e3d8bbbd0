"""Genomes into weights: one fused, multi-threaded pass over the seeds, into memory that exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING, Raw, as_float32, from_float32
from genepool.checkpoints.layout import Layout, Slot
from genepool.core.genome import Genome, Recipe
from genepool.core.rng import quantiles
from genepool.errors import InputError
from genepool.materialise.tensor_table import Int64, Terms, address_of, prepare_sources
from genepool.messages import one_line, some
from genepool.threads import Crew, thread_count

# Positions per work item: 3 MB for two bfloat16 seeds and their child. Handing one out costs about
# 15 us, a tenth of its own time, so that larger models get items of up to four times this.
ITEM = 2**19

SeedsPlace = Literal["auto", "device", "host"]
"""Where seeds lie while children of a live model on a device are made; see `ModelOptions.seeds`."""

_NO_QUANTILES = np.empty(0, dtype=np.float32)

# Bytes of a model that is not still in the caches when it is next read.
MORE_THAN_CACHES = 2**26


@dataclass(frozen=True, eq=False, slots=True)
class Destination:
    """Memory that a tensor is written into.

    Attributes:
        dtype: safetensors code of what the memory holds; floating for a tensor that merges.
        raw: flat, contiguous and writable, with elements of that dtype's size (for bfloat16 any
            16-bit numpy dtype).
    """

    dtype: str
    raw: Raw


class Materialiser:
    """Writes genome after genome into the same destinations; preparing it once makes each cheap.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        destinations: one for each tensor of the layout, by name. None stands for a tensor that the
            model does not hold on its own (tied to another that is given): it is left out. Carried
            tensors that are given are copied from the first seed here, once.
        threads: None means all available cores; a model of less than two work items of 2**19
            parameters uses one.
        as_exported: whether what is written passes through the dtype that each tensor has in the
            first seed: then it is what loading an exported checkpoint would give.

    Raises:
        InputError: a tensor without a destination, a destination without a tensor, or one of the
            wrong dtype, size or kind, or two that share memory.
        CheckpointError: a file has been cut short since it was opened.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        layout: Layout,
        destinations: Mapping[str, Destination | None],
        threads: int | None = None,
        *,
        as_exported: bool = False,
    ) -> None:
        self._sources = prepare_sources(checkpoints, layout)
        require_names(layout, destinations)
        tensors = len(layout.slots)
        self._out_addresses = np.zeros(tensors, dtype=np.int64)
        self._out_codes = np.zeros(tensors, dtype=np.int64)
        self._via_codes = np.full(tensors, FLOATING.index("F32"), dtype=np.int64)
        if as_exported:
            self._via_codes[:] = [FLOATING.index(slot.dtype) for slot in layout.slots]
        self._kept: list[Destination] = []
        stretches: list[tuple[int, int]] = []
        for index, slot in enumerate(layout.slots):
            given = destinations[slot.name]
            if given is not None:
                _require_fit(slot, given, self._sources.checkpoints[0].tensors[slot.name])
                self._kept.append(given)
                self._out_addresses[index] = address_of(given.raw)
                self._out_codes[index] = FLOATING.index(given.dtype)
                stretches.append((slot.start, slot.stop))
        _require_disjoint({name: given for name, given in destinations.items() if given})
        for name in layout.carried:
            if given := destinations.get(name):
                _copy_carried(self._sources.checkpoints[0].tensors[name], given)
        self._past_caches = sum(given.raw.nbytes for given in self._kept) >= MORE_THAN_CACHES
        count = thread_count(threads)
        self._items = _items(stretches, count)
        self._crew = Crew(max(1, min(count, len(self._items))))

    def write(self, genome: Genome) -> None:
        """Compute a genome and round it into the destinations.

        The arithmetic is that of `genepool.core.genome`: coefficients rounded to float32, float32
        products and sums in the seeds' order, and one rounding to each destination's dtype (to
        nearest, ties to even; beyond the range infinity; NaN stays NaN), or to the exported dtype
        and then to the destination's.

        Raises:
            InputError: the genome's length or number of seeds is another.
            CheckpointError: a seed's file has been cut short.
        """
        if isinstance(genome, Recipe):
            self._sources.check()
        terms = self._sources.terms(genome)

        def work(_worker: int, item: int) -> None:
            start, stop = self._items[item]
            express_into(
                terms,
                start,
                stop,
                self._out_addresses,
                self._out_codes,
                self._past_caches,
                via_codes=self._via_codes,
            )

        self._crew.run(len(self._items), work)


def express_into(
    terms: Terms,
    start: int,
    stop: int,
    out_addresses: Int64,
    out_codes: Int64,
    past_caches: bool = False,
    *,
    via_codes: Int64 | None = None,
) -> None:
    """Compute positions start..stop into memory; see `kernels.express`."""
    from genepool.materialise.kernels import express

    express(
        start,
        stop,
        terms.tensors,
        terms.addresses,
        terms.codes,
        terms.bounds,
        terms.coefs,
        out_addresses,
        out_codes,
        np.full_like(out_codes, FLOATING.index("F32")) if via_codes is None else via_codes,
        terms.words,
        terms.mutation,
        quantiles() if terms.words.size else _NO_QUANTILES,
        past_caches,
    )


def express_piece(
    terms: Terms, tensor: int, start: int, stop: int, out: Destination, via: str = "F32"
) -> None:
    """Compute positions start..stop, all of one tensor, into the beginning of `out`.

    They are rounded to the dtype `via` before they are converted to that of `out`.
    """
    # The kernel adds the offset inside the tensor to the tensor's address.
    offset = (start - int(terms.tensors[tensor])) * DTYPES[out.dtype].size
    address = np.array([address_of(out.raw) - offset], dtype=np.int64)
    code = np.array([FLOATING.index(out.dtype)], dtype=np.int64)
    via_code = np.array([FLOATING.index(via)], dtype=np.int64)
    express_into(terms.only(tensor), start, stop, address, code, via_codes=via_code)


def _items(stretches: list[tuple[int, int]], threads: int) -> list[tuple[int, int]]:
    """Join stretches that touch, and cut them into work items."""
    runs: list[tuple[int, int]] = []
    for start, stop in stretches:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    total = sum(stop - start for start, stop in runs)
    size = max(ITEM, min(4 * ITEM, total // (8 * threads)))
    return [(at, min(at + size, stop)) for start, stop in runs for at in range(start, stop, size)]


def require_names(layout: Layout, destinations: Mapping[str, object]) -> None:
    """Raise InputError unless there is a destination for each tensor, and for no others."""
    names = [slot.name for slot in layout.slots]
    if absent := [name for name in names if name not in destinations]:
        raise InputError(
            f"the model has no parameter for {some(absent)} of the checkpoint; if they are tied to "
            "others, give None for them, and otherwise load the architecture that was saved"
        )
    if extra := sorted(destinations.keys() - {*names, *layout.carried}):
        raise InputError(
            f"the checkpoint lacks {some(extra)}, which the model has; leave out what is tied to "
            "another tensor, and otherwise load the architecture that was saved"
        )


def copy_further_rows(slot: Slot, first: Tensor, given: Destination) -> None:
    """Write the rows that do not merge, where there are any: the first seed's, in one rounding."""
    merged = slot.stop - slot.start
    rest = first.raw[merged:]
    if rest.size == 0:
        return
    if given.dtype == first.dtype:
        np.frombuffer(given.raw, dtype=np.uint8)[-rest.nbytes :] = np.frombuffer(
            rest, dtype=np.uint8
        )
    else:
        values = from_float32(as_float32(rest, first.dtype), given.dtype)
        given.raw[merged:] = values.view(given.raw.dtype)


def _require_fit(slot: Slot, given: Destination, first: Tensor) -> None:
    raw, count = given.raw, int(first.raw.size)
    label = f"destination of tensor '{one_line(slot.name)}'"
    if given.dtype not in FLOATING:
        raise InputError(f"{label}: expected dtype {', '.join(FLOATING)}; got {given.dtype}")
    _require_flat(label, raw)
    if raw.size != count or raw.itemsize != DTYPES[given.dtype].size:
        raise InputError(
            f"{label}: expected {count} elements of {DTYPES[given.dtype].size} bytes; "
            f"got {raw.size} of {raw.itemsize}"
        )
    copy_further_rows(slot, first, given)


def _require_flat(label: str, raw: Raw) -> None:
    if raw.ndim != 1 or not raw.flags.c_contiguous or not raw.flags.writeable:
        raise InputError(f"{label}: expected a flat, contiguous, writable array")


def _copy_carried(tensor: Tensor, given: Destination) -> None:
    label = f"destination of carried tensor '{one_line(tensor.name)}'"
    _require_flat(label, given.raw)
    if given.dtype != tensor.dtype or given.raw.nbytes != tensor.raw.nbytes:
        raise InputError(
            f"{label}: expected {tensor.raw.nbytes} bytes of {tensor.dtype}; "
            f"got {given.raw.nbytes} of {given.dtype}"
        )
    np.frombuffer(given.raw, dtype=np.uint8)[:] = np.frombuffer(tensor.raw, dtype=np.uint8)


def _require_disjoint(destinations: Mapping[str, Destination]) -> None:
    spans = sorted(
        (address_of(given.raw), address_of(given.raw) + given.raw.nbytes, name)
        for name, given in destinations.items()
    )
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end:
            raise InputError(
                f"destinations {some([first, second])} share memory; give None for the one that is "
                "tied to the other"
            )
