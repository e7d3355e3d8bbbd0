"""Seeds laid out for a device: cut into chunks that are held there, or brought there one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING, as_float32
from genepool.checkpoints.layout import Layout
from genepool.materialise.torch import CODES

# The largest that is moved or allocated at once. A power of two, to which torch would round up
# what it pins.
CHUNK = 2**26

# Pieces of a tensor begin at multiples of this inside it, and so at whole blocks of the kernel.
GRAIN = 4096

# Addresses of which memory is moved sixteen bytes at a time.
ALIGNED = 16

_F32 = FLOATING.index("F32")


@dataclass(frozen=True, slots=True)
class Form:
    """What is alike in all that one launch of a kernel writes; numbers are indices into FLOATING.

    Attributes:
        kinds: the dtype in which each seed lies on the device; float64 seeds lie there as float32,
            which is what is computed with.
        via: the dtype that values are rounded to before they are converted to the tensor's.
        out: the tensor's dtype.
        aligned: whether the addresses of tensors are multiples of 16 bytes.
    """

    kinds: tuple[int, ...]
    via: int
    out: int
    aligned: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """Bytes of an element of each seed."""
        return tuple(DTYPES[FLOATING[kind]].size for kind in self.kinds)


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """A stretch of a tensor whose seeds lie in one chunk.

    Attributes:
        name: the tensor's.
        within: the first element in the tensor.
        start: the same on the parameter axis.
        offsets: bytes from the beginning of the chunk to each seed's elements.
        target: flat and contiguous: the elements that are written.
    """

    name: str
    within: int
    start: int
    offsets: tuple[int, ...]
    target: torch.Tensor

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + self.target.numel()


@dataclass(frozen=True, eq=False, slots=True)
class Chunk:
    """Pieces of one form whose seeds lie together, `size` bytes in all."""

    form: Form
    pieces: tuple[Piece, ...]
    size: int


def cut_into_chunks(
    checkpoints: Sequence[Checkpoint],
    layout: Layout,
    targets: Mapping[str, torch.Tensor],
    *,
    as_exported: bool,
) -> tuple[Chunk, ...]:
    """Chunks of all seeds for the tensors that are given.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        targets: contiguous tensors of floating dtypes, by name.
        as_exported: as `Materialiser` takes it.

    Returns:
        Chunks of at most `CHUNK` bytes (those of very many seeds may be larger), those of one form
        side by side, each form in the order of the parameter axis.
    """
    slots = [slot for slot in layout.slots if slot.name in targets and slot.stop > slot.start]
    forms: dict[Form, list[Piece]] = {}
    for slot in slots:
        target = targets[slot.name].view(-1)[: slot.stop - slot.start]
        out = FLOATING.index(CODES[target.dtype])
        via = FLOATING.index(slot.dtype) if as_exported else out
        # float32 holds what is computed as it is: to round to it, or to float64, changes nothing.
        via = out if DTYPES[FLOATING[via]].size > 2 else via
        held = (FLOATING.index(c.tensors[slot.name].dtype) for c in checkpoints)
        kinds = tuple(_F32 if DTYPES[FLOATING[kind]].size == 8 else kind for kind in held)
        form = Form(kinds, via, out, target.data_ptr() % ALIGNED == 0)
        forms.setdefault(form, []).append(Piece(slot.name, 0, slot.start, (), target))
    return tuple(chunk for form, wholes in forms.items() for chunk in _cut(form, wholes))


def _cut(form: Form, wholes: Iterable[Piece]) -> Iterable[Chunk]:
    room = max(CHUNK, 2 * GRAIN * sum(form.widths))
    pieces: list[Piece] = []
    used = 0
    for whole in wholes:
        done, total = 0, whole.target.numel()
        while done < total:
            fit = (room - used - ALIGNED * len(form.widths)) // sum(form.widths)
            count = total - done
            if count > fit:
                count = fit // GRAIN * GRAIN
            if count <= 0:
                yield Chunk(form, tuple(pieces), used)
                pieces, used = [], 0
                continue
            offsets: list[int] = []
            for width in form.widths:
                offsets.append(used)
                used += -(-count * width // ALIGNED) * ALIGNED
            target = whole.target[done : done + count]
            start = whole.start + done
            pieces.append(Piece(whole.name, done, start, tuple(offsets), target))
            done += count
    if pieces:
        yield Chunk(form, tuple(pieces), used)


def runs(chunks: Sequence[Chunk]) -> list[range]:
    """The numbers of chunks of one form that stand side by side."""
    found = groupby(range(len(chunks)), key=lambda number: chunks[number].form)
    return [range(group[0], group[-1] + 1) for group in (list(same) for _, same in found)]


def fill(chunk: Chunk, checkpoints: Sequence[Checkpoint], out: NDArray[np.uint8]) -> None:
    """Write the seeds of a chunk into memory of the host, uint8[size] or more."""
    for piece in chunk.pieces:
        count = piece.target.numel()
        seeds = zip(checkpoints, piece.offsets, chunk.form.widths, strict=True)
        for checkpoint, offset, width in seeds:
            tensor = checkpoint.tensors[piece.name]
            raw = tensor.raw[piece.within : piece.within + count]
            if raw.itemsize != width:
                raw = as_float32(raw, tensor.dtype)
            out[offset : offset + count * width] = np.frombuffer(raw, dtype=np.uint8)
