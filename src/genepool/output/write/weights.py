"""Merged tensors into checkpoint directories: streamed, named as Hugging Face has it, atomic."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from genepool.checkpoints.depth import depth_key
from genepool.checkpoints.files.atomic import new_directory, put_directory, sync_directory
from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING, all_finite, as_float32, from_float32
from genepool.checkpoints.files.header import header
from genepool.checkpoints.layout import Layout
from genepool.checkpoints.model_files.side_files import side_files
from genepool.checkpoints.pipelines.files import pipeline_files
from genepool.checkpoints.pipelines.variants import weights_stem
from genepool.core.genome import Genome
from genepool.errors import CheckpointError, GenepoolError, InputError
from genepool.materialise.cpu import Destination, express_piece
from genepool.materialise.tensor_table import prepare_sources, require_finite
from genepool.messages import at, one_line
from genepool.output.own_files import require_free, require_own_checkpoint
from genepool.output.write import stream
from genepool.output.write.stream import Bytes
from genepool.threads import Crew, Progress, thread_count

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Writing:
    """How weights are written.

    Attributes:
        dtype: of all merged tensors, as safetensors names it; None keeps the first seed's, tensor
            by tensor. If given, it is entered into a copied `config.json` too.
        shard_bytes: no file holds more bytes of tensors, unless a single tensor is larger.
        overwrite: a checkpoint that genepool wrote in that place before is replaced, unless it is
            among what is merged.

    Raises:
        InputError: an unknown dtype, or a size below 1.
    """

    dtype: str | None = None
    shard_bytes: int = SHARD_BYTES
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in FLOATING:
            raise InputError(
                f"dtype: expected one of {', '.join(FLOATING)}; got '{one_line(self.dtype)}'"
            )
        if self.shard_bytes < 1:
            raise InputError(f"shard_bytes: expected at least 1; got {self.shard_bytes}")


# Threads that wait for the disk while others compute.
_AT_THE_DISK = 2

# How the names of weights' files and their indices go on after the stem.
_WEIGHTS = r"(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"

# Computes elements start..stop of a tensor of the axis into the beginning of the destination:
# produce(tensor, start, stop, destination), from several threads at a time. It refuses what float16
# cannot hold (`require_range`).
Produce = Callable[[int, int, int, Destination], None]


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor to be written: merged (`tensor` is its index in the layout) or carried (None).

    Of a merged one the first `merged` elements are; any further ones are the first seed's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    tensor: int | None
    merged: int

    @property
    def nbytes(self) -> int:
        return self.elements * DTYPES[self.dtype].size


@dataclass(frozen=True, slots=True)
class _Part:
    """Tensors that are written together: a single model's, or those of a pipeline's component.

    Attributes:
        folder: that the files go into, with a slash; "" for the directory itself.
        stem: how their names begin.
        prefix: of the tensors' names, which the files leave out.
        entries: the tensors, in the order of the files.
    """

    folder: str
    stem: str
    prefix: str
    entries: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the new checkpoint: its header, and where in it each tensor begins."""

    name: str
    header: bytes
    entries: tuple[_Entry, ...]
    offsets: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(entry.nbytes for entry in self.entries)


def genome_tensors(genome: Genome, checkpoints: Sequence[Checkpoint], layout: Layout) -> Produce:
    """The function that computes the tensors of a genome over these seeds, for `write_tensors`.

    It raises CheckpointError where a seed holds NaN or infinity, and GenepoolError for values
    beyond the range of the dtype.
    """
    sources = prepare_sources(checkpoints, layout)
    terms = sources.terms(genome)

    def produce(tensor: int, start: int, stop: int, out: Destination) -> None:
        origin = layout.slots[tensor].start
        express_piece(terms, tensor, origin + start, origin + stop, out)
        if not all_finite(out.raw, out.dtype):
            name = layout.slots[tensor].name
            require_finite(sources.checkpoints, name, start, stop)
            require_range(name, out)

    return produce


def require_range(name: str, out: Destination) -> None:
    """Raise GenepoolError if a tensor's values, finite as float32, are not so in its dtype."""
    if not all_finite(out.raw, out.dtype):
        advice = "choose dtype BF16 or F32" if out.dtype == "F16" else "choose smaller weights"
        limit = "float16 (65504)" if out.dtype == "F16" else out.dtype
        raise GenepoolError(
            f"tensor '{one_line(name)}' has values beyond the range of {limit}; {advice}"
        )


def write_tensors(
    produce: Produce,
    first: Checkpoint,
    layout: Layout,
    directory: Path | str,
    writing: Writing = Writing(),
    *,
    metadata: Mapping[str, str] | None = None,
    extra: Mapping[str, bytes | Path] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Write merged tensors as an ordinary checkpoint directory; equal input gives equal bytes.

    `model.safetensors`, or `model-00001-of-0000N.safetensors` and an index, hold the merged
    tensors and those carried over from the first seed, in depth order (wider dtypes first, so that
    every tensor is aligned). Of a pipeline, each component that evolves has such files in a folder
    of its own, named as its library finds them. Where the first seed is a directory, its other
    files (configuration, tokenizer, whole components of a pipeline, ...) are copied, as
    `side_files` and `pipeline_files` say. Nothing is visible under `directory` until all of it is
    on disk. Memory: 16 MB per thread, and hardly more than 256 MB.

    Args:
        produce: called as produce(tensor, start, stop, destination) for pieces of at most 2**19
            elements of each tensor of the layout, in any order and from several threads.
        first: the seed that gives names, shapes, dtypes, carried tensors and other files.
        layout: of the seeds.
        directory: new, or empty, or `writing` says otherwise; missing parents are made.
        writing: dtype and size of the files.
        metadata: of the files' headers. `format`, which transformers needs, is the first seed's.
        extra: further files by plain name, which take precedence over the seed's.
        threads: None means all available cores; the bytes do not depend on it.
        progress: called with the fraction done, from any thread.
        check: called with the directory in which all files lie before it gets its name; what it
            raises gives up, and nothing is left.

    Returns:
        The directory.

    Raises:
        InputError: an argument is unusable, or the directory is not empty.
        CheckpointError: a seed's file has been cut short or holds NaN or infinity, or a model file
            links out of the seed.
        GenepoolError: too little space (checked before), a failed write, or values beyond the
            dtype's range; the half-written files are removed.
    """
    head = {**(metadata or {}), "format": first.metadata.get("format", "pt")}
    pipeline = first.pipeline
    own_files = (
        side_files(first, writing.dtype)
        if pipeline is None
        else pipeline_files(first, pipeline, writing.dtype)
    )
    others = {**own_files, **(extra or {})}
    files: list[_File] = []
    parts = _parts(first, layout, writing.dtype)
    for part in parts:
        # Programs that load image generators from one file load one.
        planned = _plan(part, sys.maxsize if first.evolving else writing.shard_bytes, head)
        files += planned
        if len(planned) > 1:
            others[f"{part.folder}{part.stem}.safetensors.index.json"] = _index(part, planned)
    weights = re.compile("|".join(re.escape(p.folder + p.stem) + _WEIGHTS for p in parts))
    own = partial(
        require_own_checkpoint,
        names={*others},
        known=lambda name: weights.fullmatch(name) is not None,
    )
    target = require_free(
        Path(directory),
        own if writing.overwrite else None,
        "overwrite it (--overwrite) if it is a checkpoint that genepool wrote",
    )
    if target.is_mount():
        raise InputError(
            f"{at(target)}: is a mount point (a volume of a container?), which a new directory "
            "cannot take the place of; name one inside it"
        )
    sizes = [*(file.size for file in files), *map(_size, others.values())]
    total = sum(sizes)
    _require_space(target, total)
    try:
        with new_directory(target) as temporary:
            job = _Job(produce, first, total, progress)
            large = max(sizes) >= stream.DIRECT_BYTES
            crew = Crew(thread_count(threads) + (_AT_THE_DISK if large else 0))
            folders = {temporary, *(temporary / name for name in map(os.path.dirname, others))}
            folders |= {(temporary / file.name).parent for file in files}
            for folder in sorted(folders):
                folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                fill = partial(job.fill, file)
                stream.write_file(temporary / file.name, file.size, fill, crew, job.count)
            for name, data in sorted(others.items()):
                if isinstance(data, Path):
                    _copy(data, temporary / name, crew, job.count)
                else:
                    _write(temporary / name, data)
                    job.count(len(data))
            for folder in folders:
                sync_directory(folder)
            if check is not None:
                check(temporary)
            put_directory(temporary, target)
        sync_directory(target.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; make room or choose another place: nothing was kept" if full else ""
        raise GenepoolError(f"{at(target)}: cannot be written: {error.strerror}{advice}") from error
    return Path(directory)


class _Job:
    """Computes the bytes of files, counting what is done."""

    def __init__(
        self, produce: Produce, first: Checkpoint, total: int, progress: Progress | None
    ) -> None:
        self._produce = produce
        self._first = first
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """Take note that `size` bytes have been written."""
        with self._lock:
            self._done += size
            if self._progress is not None:
                self._progress(self._done / self._total)

    def fill(self, file: _File, begin: int, stop: int, block: Bytes) -> None:
        """Bytes begin..stop of a file, both multiples of 8 or its ends."""
        head = file.header[begin:stop]
        block[: len(head)] = np.frombuffer(head, dtype=np.uint8)
        place = max(0, bisect_right(file.offsets, begin) - 1)
        while place < len(file.entries) and file.offsets[place] < stop:
            entry, origin = file.entries[place], file.offsets[place]
            low, high = max(begin, origin), min(stop, origin + entry.nbytes)
            if low < high:
                self._part(entry, low - origin, high - origin, block[low - begin : high - begin])
            place += 1

    def _part(self, entry: _Entry, begin: int, stop: int, block: Bytes) -> None:
        """Bytes begin..stop of a tensor, whole elements."""
        source = self._first.tensors[entry.name]
        if entry.tensor is None:
            block[:] = np.frombuffer(source.raw, dtype=np.uint8)[begin:stop]
            return
        kind = DTYPES[entry.dtype]
        start, end = begin // kind.size, stop // kind.size
        out = np.frombuffer(block, dtype=kind.storage)
        merged = min(end, entry.merged)
        if start < merged:
            self._produce(
                entry.tensor, start, merged, Destination(entry.dtype, out[: merged - start])
            )
        if end > entry.merged:
            further = source.raw[max(start, entry.merged) : end]
            if source.dtype != entry.dtype:
                further = from_float32(as_float32(further, source.dtype), entry.dtype)
            rest = out[max(0, entry.merged - start) :]
            rest[:] = further
            if entry.dtype == "F16":
                require_range(entry.name, Destination(entry.dtype, rest))


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _require_space(target: Path, needed: int) -> None:
    place = shutil.disk_usage(target.parent)
    # Of size 0 is what keeps no files (/proc): making one there says what is wrong.
    if needed > place.free and place.total > 0:
        raise GenepoolError(
            f"{at(target)}: needs {needed / 1e9:.2f} GB, and {place.free / 1e9:.2f} GB are free "
            "there; make room or choose another place"
        )


def _parts(first: Checkpoint, layout: Layout, dtype: str | None) -> list[_Part]:
    index = {slot.name: i for i, slot in enumerate(layout.slots)}
    merged = {slot.name: slot.stop - slot.start for slot in layout.slots}
    entries = [
        _Entry(
            tensor.name,
            tensor.dtype if dtype is None or tensor.name not in index else dtype,
            tensor.shape,
            int(tensor.raw.size),
            index.get(tensor.name),
            merged.get(tensor.name, 0),
        )
        for tensor in first.tensors.values()
    ]
    entries.sort(key=lambda e: (-DTYPES[e.dtype].size, depth_key(e.name)))
    if first.pipeline is None:
        return [_Part("", "model", "", tuple(entries))]
    parts: list[_Part] = []
    for name in first.pipeline.evolving:
        own = tuple(entry for entry in entries if entry.name.startswith(f"{name}."))
        stem = weights_stem(first.pipeline.components[name])
        parts.append(_Part(f"{name}/", stem, f"{name}.", own))
    return parts


def _plan(part: _Part, shard_bytes: int, metadata: Mapping[str, str]) -> list[_File]:
    shards: list[list[_Entry]] = []
    size = 0
    for entry in part.entries:
        if not shards or size + entry.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.nbytes
    if len(shards) == 1:
        return [_file(part, f"{part.stem}.safetensors", shards[0], metadata)]
    return [
        _file(part, f"{part.stem}-{i:05d}-of-{len(shards):05d}.safetensors", shard, metadata)
        for i, shard in enumerate(shards, 1)
    ]


def _file(part: _Part, name: str, entries: Sequence[_Entry], metadata: Mapping[str, str]) -> _File:
    listed = [(e.name.removeprefix(part.prefix), e.dtype, e.shape) for e in entries]
    head, starts = header(listed, metadata)
    return _File(part.folder + name, head, tuple(entries), starts)


def _index(part: _Part, files: Sequence[_File]) -> bytes:
    content = {
        "metadata": {"total_size": sum(e.nbytes for file in files for e in file.entries)},
        "weight_map": {
            entry.name.removeprefix(part.prefix): file.name.removeprefix(part.folder)
            for file in files
            for entry in file.entries
        },
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _copy(source: Path, path: Path, crew: Crew, done: Callable[[int], None]) -> None:
    """A new file of the same bytes."""
    with source.open("rb") as file:

        def fill(begin: int, stop: int, block: Bytes) -> None:
            data = os.pread(file.fileno(), stop - begin, begin)
            if len(data) < stop - begin:
                raise CheckpointError(
                    f"{at(source)}: the file was cut short while it was copied; restore it and run "
                    "again"
                )
            block[:] = np.frombuffer(data, dtype=np.uint8)

        stream.write_file(path, os.fstat(file.fileno()).st_size, fill, crew, done)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
