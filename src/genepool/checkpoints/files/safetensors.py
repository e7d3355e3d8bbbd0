"""One safetensors file, mapped read-only and checked to the last byte before anything is read.

The safetensors library validates first. It accepts repeated names (the last one wins), every dtype
of the format, and any layout of the file system; the rest of this module is about those, and it
repeats the bounds checks because they alone keep the kernels inside the mapping.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import re
import shlex
import stat
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from genepool.checkpoints.files.dtypes import DTYPES, Raw, as_float32
from genepool.checkpoints.quantised import require_unquantised
from genepool.documents import parse_json
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

MAX_HEADER = 100_000_000
_METADATA = "__metadata__"
_RESAVE = "save the model again as safetensors (in transformers: model.save_pretrained(DIR))"


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """One stored tensor; nothing of it is read until `raw` is.

    Attributes:
        name: as in the file.
        dtype: safetensors code such as "BF16"; one of `dtypes.DTYPES`.
        shape: any number of dimensions, zero included.
        raw: flat read-only view of the mapping, in the dtype's storage type (bfloat16: uint16);
            its address need not be a multiple of the element size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: Raw

    def floats(self) -> NDArray[np.float32]:
        """Its values in its shape, of a floating dtype (a new array)."""
        return as_float32(self.raw, self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the file system says of a file: where this is equal, nobody has touched the content.

    The date of the last change of any kind (`changed`) shows files that were put in place with the
    date of others, as `cp -p` does. Dates are in nanoseconds.
    """

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        """The stamp of a file by what `stat` says."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, eq=False, slots=True)
class MappedFile:
    """A mapped file; the mapping lives as long as any view of it.

    Attributes:
        path: as given.
        place: the same, absolute.
        stamp: of the file that was opened.
        mapping: the whole file, read-only.
        tensors: by name, in the order of their bytes.
        metadata: the header's `__metadata__`.
    """

    path: Path
    place: Path
    stamp: Stamp
    mapping: mmap.mmap
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes when it was opened."""
        return self.stamp.size

    def check(self) -> None:
        """Raise CheckpointError if the file has shrunk: reading on would end the process."""
        try:
            size = self.mapping.size()
        except OSError as error:
            raise CheckpointError(
                f"{at(self.path)}: can no longer be read ({error.strerror}); restore the file"
            ) from error
        if size < self.size:
            raise CheckpointError(
                f"{at(self.path)}: the file was cut to {size} bytes while in use (it had "
                f"{self.size}); restore it and run again"
            )

    def look(self) -> None:
        """Raise CheckpointError unless the path still leads to the very file that was opened, as it
        was then: what was read since may be of another content."""
        try:
            now = Stamp.of(self.place.stat())
        except OSError as error:
            raise CheckpointError(
                f"{at(self.path)}: the file was deleted or moved while in use ({error.strerror}); "
                "restore it and run again"
            ) from error
        if now == self.stamp:
            return
        self.check()
        what = "written to" if now.inode == self.stamp.inode else "replaced by another one"
        raise CheckpointError(
            f"{at(self.path)}: the file was {what} while in use; restore it and run again"
        )


def map_file(path: Path) -> MappedFile:
    """Map a safetensors file.

    Raises:
        CheckpointError: it is missing, unreadable, not a regular file, not safetensors, damaged,
            or holds a dtype that genepool does not read.
    """
    if sys.byteorder != "little":  # pragma: no cover
        raise CheckpointError("genepool reads checkpoints on little-endian machines only")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{at(path)}: expected a regular file")
        with path.open("rb") as file:
            stamp = Stamp.of(os.fstat(file.fileno()))
            size = stamp.size
            if size == 0:
                raise CheckpointError(f"{at(path)}: the file is empty")
            _refuse_foreign(path, file.read(512), size)
            # It maps the file too: one after the other they need half the address space.
            with safe_open(path, framework="numpy"):
                pass
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise CheckpointError(
            f"{at(path)}: not a valid safetensors file: {one_line(reason)} "
            "(cut short or damaged? fetch it again)"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        hint = ""
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno == errno.ENOMEM
        ):
            hint = (
                "; files are mapped, which takes address space and no memory: allow more of it "
                "(`ulimit -v`; a limit of a cgroup does not count it)"
            )
        raise CheckpointError(f"{at(path)}: cannot be read: {one_line(error)}{hint}") from error
    header, data_start = _header(path, mapping)
    metadata = cast("dict[str, str]", header.pop(_METADATA, {}))
    tensors = _tensors(path, header, mapping, data_start)
    if not tensors:
        raise CheckpointError(f"{at(path)}: holds no tensors")
    if len(mapping) != size:
        raise CheckpointError(f"{at(path)}: the file was written to while it was opened")
    return MappedFile(path, path.absolute(), stamp, mapping, tensors, metadata)


def _header(path: Path, mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack_from("<Q", mapping)
    if length > MAX_HEADER or 8 + length > len(mapping):
        raise CheckpointError(f"{at(path)}: not a valid safetensors file: header too large")
    try:
        header = parse_json(mapping[8 : 8 + length])
    except ValueError as error:
        raise CheckpointError(
            f"{at(path)}: damaged safetensors header: {one_line(error)}"
        ) from error
    return header, 8 + length


def _tensors(
    path: Path, header: dict[str, Any], mapping: mmap.mmap, data_start: int
) -> dict[str, Tensor]:
    entries = sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0]))
    tensors: dict[str, Tensor] = {}
    position = 0
    for name, entry in entries:
        quoted = f"tensor '{one_line(name)}'"
        if name == "":
            raise CheckpointError(f"{at(path)}: holds a tensor without a name")
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            require_unquantised(path, {n: (e["dtype"], len(e["shape"])) for n, e in entries})
            raise CheckpointError(
                f"{at(path)}: {quoted} has dtype {one_line(entry['dtype'])}, which genepool does "
                f"not read (it reads {', '.join(DTYPES)}); convert the model to BF16 first"
                " (one that is quantised, with scales in another file, has to be dequantised)"
            )
        shape: tuple[int, ...] = tuple(entry["shape"])
        elements = math.prod(shape)
        begin, end = entry["data_offsets"]
        if begin != position or end - begin != elements * dtype.size:
            raise CheckpointError(
                f"{at(path)}: {quoted} of shape {list(shape)} and dtype {dtype.code} must take "
                f"{elements * dtype.size} bytes from {position}; the header says {begin} to {end}"
            )
        if data_start + end > len(mapping):
            raise CheckpointError(f"{at(path)}: {quoted} lies beyond the end of the file")
        raw = np.frombuffer(mapping, dtype.storage, elements, data_start + begin)
        tensors[name] = Tensor(name, dtype.code, shape, raw)
        position = end
    _require_weights(path, tensors)
    return tensors


def _require_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    stubs = [
        name
        for name, tensor in tensors.items()
        if tensor.shape == (0,) and name.rsplit(".", 1)[-1] in ("weight", "bias")
    ]
    if stubs:
        raise CheckpointError(
            f"{at(path)}: {some(stubs)} hold nothing (shape [0]), as where training was spread "
            "over several processes (FSDP, DeepSpeed ZeRO) and one saved its part; gather the "
            "weights when saving (in accelerate: accelerator.get_state_dict(model); for ZeRO: "
            "zero_to_fp32.py)"
        )


_FOREIGN: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (
            rb"\x80[\x02-\x05]|c[\w.]+\n[\w.]+\n|\((lp|dp|[ld])\d?",
            "a pickle, which can run code when it is loaded, so it is refused",
        ),
        (
            rb"PK\x03\x04",
            "a zip archive, as torch.save writes it, with a pickle inside that can run code when "
            "it is loaded, so it is refused",
        ),
        (rb".{257}ustar", f"a tar archive, not safetensors; {_RESAVE}"),
        (rb"GGUF", "a GGUF file, not safetensors; give it a name that ends in .gguf"),
        (rb"\x89HDF", f"an HDF5 file, not safetensors; {_RESAVE}"),
        (rb"version https://git-lfs", "a Git LFS pointer, not the weights; run: git lfs pull"),
        (rb"\s*<(!doctype|!DOCTYPE|html)", "a web page, not the weights; download it again"),
    )
)


def _refuse_foreign(path: Path, head: bytes, size: int) -> None:
    if len(head) > 8:
        (length,) = struct.unpack_from("<Q", head)
        if length <= min(MAX_HEADER, size - 8) and head[8:9] == b"{":
            return
    for pattern, text in _FOREIGN:
        if pattern.match(head):
            advice = ""
            if text.endswith("refused"):
                safe = path.with_name(path.name.rsplit(".", 1)[0] + "-converted.safetensors")
                advice = f"; convert it with: {conversion([path], safe)}"
            raise CheckpointError(f"{at(path)}: this is {text}{advice}")


def conversion(files: Sequence[Path], target: Path) -> str:
    """A shell command, one line, that converts pickled state dicts to one safetensors file.

    It loads with `weights_only=True`, so that the pickles run no code. What training keeps beside
    the state dict, which then lies one deeper, is left out.
    """
    code = (
        "import torch, safetensors.torch as s; d = {k: v.contiguous().clone() for f in "
        f"{json.dumps([str(file) for file in files])} for t in "
        '[torch.load(f, map_location="cpu", weights_only=True)] for k, v in next((t[n] for n in '
        '("state_dict", "model", "module") if isinstance(t.get(n), dict)), t).items() if '
        f'torch.is_tensor(v)}}; s.save_file(d, {json.dumps(str(target))}, {{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(code)}"
