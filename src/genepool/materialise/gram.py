"""Inner products of the seeds over any stretch of the parameter axis, from sums taken once.

A SLERP angle needs `<A,B>`, `|A|` and `|B|` over a stretch; for recipes they follow from the inner
products of the seeds. Fine-tunes of one base have cosines within 1e-4 of 1, and a stretch may hold
a tiny part of all, so prefix sums are kept in double-double precision (106 bits): a difference
of two of them still has the 53 bits of a float64 where the stretch holds 1e-16 of the whole, and
nothing depends on blocks, threads or machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from genepool.checkpoints.files.atomic import write_bytes
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.documents import read_bytes
from genepool.errors import InputError, WriteError
from genepool.materialise.tensor_table import Sources, prepare_sources, require_finite
from genepool.messages import at
from genepool.threads import Crew, thread_count

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_FORMAT = "genepool gram 1"
_LARGEST = 10**10
_TABLE = 2**17  # pairs of seeds times blocks: 2 MB
_SMALLEST = 1024
_BATCH = 2**20
_REMEMBERED = 2**15


class Gram:
    """Inner products of K seeds; implements `genepool.core.axis.InnerProducts`.

    Build with `load_or_build_gram`. Holds a few megabytes, whatever the size of the model. Ask it
    from one thread at a time.

    Args:
        sources: the seeds.
        edges: int64[n+1]: positions from 0 to D at which prefix sums are known.
        prefix: float64[n+1, P, 2]: those sums, as high and low part, for the P = K (K + 1) / 2
            pairs i <= j, row by row.
    """

    def __init__(self, sources: Sources, edges: Int64, prefix: Float64) -> None:
        self._sources = sources
        self._edges = edges
        self._prefix = prefix
        # Sums at positions inside blocks, sorted by position: recipes ask for the same ones again.
        self._seen = np.empty(0, dtype=np.int64)
        self._seen_prefix = np.empty((0, *prefix.shape[1:]))
        seeds = len(sources.checkpoints)
        upper = np.zeros((seeds, seeds), dtype=np.int64)
        upper[np.triu_indices(seeds)] = np.arange(prefix.shape[1])
        self._pairs = np.maximum(upper, upper.T).ravel()

    @property
    def seeds(self) -> int:
        """Number K of seeds."""
        return len(self._sources.checkpoints)

    def between(self, edges: NDArray[np.int64] | Sequence[int]) -> Float64:
        """Inner products over each stretch between neighbouring edges.

        The first time, an edge inside a block costs reading at most one block of each seed.

        Args:
            edges: int64[n+1], not decreasing, inside 0..D.

        Returns:
            float64[n, K, K], symmetric: `sum(seed_i[a:b] * seed_j[a:b])` for each stretch a..b,
            of the seeds' values rounded to float32; zero where a == b. Accurate to 1e-15 of
            `|seed_i| |seed_j|` over that stretch and 1e-30 of it over the whole parameter axis.

        Raises:
            InputError: the edges decrease or leave the parameter axis.
            CheckpointError: a seed's file has been cut short.
        """
        positions = np.asarray(edges, dtype=np.int64)
        size = int(self._edges[-1])
        if (
            positions.ndim != 1
            or positions.size == 0
            or int(positions[0]) < 0
            or int(positions[-1]) > size
            or bool((positions[1:] < positions[:-1]).any())
        ):
            raise InputError(
                f"edges must be positions in 0..{size} that do not decrease; "
                f"got {positions.tolist()[:8]}"
            )
        sums = self._at(positions)
        high, low = _two_sum(sums[1:], -sums[:-1])
        return (high + low)[:, self._pairs].reshape(-1, self.seeds, self.seeds)

    def _at(self, positions: Int64) -> Float64:
        """Prefix sums, float64[n, P, 2], at any positions."""
        block = np.searchsorted(self._edges, positions)
        inside = self._edges[block] != positions
        sums = self._prefix[block]
        if bool(inside.any()):
            wanted = positions[inside]
            found = np.searchsorted(self._seen, wanted)
            known = found < self._seen.size
            known[known] = self._seen[found[known]] == wanted[known]
            if not bool(known.all()):
                self._learn(np.unique(wanted[~known]), np.unique(wanted))
                found = np.searchsorted(self._seen, wanted)
            sums[inside] = self._seen_prefix[found]
        return sums

    def _learn(self, new: Int64, current: Int64) -> None:
        self._sources.check()
        if self._seen.size + new.size > _REMEMBERED:
            kept = np.isin(self._seen, current, assume_unique=True)
            self._seen, self._seen_prefix = self._seen[kept], self._seen_prefix[kept]
        before = np.searchsorted(self._edges, new, side="right") - 1
        rest = _measure(self._sources, self._edges[before], new)
        prefix = _add(self._prefix[before], rest)
        at = np.searchsorted(self._seen, new)
        self._seen = np.insert(self._seen, at, new)
        self._seen_prefix = np.insert(self._seen_prefix, at, prefix, axis=0)


def load_or_build_gram(
    checkpoints: Sequence[Checkpoint],
    layout: Layout,
    cache_dir: Path | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Gram:
    """The seeds' inner products: from the cache, or by reading every seed once.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        cache_dir: where the sums are kept, in one file of a few megabytes that is safe to delete;
            it is named by the seeds' digests and the layout's, and a damaged one is built anew.
        threads: None means all available cores; the result does not depend on it.
        device: as torch writes it; a CUDA device that is there computes the sums. They may differ
            from the CPU's in the 100th bit, and are kept under a name of their own.

    Raises:
        CheckpointError: a weight is NaN or infinite (the message names seed and tensor), or a file
            has been cut short.
        WriteError: the cache cannot be written.
    """
    sources = prepare_sources(checkpoints, layout)
    edges = _block_edges(layout, len(checkpoints))
    by_device = device.startswith("cuda") and _is_there(device)

    def build() -> Float64:
        if by_device:
            from genepool.materialise.device_gram import inner_products

            return _prefix(sources, edges, inner_products(checkpoints, layout, edges, device))
        return _prefix(sources, edges, _blocks(sources, edges, thread_count(threads)))

    if cache_dir is None:
        return Gram(sources, edges, build())
    form = f"{_FORMAT} by torch" if by_device else _FORMAT
    key = hashlib.sha256(
        "\n".join([form, layout.digest, *(c.digest(threads) for c in checkpoints)]).encode()
    ).digest()
    path = cache_dir / f"gram-{key.hex()[:32]}.safetensors"
    prefix = _load(path, key, edges, len(checkpoints))
    if prefix is None:
        prefix = build()
        # The sums of anything else would be kept under these digests.
        for checkpoint in checkpoints:
            checkpoint.look()
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{at(cache_dir)}: cannot be made: {error.strerror}") from error
        write_bytes(path, _pack(key, edges, prefix))
    return Gram(sources, edges, prefix)


def _two_sum(left: Float64, right: Float64) -> tuple[Float64, Float64]:
    """Sum of double-double numbers, float64[..., 2] each; the parts may still overlap."""
    a, b = left[..., 0], right[..., 0]
    total = a + b
    part = total - a
    return total, ((a - (total - part)) + (b - part)) + (left[..., 1] + right[..., 1])


def _add(left: Float64, right: Float64) -> Float64:
    """Sum of double-double numbers, float64[..., 2] each."""
    high, low = _two_sum(left, right)
    total = high + low
    return np.stack([total, low - (total - high)], axis=-1)


def _block_edges(layout: Layout, seeds: int) -> Int64:
    """Tensor boundaries, and multiples of a block inside each tensor."""
    pairs = seeds * (seeds + 1) // 2
    block = _SMALLEST
    while layout.axis.size * pairs > block * _TABLE:
        block *= 2
    pieces = [np.arange(slot.start, slot.stop, block, dtype=np.int64) for slot in layout.slots]
    return np.concatenate([*pieces, np.array([layout.axis.size], dtype=np.int64)])


def _measure(sources: Sources, starts: Int64, stops: Int64) -> Float64:
    from genepool.materialise import kernels

    seeds = len(sources.checkpoints)
    sums = np.empty((starts.size, seeds * (seeds + 1) // 2, 2))
    kernels.inner_products(starts, stops, sources.tensors, sources.addresses, sources.codes, sums)
    return sums


def _blocks(sources: Sources, edges: Int64, threads: int) -> Float64:
    """Inner products between neighbouring edges, float64[n, P, 2]."""
    size = int(edges[-1])
    cuts = np.unique(np.searchsorted(edges, [*range(0, size, _BATCH), size])).tolist()
    parts: list[Float64] = [np.empty(0)] * (len(cuts) - 1)

    def work(_worker: int, item: int) -> None:
        first, last = cuts[item : item + 2]
        parts[item] = _measure(sources, edges[first:last], edges[first + 1 : last + 1])

    Crew(threads).run(len(parts), work)
    return np.concatenate(parts)


def _is_there(device: str) -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    from genepool.materialise.device_gram import is_there

    return is_there(device)


def _prefix(sources: Sources, edges: Int64, blocks: Float64) -> Float64:
    from genepool.materialise import kernels

    _require_finite(sources, edges, blocks)
    prefix = np.empty((edges.size, *blocks.shape[1:]))
    kernels.running_sums(blocks, prefix)
    return prefix


def _require_finite(sources: Sources, edges: Int64, blocks: Float64) -> None:
    seeds = len(sources.checkpoints)
    diagonal = [k * seeds - k * (k - 1) // 2 for k in range(seeds)]
    bad = np.argwhere(~np.isfinite(blocks[:, diagonal, 0]))
    if bad.size == 0:
        return
    block, seed = int(bad[0, 0]), int(bad[0, 1])
    slot = next(slot for slot in sources.layout.slots if slot.stop > edges[block])
    start, stop = (int(edge) - slot.start for edge in edges[block : block + 2])
    require_finite([sources.checkpoints[seed]], slot.name, start, stop)


def _pack(key: bytes, edges: Int64, prefix: Float64) -> bytes:
    check = hashlib.sha256(key + edges.tobytes() + prefix.tobytes()).digest()
    return save({"edges": edges, "prefix": prefix, "check": np.frombuffer(check, dtype=np.uint8)})


def _load(path: Path, key: bytes, edges: Int64, seeds: int) -> Float64 | None:
    """The cached sums, or None if there are none that are whole and for this key."""
    try:
        data = load(read_bytes(path, _LARGEST))
        prefix = np.array(data["prefix"], dtype=np.float64)
        check = hashlib.sha256(key + data["edges"].tobytes() + prefix.tobytes()).digest()
        whole = data["check"].tobytes() == check
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    shape = (edges.size, seeds * (seeds + 1) // 2, 2)
    if not whole or prefix.shape != shape or not np.array_equal(data["edges"], edges):
        return None
    return prefix
