"""Torch tensors as places to write genomes into, and what is computed on the CPU copied there."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING
from genepool.checkpoints.layout import Layout, Slot
from genepool.core.genome import Genome, Recipe
from genepool.errors import InputError
from genepool.materialise.cpu import (
    ITEM,
    Destination,
    copy_further_rows,
    express_piece,
    require_names,
)
from genepool.materialise.tensor_table import Terms, prepare_sources
from genepool.messages import one_line, some
from genepool.threads import Crew, thread_count

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES = {code: dtype for dtype, code in CODES.items()}

_BUFFER = 64 * 2**20


def destination(tensor: torch.Tensor) -> Destination:
    """The memory of a CPU tensor or parameter, shared: what is written there is the tensor.

    It stays valid as long as the tensor keeps its storage: not after `module.to(...)` or an
    assignment to `.data`.

    Raises:
        InputError: the tensor is on another device (use `CopyingMaterialiser`), not contiguous, or
            of a dtype that genepool does not read.
    """
    if tensor.device.type != "cpu":
        raise InputError(f"expected a tensor on the CPU; got one on '{tensor.device}'")
    code = _code(tensor)
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        raise InputError(
            f"expected a contiguous tensor; got strides {tuple(tensor.stride())} for shape "
            f"{tuple(tensor.shape)}"
        )
    raw = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return Destination(code, np.frombuffer(raw, dtype=DTYPES[code].storage))


class CopyingMaterialiser:
    """As `Materialiser`, into tensors on any device and of any strides, through a reused buffer.

    Rows are computed on the CPU into a buffer of about 64 MiB (one row, if that is larger), in the
    tensor's dtype, and copied from there; for a CUDA device the buffer is pinned.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        tensors: by name, as `Materialiser` takes destinations.
        threads: None means all available cores.
        as_exported: as `Materialiser` takes it.

    Raises:
        InputError: a name too many or too few, a wrong shape or dtype, two names for one tensor,
            or a tensor without memory (device "meta").
        CheckpointError: a file has been cut short since it was opened.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        layout: Layout,
        tensors: Mapping[str, torch.Tensor | None],
        threads: int | None = None,
        *,
        as_exported: bool = False,
    ) -> None:
        self._sources = prepare_sources(checkpoints, layout)
        require_names(layout, tensors)
        given = {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
        _require_separate(given)
        self._tensors = given
        self._as_exported = as_exported
        self._largest, self._pinned = 1, False
        for slot in layout.slots:
            if (tensor := given.get(slot.name)) is None:
                continue
            _require_fit(slot.name, checkpoints[0].tensors[slot.name].shape, tensor)
            _copy_further_rows(slot, checkpoints[0].tensors[slot.name], tensor)
            if _code(tensor) not in FLOATING:
                raise InputError(
                    f"tensor '{one_line(slot.name)}': expected a floating dtype; got {tensor.dtype}"
                )
            row = math.prod(slot.shape[1:]) * tensor.element_size()
            self._largest = max(self._largest, min(_BUFFER // row, _rows(slot.shape)) * row, row)
            self._pinned = self._pinned or tensor.device.type == "cuda"
        for name in layout.carried:
            if (tensor := given.get(name)) is not None:
                _copy_carried(checkpoints[0].tensors[name], tensor)
        self._made: torch.Tensor | None = None
        self._crew = Crew(thread_count(threads))

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What is written, by name; carried tensors too."""
        return self._tensors

    def write(self, genome: Genome, only: Collection[str] | None = None) -> None:
        """Compute a genome and copy it into the tensors; arithmetic as `Materialiser.write`.

        Args:
            genome: over these seeds.
            only: names of the tensors that are written; None means all.

        Raises:
            InputError: the genome's length or number of seeds is another.
            CheckpointError: a seed's file has been cut short.
        """
        if isinstance(genome, Recipe):
            self._sources.check()
        terms = self._sources.terms(genome)
        for index, slot in enumerate(self._sources.layout.slots):
            tensor = self._tensors.get(slot.name)
            if tensor is None or (only is not None and slot.name not in only):
                continue
            target = tensor[: slot.shape[0]] if slot.shape else tensor.reshape(1)
            elements = math.prod(slot.shape[1:])
            step = max(1, self._buffer().numel() // (elements * tensor.element_size()))
            for row in range(0, _rows(slot.shape), step):
                part = target[row : row + step]
                used = self._buffer()[: part.numel() * part.element_size()]
                used = used.view(tensor.dtype)
                self._fill(terms, index, slot.start + row * elements, destination(used))
                part.copy_(used.reshape(part.shape))

    def _buffer(self) -> torch.Tensor:
        if self._made is None:
            self._made = torch.empty(self._largest, dtype=torch.uint8, pin_memory=self._pinned)
        return self._made

    def _fill(self, terms: Terms, tensor: int, start: int, out: Destination) -> None:
        via = self._sources.layout.slots[tensor].dtype if self._as_exported else "F32"

        def work(_worker: int, item: int) -> None:
            low = item * ITEM
            high = min(low + ITEM, out.raw.size)
            piece = Destination(out.dtype, out.raw[low:high])
            express_piece(terms, tensor, start + low, start + high, piece, via)

        self._crew.run(-(-out.raw.size // ITEM), work)


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _code(tensor: torch.Tensor) -> str:
    code = CODES.get(tensor.dtype)
    if code is None:
        raise InputError(f"expected a tensor of {', '.join(DTYPES)}; got {tensor.dtype}")
    return code


def _require_fit(name: str, shape: tuple[int, ...], tensor: torch.Tensor) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(
            f"tensor '{one_line(name)}': the checkpoint's shape is {list(shape)}, the model's "
            f"{list(tensor.shape)}"
        )
    if tensor.device.type == "meta":
        raise InputError(
            f"tensor '{one_line(name)}' is on the device 'meta' and has no memory; load the model "
            "onto a real device first"
        )
    if any(step == 0 and size > 1 for step, size in zip(tensor.stride(), shape, strict=True)):
        raise InputError(
            f"tensor '{one_line(name)}' is expanded: several of its elements are one place in "
            "memory; make it of its own (clone() in torch)"
        )


def _require_separate(tensors: Mapping[str, torch.Tensor]) -> None:
    spans: list[tuple[str, int, int, str]] = []
    for name, tensor in tensors.items():
        if tensor.device.type == "meta" or tensor.numel() == 0:
            continue
        # Windows of one tensor may lie between each other's rows: of those only the beginning.
        length = tensor.nbytes if tensor.is_contiguous() else tensor.element_size()
        start = tensor.data_ptr()
        spans.append((str(tensor.device), start, start + length, name))
    for (device, _, end, first), (other, start, _, second) in pairwise(sorted(spans)):
        if device == other and start < end:
            raise InputError(
                f"destinations {some([first, second])} share memory; give None for the one that "
                "is tied to the other"
            )


def _copy_further_rows(slot: Slot, first: Tensor, tensor: torch.Tensor) -> None:
    if first.shape == slot.shape or _code(tensor) not in FLOATING:
        return
    whole = torch.empty(tuple(tensor.shape), dtype=tensor.dtype)
    copy_further_rows(slot, first, destination(whole))
    tensor[slot.shape[0] :].copy_(whole[slot.shape[0] :])


def _copy_carried(source: Tensor, tensor: torch.Tensor) -> None:
    _require_fit(source.name, source.shape, tensor)
    if _code(tensor) != source.dtype:
        raise InputError(
            f"carried tensor '{one_line(source.name)}': the checkpoint's dtype is {source.dtype}, "
            f"the model's {_code(tensor)}"
        )
    values = torch.empty(source.raw.nbytes, dtype=torch.uint8)
    values.numpy()[:] = np.frombuffer(source.raw, dtype=np.uint8)
    tensor.copy_(values.view(TORCH_DTYPES[source.dtype]).reshape(tensor.shape))
