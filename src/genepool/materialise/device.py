"""Genomes into weights where these live: computed on a device, from seeds that lie there or that
are brought there while others are computed with."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import FLOATING
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome, Recipe
from genepool.materialise.chunks import CHUNK, Chunk, Piece, cut_into_chunks, fill, runs
from genepool.materialise.cpu import SeedsPlace
from genepool.materialise.device_memory import free_bytes, free_host_bytes, seeds_fit
from genepool.materialise.tensor_table import prepare_sources
from genepool.materialise.torch import TORCH_DTYPES, CopyingMaterialiser

_Event = Any  # Of torch, whose annotations of events contradict each other.

# Elements that torch's operations take at a time: what they need besides is bounded by it.
_AT_ONCE = 2**24


class DeviceMaterialiser:
    """As `Materialiser`, into tensors of a device, computed on that device: the same bits.

    Seeds are held on the device, or in pinned memory of the host, from which they are brought there
    in chunks, each while the one before is computed with. One kernel of triton does the work where
    there is one, and otherwise operations of torch do. Computed on the CPU and copied, as by
    `CopyingMaterialiser`, are dense genomes, tensors that are not contiguous or on another device,
    and all of a model whose seeds are neither to be held on the device nor can be streamed to it.

    Where a recipe is what the last one was, nothing is written, unless an operation of torch has
    changed the tensor since; what is changed behind torch's back (through `.data`) is not noticed.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        tensors: by name, as `CopyingMaterialiser` takes them; at least one is on a device.
        threads: that compute on the CPU; None means all available cores.
        as_exported: as `Materialiser` takes it.
        seeds: where seeds lie: on the device; in the host's memory; or, with "auto", on the device
            if they fit beside the live model and its work.
        by_triton: whether the kernel is used; None means where there is one for the device.

    Raises:
        InputError, CheckpointError: as `CopyingMaterialiser`.
        torch.OutOfMemoryError: the device has no room for seeds that are to lie there.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        layout: Layout,
        tensors: Mapping[str, torch.Tensor | None],
        threads: int | None = None,
        *,
        as_exported: bool = False,
        seeds: SeedsPlace = "auto",
        by_triton: bool | None = None,
    ) -> None:
        self._copying = CopyingMaterialiser(
            checkpoints, layout, tensors, threads, as_exported=as_exported
        )
        self._sources = prepare_sources(checkpoints, layout)
        held = self._copying.tensors
        merged = [slot.name for slot in layout.slots if slot.name in held]
        self._device = _main_device([held[name] for name in merged])
        targets = {
            name: held[name]
            for name in merged
            if held[name].device == self._device and held[name].is_contiguous()
        }
        chunks = cut_into_chunks(checkpoints, layout, targets, as_exported=as_exported)
        self._seeds = _place(chunks, checkpoints, self._device, seeds)
        if self._seeds is None:
            chunks, targets = (), {}
        self._rest = [name for name in merged if name not in targets]
        self._chunks = chunks
        pieces = [(number, p) for number, chunk in enumerate(chunks) for p in chunk.pieces]
        self._owners = np.array([number for number, _ in pieces], dtype=np.int64)
        self._starts = np.array([piece.start for _, piece in pieces], dtype=np.int64)
        self._stops = np.array([piece.stop for _, piece in pieces], dtype=np.int64)
        self._targets = list(targets.values())
        use_triton = has_kernel(self._device) if by_triton is None else by_triton
        self._computing: _ByTriton | _ByTorch | None = None
        if self._seeds is not None and chunks:
            self._computing = (
                _ByTriton(chunks, self._seeds, self._device)
                if use_triton
                else _ByTorch(chunks, self._seeds)
            )
        self._last: _Written | None = None

    @property
    def resident_bytes(self) -> int:
        """Bytes of the seeds that lie on the device; 0 if they do not."""
        held = isinstance(self._seeds, _Resident)
        return sum(chunk.size for chunk in self._chunks) if held else 0

    def write(self, genome: Genome) -> None:
        """Compute a genome into the tensors; arithmetic as `Materialiser.write`.

        On a device that works on while the host goes on, it may not be done yet; what is asked of
        the model afterwards waits for it.

        Raises:
            InputError: the genome's length or number of seeds is another.
            CheckpointError: a seed's file has been cut short.
            torch.OutOfMemoryError: the device has no room for what is in between.
        """
        last, self._last = self._last, None
        if not isinstance(genome, Recipe) or self._computing is None or self._seeds is None:
            self._copying.write(genome)
            return
        self._sources.check()
        terms = self._sources.terms(genome)
        written = _Written(terms.bounds, terms.coefs, _versions(self._targets))
        child = _child(written, last)
        self._computing.begin(child)
        for place, numbers in self._seeds.bring(self._touched(child)):
            self._computing.run(numbers, place)
        if self._rest:
            self._copying.write(genome, self._rest)
        self._last = _Written(written.bounds, written.coefs, _versions(self._targets))

    def _touched(self, child: _Child) -> list[int]:
        """The chunks in which something changes."""
        if child.changed.all():
            return list(range(len(self._chunks)))
        first, last = child.places(self._starts, self._stops)
        return np.unique(self._owners[child.before[last] > child.before[first]]).tolist()


def resident_bytes(writer: object) -> int:
    """Bytes of the seeds that a writer holds on its devices, if on any."""
    return int(getattr(writer, "resident_bytes", 0))


def has_kernel(device: torch.device) -> bool:
    """Whether triton is there and compiles for a device."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, eq=False, slots=True)
class _Written:
    """A recipe that was written: int64[S+1], float32[S, K], and the tensors' versions afterwards.

    torch counts the operations that change a tensor. There is no count (None) of tensors that were
    made in inference mode.
    """

    bounds: NDArray[np.int64]
    coefs: NDArray[np.float32]
    versions: list[int] | None


@dataclass(frozen=True, eq=False, slots=True)
class _Child:
    """A recipe, cut besides where the last one was.

    Attributes:
        bounds: int64[S+1].
        coefs: float32[S, K].
        changed: bool[S]: whether the last one was different there.
        before: int64[S+1]: how many of the segments before are changed.
    """

    bounds: NDArray[np.int64]
    coefs: NDArray[np.float32]
    changed: NDArray[np.bool_]
    before: NDArray[np.int64]

    def places(
        self, starts: NDArray[np.int64], stops: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first segment that positions start..stop lie in, and the one after the last."""
        first = np.searchsorted(self.bounds, starts, side="right") - 1
        return first, np.searchsorted(self.bounds, stops, side="left")


def _child(now: _Written, last: _Written | None) -> _Child:
    if last is None or last.versions is None or last.versions != now.versions:
        changed = np.ones(now.coefs.shape[0], dtype=np.bool_)
        bounds, coefs = now.bounds, now.coefs
    else:
        bounds = np.sort(np.concatenate([now.bounds, last.bounds]))
        bounds = bounds[np.append(True, bounds[1:] != bounds[:-1])]
        coefs, old = (
            one.coefs[np.searchsorted(one.bounds, bounds[:-1], side="right") - 1]
            for one in (now, last)
        )
        changed = (coefs.view(np.uint32) != old.view(np.uint32)).any(axis=1)
    return _Child(bounds, coefs, changed, np.concatenate([[0], np.cumsum(changed)]))


def _versions(tensors: Sequence[torch.Tensor]) -> list[int] | None:
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return None


def _main_device(tensors: Sequence[torch.Tensor]) -> torch.device:
    """The device that holds most of the tensors, the CPU only if there is no other."""
    sizes: dict[torch.device, int] = {}
    for tensor in tensors:
        sizes[tensor.device] = sizes.get(tensor.device, 0) + tensor.nbytes
    others = [device for device in sizes if device.type != "cpu"]
    return max(others or sizes or [torch.device("cpu")], key=lambda one: sizes.get(one, 0))


def _place(
    chunks: Sequence[Chunk],
    checkpoints: Sequence[Checkpoint],
    device: torch.device,
    seeds: SeedsPlace,
) -> _Seeds | None:
    """The seeds where they are to lie; None if the device cannot have them."""
    size = sum(chunk.size for chunk in chunks)
    if seeds == "auto":
        model = sum(piece.target.nbytes for chunk in chunks for piece in chunk.pieces)
        if seeds_fit(size, model, free_bytes(device)):
            try:
                return _Resident(chunks, checkpoints, device)
            except torch.OutOfMemoryError:
                # In pieces that are too small, or taken by somebody else meanwhile.
                torch.cuda.empty_cache()
    elif seeds == "device":
        return _Resident(chunks, checkpoints, device)
    room = free_host_bytes()
    streams = device.type in ("cuda", "cpu")
    if streams and (room is None or 2 * size <= room):
        return _Streamed(chunks, checkpoints, device)
    return None


class _Resident:
    """Seeds that lie on the device."""

    places = 1

    def __init__(
        self, chunks: Sequence[Chunk], checkpoints: Sequence[Checkpoint], device: torch.device
    ) -> None:
        largest = max((chunk.size for chunk in chunks), default=0)
        buffer = torch.empty(largest, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._memory: list[torch.Tensor] = []
        for chunk in chunks:
            fill(chunk, checkpoints, buffer.numpy())
            held = torch.empty(chunk.size, dtype=torch.uint8, device=device)
            held.copy_(buffer[: chunk.size])
            self._memory.append(held)
        self._runs = runs(chunks)

    def memory(self, place: int, chunk: int) -> torch.Tensor:
        """Where a chunk lies."""
        return self._memory[chunk]

    def bring(self, wanted: Sequence[int]) -> Iterator[tuple[int, range]]:
        """All chunks of a form, where any of them is wanted."""
        for numbers in self._runs:
            if any(number in numbers for number in wanted):
                yield 0, numbers


class _Streamed:
    """Seeds in pinned memory of the host. A stream of its own brings a chunk into one of two
    buffers of the device while what is in the other is computed with."""

    places = 2

    def __init__(
        self, chunks: Sequence[Chunk], checkpoints: Sequence[Checkpoint], device: torch.device
    ) -> None:
        cuda = device.type == "cuda"
        self._host: list[torch.Tensor] = []
        for chunk in chunks:
            # Of one size, to which torch rounds up what it pins.
            held = torch.empty(max(CHUNK, chunk.size) if cuda else chunk.size, dtype=torch.uint8)
            held = held.pin_memory() if cuda else held
            fill(chunk, checkpoints, held.numpy())
            self._host.append(held[: chunk.size])
        largest = max((chunk.size for chunk in chunks), default=0)
        self._buffers = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(2)]
        self._stream = torch.cuda.Stream(device) if cuda else None
        # The memory of the buffers may still be read by what was asked of the device before.
        event = torch.cuda.current_stream(device).record_event() if cuda else None
        self._read: list[_Event | None] = [event, event]

    def memory(self, place: int, chunk: int) -> torch.Tensor:
        """The buffer of a place."""
        return self._buffers[place]

    def bring(self, wanted: Sequence[int]) -> Iterator[tuple[int, range]]:
        """One chunk after another; the next one is on its way meanwhile."""
        arrived = [self._fetch(0, wanted[0]), None] if wanted else [None, None]
        for number, chunk in enumerate(wanted):
            place, other = number % 2, (number + 1) % 2
            if number + 1 < len(wanted):
                arrived[other] = self._fetch(other, wanted[number + 1])
            if self._stream is not None and (event := arrived[place]) is not None:
                current = torch.cuda.current_stream(self._stream.device)
                current.wait_event(event)
                yield place, range(chunk, chunk + 1)
                self._read[place] = current.record_event()
            else:
                yield place, range(chunk, chunk + 1)

    def _fetch(self, place: int, chunk: int) -> _Event | None:
        """Copy a chunk into a buffer, once what was computed from the buffer is done."""
        source = self._host[chunk]
        target = self._buffers[place][: source.numel()]
        if self._stream is None:
            target.copy_(source)
            return None
        with torch.cuda.stream(self._stream):
            if (event := self._read[place]) is not None:
                self._stream.wait_event(event)
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()


# The seeds of all chunks, in one place on the device or brought to two in turn: `bring` says which
# are at which place until the next are, and `memory` where those of a chunk lie there, uint8.
_Seeds = _Resident | _Streamed


class _ByTriton:
    """Computes a child by one launch for all chunks that are brought together; see `triton_kernel`.

    `begin` gets ready for a child, and `run` writes what chunks hold the seeds of, where it is
    changed; so do those of `_ByTorch`.
    """

    def __init__(self, chunks: Sequence[Chunk], seeds: _Seeds, device: torch.device) -> None:
        from genepool.materialise import triton_kernel

        self._kernel = triton_kernel
        self._device = device
        self._forms = [chunk.form for chunk in chunks]
        counts = [
            -(-piece.target.numel() // triton_kernel.BLOCK)
            for chunk in chunks
            for piece in chunk.pieces
        ]
        before = np.concatenate([[0], np.cumsum(counts)])
        pieces = np.cumsum([0, *(len(chunk.pieces) for chunk in chunks)])
        self._blocks = before[pieces].tolist()
        owners = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(int(before[-1])) - before[owners]
        starts = np.array([piece.start for chunk in chunks for piece in chunk.pieces])
        self._owners = self._there(owners.astype(np.int32))
        self._starts = self._there(starts[owners] + within * triton_kernel.BLOCK)
        self._tables = [
            self._there(_table(chunks, seeds, place, before)) for place in range(seeds.places)
        ]
        self._segments = self._firsts = torch.empty(0)
        self._count = 0

    def begin(self, child: _Child) -> None:
        bits = child.coefs.T.copy().view(np.int32)
        table = np.stack([child.bounds[1:], child.changed, *bits]).astype(np.int64)
        self._count = table.shape[1]
        self._segments = self._there(table)
        self._firsts = torch.searchsorted(
            self._segments[0], self._starts, right=True, out_int32=True
        )

    def _there(self, table: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(table).to(self._device)  # pyright: ignore[reportUnknownMemberType]

    def run(self, numbers: range, place: int) -> None:
        first = self._blocks[numbers.start]
        cuda = self._device.type == "cuda"
        # Kernels of triton are launched on the current device, wherever their arguments lie.
        with torch.cuda.device(self._device) if cuda else nullcontext():
            self._kernel.express(
                self._forms[numbers.start],
                (self._owners, self._tables[place], self._firsts, self._segments),
                (first, self._blocks[numbers.stop] - first, self._count),
            )


def _table(
    chunks: Sequence[Chunk], seeds: _Seeds, place: int, before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64[pieces, 4 + K], as `triton_kernel.express` takes it."""
    rows: list[list[int]] = []
    for number, chunk in enumerate(chunks):
        base = seeds.memory(place, number).data_ptr()
        for piece in chunk.pieces:
            target = piece.target
            head = [piece.start, target.numel(), int(before[len(rows)]), target.data_ptr()]
            rows.append([*head, *(base + offset for offset in piece.offsets)])
    return np.array(rows, dtype=np.int64)


class _ByTorch:
    """The same by operations of torch, which rounds each: to multiply and to add in one would round
    once."""

    def __init__(self, chunks: Sequence[Chunk], seeds: _Seeds) -> None:
        self._chunks = chunks
        self._seeds = seeds
        self._child: _Child | None = None

    def begin(self, child: _Child) -> None:
        self._child = child

    def run(self, numbers: range, place: int) -> None:
        child = self._child
        if child is None:
            raise RuntimeError("there is no child to compute")
        for number in numbers:
            chunk, memory = self._chunks[number], self._seeds.memory(place, number)
            for piece in chunk.pieces:
                seeds = [
                    memory[offset : offset + piece.target.numel() * width].view(
                        TORCH_DTYPES[FLOATING[kind]]
                    )
                    for offset, width, kind in zip(
                        piece.offsets, chunk.form.widths, chunk.form.kinds, strict=True
                    )
                ]
                first, last = child.places(np.array(piece.start), np.array(piece.stop))
                for segment in range(int(first), int(last)):
                    if child.changed[segment]:
                        low = max(int(child.bounds[segment]), piece.start) - piece.start
                        high = min(int(child.bounds[segment + 1]), piece.stop) - piece.start
                        for at in range(low, high, _AT_ONCE):
                            part = slice(at, min(at + _AT_ONCE, high))
                            self._express(piece, seeds, part, child.coefs[segment], chunk.form.via)

    @staticmethod
    def _express(
        piece: Piece,
        seeds: Sequence[torch.Tensor],
        part: slice,
        coefs: NDArray[np.float32],
        via: int,
    ) -> None:
        total: torch.Tensor | None = None
        for coef, seed in zip(coefs.tolist(), seeds, strict=True):
            if coef != 0:
                term = seed[part].to(torch.float32) * coef
                total = term if total is None else total + term
        target = piece.target[part]
        if total is None:
            target.zero_()
            return
        target.copy_(total.to(TORCH_DTYPES[FLOATING[via]]))
