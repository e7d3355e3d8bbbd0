"""GGUF files as seeds: unpacked once by transformers into a checkpoint directory of the cache."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import warnings
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.atomic import new_directory, sync_directory
from genepool.checkpoints.files.cache import cache_directory, cannot_write, held_alone
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.files.digests import known_file
from genepool.checkpoints.files.dtypes import FRACTIONS, TORCH_NAMES
from genepool.checkpoints.model_files.built import without_remarks
from genepool.errors import CheckpointError, require_packages
from genepool.messages import at, one_line, pass_on, some

_FORMAT = "genepool unpacked gguf 3"
# What was passed over or rounded, in words; hidden, so that no export copies it.
_LEFT_OUT = ".left_out"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
# Layers of Gemma 2 and 3 with 27B, by which llama.cpp knows them.
_LARGE_GEMMA = {"gemma2": 46, "gemma3_text": 62}
# Fields of the file by the names that cards have for them.
_LICENCE = (
    ("license", "general.license"),
    ("license_name", "general.license.name"),
    ("license_link", "general.license.link"),
)
_FURTHER_TEMPLATES = "tokenizer.chat_template."


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file."""
    return path.name.lower().endswith(".gguf") and not path.is_dir()


def open_gguf(path: Path, dtype: str = "BF16") -> Checkpoint:
    """The weights of a GGUF file, dequantised, with the configuration and tokenizer inside it.

    Transformers unpacks the file into a directory of the cache, named by what `known_file` says and
    by the releases that unpack it, which later calls open at once. It needs memory for the whole
    model, once.

    Args:
        path: the file.
        dtype: of the unpacked weights: "BF16", "F16" or "F32".

    Raises:
        CheckpointError: it is missing, no GGUF file, damaged, or of an architecture that
            transformers does not unpack.
        MissingExtraError: transformers or gguf is not installed.
        GenepoolError: the cache cannot be written.
    """
    made_by = [_version("transformers"), _version("gguf")]
    key = json.dumps([_FORMAT, _require_gguf(path), dtype, made_by])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    target = cache_directory() / "gguf" / name
    if not (target / "config.json").is_file():
        _unpack(path, dtype, target)
    left_out = (target / _LEFT_OUT).read_text("utf-8") if (target / _LEFT_OUT).is_file() else ""
    notices = (f"{at(path)}: {left_out}",) if left_out else ()
    opened = open_checkpoint(target)
    return replace(opened, path=path, name=path.stem, notices=notices, _digest=[])


def _require_gguf(path: Path) -> str:
    """What the file is known by."""
    try:
        if not path.is_file():
            what = "expected a regular file" if path.exists() else "no such file or directory"
            raise CheckpointError(f"{at(path)}: {what}")
        with path.open("rb") as file:
            head = file.read(8)
        known = known_file(path)
    except OSError as error:
        raise CheckpointError(f"{at(path)}: cannot be read: {one_line(error)}") from error
    if head[:4] != b"GGUF":
        raise CheckpointError(
            f"{at(path)}: named like a GGUF file, but does not begin like one; fetch it again"
        )
    return known


def _version(package: str) -> str:
    """Of a package, of which another release may unpack otherwise; "" without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _unpack(path: Path, dtype: str, target: Path) -> None:
    needed = ("transformers", "torch", "gguf", "accelerate")
    require_packages("gguf", f"the GGUF seed {at(path)}", *needed)
    import transformers

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            held_alone(target, f"{at(path)} is being unpacked"),
            new_directory(target) as temporary,
        ):
            if (target / "config.json").is_file():
                return
            mode = temporary.stat().st_mode & 0o666
            # The reader trusts the file: whatever a damaged one makes it raise is about it.
            try:
                _convert(transformers, path, dtype, temporary)
            except BaseException as error:
                pass_on(error)
                if isinstance(error, CheckpointError):
                    raise
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise
                raise CheckpointError(
                    f"{at(path)}: transformers cannot unpack this GGUF file (damaged, cut short, "
                    "or of an architecture that it does not know): "
                    f"{type(error).__name__}: {one_line(error)}"
                ) from error
            for file in temporary.iterdir():
                file.chmod(mode)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            sync_directory(temporary)
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            sync_directory(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def complete(config: Any) -> None:
    """Set what neither a GGUF file says nor transformers knows: by what large Gemmas divide the
    products of queries and keys."""
    layers = _LARGE_GEMMA.get(config.model_type)
    if layers is not None and layers == config.num_hidden_layers:
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads


def _left_out(reader: Any, model: Any, dtype: str) -> str:
    """What transformers has passed over in a file, and what is rounded; "" for nothing."""
    positions = [t.name for t in reader.tensors if t.name.startswith("rope_")]
    positions += [name for name in reader.fields if name.endswith(".rope.scaling.factor")]
    size = sum(int(t.n_elements) for t in reader.tensors if not t.name.startswith("rope_"))
    further = size - sum(parameter.numel() for parameter in model.parameters())
    told: list[str] = []
    scaling: dict[str, Any] = getattr(model.config, "rope_scaling", None) or {}
    if positions and scaling.get("rope_type", "default") == "default":
        told.append(
            f"{some(positions)}, which scale the positions: what is made has plain ones, so that "
            "it is not the original model; take that as safetensors"
        )
    if further > 0:
        told.append(f"{further} numbers, for which the model has no place (biases?)")
    if templates := [name for name in reader.fields if name.startswith(_FURTHER_TEMPLATES)]:
        told.append(f"{some(templates)}, so that what is made has the default chat template alone")
    texts = [f"transformers passes over {' and over '.join(told)}"] if told else []
    sizes: Counter[str] = Counter()
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    ((stored, _),) = sizes.most_common(1)
    if FRACTIONS.get(stored, 0) > FRACTIONS[dtype]:
        texts.append(
            f"its weights are {stored}, rounded to {dtype} here; a run file may name another dtype"
        )
    return "; ".join(texts)


def _licence(reader: Any) -> str:
    """What a file says of its licence, as the front matter of a card; "" if it says nothing."""
    said = {
        key: reader.fields[field].contents() for key, field in _LICENCE if field in reader.fields
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in said.items()]
    return "\n".join(["---", *lines, "---", ""]) if lines else ""


def _convert(transformers: Any, path: Path, dtype: str, directory: Path) -> None:
    """Write the model as transformers does; quiet, since its bars are about its own cache."""
    from gguf import GGUFReader

    config = getattr(transformers, "GgufConfig", None)
    # Releases that can also keep weights packed have to be told; older ones always unpack.
    extra = {} if config is None else {"quantization_config": config(dequantize=True)}
    place, file = str(path.resolve().parent), path.resolve().name
    with (
        without_remarks(transformers),
        warnings.catch_warnings(),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        reader = GGUFReader(path)
        kind = reader.fields.get("general.type")
        if kind is not None and kind.contents() == "adapter":
            raise CheckpointError(
                f"{at(path)}: holds an adapter and no model; give the adapter as peft wrote it, "
                "with its base, or the model that it was folded into"
            )
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            place,
            gguf_file=file,
            dtype=TORCH_NAMES[dtype],
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
        if missing := sorted(told["missing_keys"]):
            # transformers makes them up, other ones each time.
            raise CheckpointError(
                f"{at(path)}: holds no {some(missing)}; is it one of several parts of a model "
                "(-00001-of-...)? Then join them first, with: llama-gguf-split --merge FIRST "
                "WHOLE"
            )
        if left_out := _left_out(reader, model, dtype):
            (directory / _LEFT_OUT).write_text(left_out, "utf-8")
        if licence := _licence(reader):
            (directory / "README.md").write_text(licence, "utf-8")
        model.config.quantization_config = None
        del model.config.quantization_config
        complete(model.config)
        model.save_pretrained(directory, max_shard_size="5GB")
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place, gguf_file=file, trust_remote_code=False
        )
        tokenizer.save_pretrained(directory)
