"""Checkpoints: the seeds, read-only. Tensors are mapped, not copied, and known by their digest."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from genepool.checkpoints.files.safetensors import MappedFile, Tensor, conversion, map_file
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.pipelines.components import Pipeline
from genepool.checkpoints.quantised import require_unquantised
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some
from genepool.threads import available_threads

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "safe_target"]

_SINGLE = "model.safetensors"
# What a pool has in its directory.
_POOL = "pool.sqlite"
_INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WEIGHTS = ("pytorch_model", "model", "adapter_model", "consolidated")
# One of several shards.
_PART = re.compile(r"-\d{5}-of-(?!00001\b)(\d{5})\.safetensors$")
_LEAF = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint. Two checkpoints of equal tensors have equal digests.

    Attributes:
        path: the file or directory, as given.
        name: short, for people: the directory's or the file's name.
        tensors: by name; two names are two tensors even where their bytes are equal.
        metadata: string to string, from the header (with shards, the first to set a key wins).
        files: the mapped files.
        directory: where configuration, tokenizer and the like lie; None if the weights came alone.
        tokenizer: where the tokenizer lies instead, of an adapter that brings its own.
        notices: one line each, of what was done to open it and is good to know.
        pipeline: the pipeline whose evolving components these tensors are; None for a single model.
        evolving: of an image generator in one file: how the names of the tensors begin that merge;
            all others are carried over from the first seed. Empty: all merge.
        origins: of a folded adapter: where its base and its own files lie. Empty: only at `path`.
    """

    path: Path
    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    files: tuple[MappedFile, ...]
    directory: Path | None = None
    tokenizer: Path | None = None
    notices: tuple[str, ...] = ()
    pipeline: Pipeline | None = None
    evolving: tuple[str, ...] = ()
    origins: tuple[Path, ...] = ()
    _digest: list[str] = field(default_factory=list[str], repr=False)

    @property
    def words(self) -> Path | None:
        """Where tokenizer and chat template are looked for."""
        return self.tokenizer or self.directory

    def check(self) -> None:
        """Raise CheckpointError if a file has been cut short since it was opened."""
        for file in self.files:
            file.check()

    def look(self) -> None:
        """Raise CheckpointError if a file was changed, replaced or deleted since it was opened."""
        for file in self.files:
            file.look()

    def digest(self, threads: int | None = None) -> str:
        """SHA-256 over the tensors, as 64 hex digits; reads every byte once, then remembers.

        It covers names, dtypes, shapes and bytes, in the order of the names: not file names,
        sharding, metadata or the order in the file. Each tensor is hashed in leaves of 16 MiB, so
        that several threads share the work; the number of threads does not change the result.
        """
        if not self._digest:
            self.check()
            self._digest.append(_digest(self.tensors, threads or available_threads()))
        return self._digest[0]

    def remember_digest(self, value: str) -> None:
        """Spare `digest` the reading: it was computed earlier from these very files."""
        self._digest[:] = [value]


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a safetensors checkpoint.

    Args:
        path: a `.safetensors` file or a directory. In a directory, the first of these that is
            there: `model.safetensors`; `model.safetensors.index.json` and its shards; the only
            `*.safetensors`; the only `*.safetensors.index.json`.

    A path given by the user is followed wherever it leads. Inside a directory, a weight file (or a
    shard that the index names) may be a symbolic link only to a regular file inside the same
    directory, or, where the directory is a Hugging Face cache snapshot
    (`.../snapshots/REVISION`) or a folder in one, to one in its `blobs` directory.

    Raises:
        CheckpointError: anything is missing, unreadable, unsafe, damaged or contradictory; the
            message is one line and names the file.
    """
    given = Path(path)
    try:
        if given.is_dir():
            return _open_directory(given)
        if given.is_symlink() and not given.exists():
            raise CheckpointError(f"{at(given)}: a symbolic link to nothing")
        if not given.exists():
            there = [each.name for each in given.parent.glob("*")]
            close = difflib.get_close_matches(given.name, there, n=1)
            hint = f" ({some(close)} is there)" if close else ""
            raise CheckpointError(f"{at(given)}: no such file or directory{hint}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{at(given)}: cannot be read: {one_line(error)}") from error
    name = given.stem if given.name != _SINGLE else directory_name(given.parent)
    opened = _assemble(given, name, [map_file(given)])
    notices: list[str] = []
    if _PART.search(given.name):
        notices.append(
            f"{at(given)}: is one of several parts of a model, and nothing else of it is merged"
        )
    if (given.parent / "config.json").is_file():
        notices.append(
            f"{at(given)}: is given as a file, so that config.json and what else lies beside it "
            "is neither compared nor copied; name the folder to have that"
        )
    return replace(opened, notices=tuple(notices))


def open_weights(directory: Path, name: str) -> Checkpoint:
    """Open one of several checkpoints in a directory.

    Args:
        directory: whose links are followed as `open_checkpoint` says.
        name: of a `.safetensors` file, or of the index of several.

    Raises:
        CheckpointError: as `open_checkpoint`.
    """
    notices: list[str] = []
    if name.endswith(".json"):
        files = _open_shards(directory, name)
        parts = [found for file in files if (found := _PART.search(file.path.name))]
        if parts and len(parts) == len(files) < int(parts[0][1]):
            notices.append(
                f"{at(directory / name)}: names {len(parts)} of {int(parts[0][1])} parts of the "
                "model; nothing else of it is merged"
            )
    else:
        files = [map_file(safe_target(directory, name))]
        if name == _SINGLE and (directory / f"model{_INDEX}").exists():
            notices.append(
                f"{at(directory)}: holds {_SINGLE} and the index of several parts; the former is "
                "taken, as transformers does: is it left over from an older save?"
            )
    opened = _assemble(directory, directory_name(directory), files)
    return replace(opened, notices=tuple(notices))


def safe_target(directory: Path, name: str) -> Path:
    """The file `name` of a checkpoint directory, if the rule of `open_checkpoint` allows it.

    Raises:
        CheckpointError: it is missing, or its link leads out of the directory.
    """
    path = directory / name
    home = directory.resolve()
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError as error:
        what = "a symbolic link to nothing" if path.is_symlink() else "no such file"
        raise CheckpointError(f"{at(path)}: {what}") from error
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{at(path)}: cannot be read: {one_line(error)}") from error
    inside = target.is_relative_to(home)
    # A component's folder lies in the snapshot of its pipeline.
    cached = any(
        snapshot.parent.name == "snapshots" and target.parent == snapshot.parent.parent / "blobs"
        for snapshot in (home, home.parent)
    )
    if not (inside or cached):
        raise CheckpointError(
            f"{at(path)}: refused, because it links out of its directory, to {at(target)}; "
            "copy the file into the directory, or name the file itself"
        )
    return path


def _open_directory(directory: Path) -> Checkpoint:
    names = sorted(entry.name for entry in directory.iterdir())
    if _POOL in names:
        raise CheckpointError(
            f"{at(directory)}: is a pool, and no model; write a member of it as one with: "
            f"genepool export {shlex.quote(at(directory))} -o DIR"
        )
    files = [name for name in names if name.endswith(".safetensors")]
    indexes = [name for name in names if name.endswith(_INDEX)]
    if _SINGLE in files:
        files, indexes = [_SINGLE], []
    elif "model" + _INDEX in indexes:
        files, indexes = [], ["model" + _INDEX]
    elif len(files) == 1 and _PART.search(files[0]) and not indexes:
        raise CheckpointError(
            f"{at(directory)}: holds {some(files)}, one of several parts of a model, and no "
            f"model{_INDEX}; fetch the whole model"
        )
    elif len(files) == 1 and not _PART.search(files[0]):
        indexes = []
    if len(files) == 1 or len(indexes) == 1:
        return open_weights(directory, (indexes or files)[0])
    if files:
        raise CheckpointError(
            f"{at(directory)}: holds {len(files)} safetensors files ({some(files)}) and no "
            f"{_SINGLE} or index that says how they belong together; name one of them"
        )
    packed = [name for name in names if name.endswith(".gguf")]
    raise CheckpointError(
        f"{at(directory)}: the directory holds no safetensors file"
        + (
            pickle_advice(directory, names)
            or (f"; it holds {some(packed)}: name that file itself" if packed else "")
            or _snapshot_advice(directory)
            or _training_advice(directory, names)
            or f"; expected {_SINGLE} or model{_INDEX}"
        )
    )


def pickle_advice(directory: Path, names: Sequence[str], target: str = _SINGLE) -> str:
    """What to do about the pickles among the files of a directory; empty if there are none."""
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if not pickles:
        return ""
    weights = [name for name in pickles if name.startswith(_WEIGHTS)] or pickles
    command = conversion([directory / name for name in weights], directory / target)
    return (
        f"; {some(pickles)} may hold a pickle, which genepool does not load: convert it with: "
        f"{command}"
    )


def _snapshot_advice(directory: Path) -> str:
    """Where the models are if this is a folder of the Hugging Face Hub's cache above them."""
    folder = directory if directory.name == "snapshots" else directory / "snapshots"
    found = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        return ""
    return (
        f"; this is the Hugging Face Hub's cache of a model, whose revisions lie in snapshots/: "
        f"name one of them, {some(found)}"
    )


def _training_advice(directory: Path, names: Sequence[str]) -> str:
    """What to do with a folder that training left, with models in folders or in parts."""
    inner = [name for name in names if (directory / name).is_dir()]
    whole = [name for name in inner if any((directory / name).glob("*.safetensors"))]
    if whole:
        return f"; a folder in it does: name {some(whole)} itself"
    shared = [n for n in names if n.startswith(("global_step", "pytorch_model_fsdp", ".metadata"))]
    shared += [name for name in names if name.endswith(".distcp")]
    if not shared:
        return ""
    return (
        f"; {some(shared)} is a part of a model whose training was spread over several processes "
        "(FSDP, DeepSpeed ZeRO): gather the weights first, with accelerate merge-weights or the "
        "zero_to_fp32.py beside it"
    )


def _open_shards(directory: Path, index_name: str) -> list[MappedFile]:
    path = safe_target(directory, index_name)
    entries: Any = read_json(path).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError(
            f"{at(path)}: expected an object 'weight_map' from tensor names to file names"
        )
    shards: dict[str, set[str]] = {}
    for tensor, shard in cast("dict[str, Any]", entries).items():
        if not isinstance(shard, str) or not _plain(shard):
            raise CheckpointError(
                f"{at(path)}: tensor '{one_line(tensor)}' is said to be in '{one_line(shard)}'; "
                "expected the plain name of a .safetensors file in the same directory"
            )
        shards.setdefault(shard, set()).add(tensor)
    files: list[MappedFile] = []
    for shard, expected in sorted(shards.items()):
        try:
            file = map_file(safe_target(directory, shard))
        except CheckpointError as error:
            if not (directory / shard).exists():
                raise CheckpointError(
                    f"{at(path)}: names the shard '{one_line(shard)}', which is missing; "
                    "fetch the whole model"
                ) from error
            raise
        if absent := sorted(expected - file.tensors.keys()):
            raise CheckpointError(f"{at(file.path)}: lacks {some(absent)}, which the index names")
        if extra := sorted(file.tensors.keys() - expected):
            raise CheckpointError(
                f"{at(file.path)}: holds {some(extra)}, which {index_name} does not place in it"
            )
        files.append(file)
    return files


def _plain(name: str) -> bool:
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and not any(c in "/\\" or not c.isprintable() for c in name)
    )


def directory_name(directory: Path) -> str:
    """Short, for people: of a snapshot in the Hugging Face Hub's cache, the model's name there."""
    home = directory.resolve()
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        return home.parent.parent.name.rsplit("--", 1)[-1]
    return home.name or "model"


def _assemble(path: Path, name: str, files: list[MappedFile]) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        tensors.update(file.tensors)
        metadata = {**file.metadata, **metadata}
    require_unquantised(path, {n: (t.dtype, len(t.shape)) for n, t in tensors.items()})
    return Checkpoint(
        path,
        name,
        MappingProxyType(tensors),
        MappingProxyType(metadata),
        tuple(files),
        path if path.is_dir() else None,
    )


def _digest(tensors: Mapping[str, Tensor], threads: int) -> str:
    ordered = [tensors[name] for name in sorted(tensors)]
    leaves = [
        (index, start)
        for index, tensor in enumerate(ordered)
        for start in range(0, tensor.raw.nbytes, _LEAF)
    ]

    def hash_leaf(leaf: tuple[int, int]) -> bytes:
        index, start = leaf
        data = np.frombuffer(ordered[index].raw, np.uint8)
        return hashlib.sha256(data[start : start + _LEAF].data).digest()

    root = hashlib.sha256(b"genepool tensors 1\n")
    for tensor in ordered:
        entry = json.dumps([tensor.name, tensor.dtype, list(tensor.shape)])
        root.update(entry.encode() + b"\n")
    if threads == 1 or len(leaves) < 2:
        for leaf in leaves:
            root.update(hash_leaf(leaf))
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="genepool-digest") as pool:
            for digest in pool.map(hash_leaf, leaves):
                root.update(digest)
    return root.hexdigest()
