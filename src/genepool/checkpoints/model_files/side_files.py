"""Model files: what lies beside the weights of a checkpoint and goes with them into a new one."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint, safe_target
from genepool.checkpoints.files.digests import file_digest
from genepool.checkpoints.files.dtypes import TORCH_NAMES
from genepool.checkpoints.model_files.configs import model_config, pinned_settings, read_file
from genepool.checkpoints.model_files.tokenizer_files import (
    FURTHER_TEMPLATES,
    SETTINGS,
    VOCABULARIES,
    further_templates,
    further_tokenizers,
    is_tokenizer_file,
    pinned_templates,
    rare_vocabularies,
)
from genepool.documents import list_of, mapping_of, parse_json
from genepool.documents import read_json as document
from genepool.messages import at, some

RARE = "tokenizer's further files"
"""The name under which `pinned_digests` has files of tokens that are not its own kind's usual ones:
older pools do not pin these."""

# Keys of a tokenizer's settings that say nothing about which text becomes which tokens.
_OF_TOKENIZERS = frozenset({"chat_template", "tokenizer_class", "processor_class"})

_WEIGHTS = (
    *(".safetensors", ".index.json", ".index.fp16.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl"),
    *(".pickle", ".joblib"),
    *(".h5", ".msgpack", ".ot", ".gguf", ".ggml", ".onnx", ".onnx_data", ".tflite", ".npz", ".npy"),
    *(".zip", ".tar", ".gz"),
)
# A merged model is data: nothing in its directory is there to be run.
_CODE = (
    *(".py", ".pyc", ".pyo", ".pyd", ".ipynb", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat"),
    *(".ps1", ".js", ".jar"),
)
# These describe the seed, not what was made from it: its card and recipe, which are written anew,
# how it was made, and what it scored. Where an adapter's is, transformers loads another model.
_OF_THE_SEED = (
    *("readme", "genepool.json", "adapter_config.json", "mergekit_config", "trainer_state.json"),
    *("all_results.json", "eval_results.json", "train_results.json"),
)
_MODULES = "modules.json"
# What configurations, tokenizers and templates are kept in. Data, logs and keys, which lie about
# where a model was trained, are not to be published with a merge of it.
_KEPT = (".json", ".txt", ".jinja", ".model", ".tiktoken", ".spm", ".bpe", ".codes", ".vocab")
# By these, programs take weights for quantised ones.
_OF_QUANTISED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
# Texts of licences, and what they ask to go along. Those of several seeds are of no single one.
_LICENCE = re.compile(r"(licen[cs]es?|copying|notice|use_policy)([._-].*)?", re.IGNORECASE)


def is_licence(name: str) -> bool:
    """Whether a file of that name holds a licence, or a notice that one asks for."""
    return _LICENCE.fullmatch(name) is not None


def goes_along(name: str) -> bool:
    """Whether a file of that name, beside weights, is of the model and not of how it came about."""
    lower = name.lower()
    plain = lower.endswith(_KEPT) or is_tokenizer_file(name)
    return plain and lower not in _OF_QUANTISED and not is_licence(name)


def side_files(first: Checkpoint, dtype: str | None) -> dict[str, bytes | Path]:
    """The files that a new checkpoint takes from the directory of its first seed.

    Configurations, tokenizer, chat template and the like: what lies in files as these do (`_KEPT`),
    except weights, hidden files, subdirectories but that of chat templates and those of modules
    and of further tokenizers, licences, and what describes the seed itself (`_OF_THE_SEED`). The
    tokenizers are an adapter's own, if that brings such.

    Args:
        first: the seed; one that is came without a directory has none.
        dtype: that the merged tensors are converted to, entered into the copied `config.json`.

    Returns:
        Name to the file to copy or its new content, by name.

    Raises:
        CheckpointError: a file is a link that leads out of the seed's directory.
    """
    if first.directory is None:
        return {}
    own = first.tokenizer
    found = copied(
        first.directory,
        lambda name: goes_along(name) and (own is None or not is_tokenizer_file(name)),
    )
    if own is not None:
        found.update(copied(own, is_tokenizer_file))
    found.update(module_files(first.directory))
    found.update(_tokenizers(own or first.directory) or _tokenizers(first.directory))
    return with_dtype(found, dtype)


def _tokenizers(directory: Path) -> dict[str, bytes | Path]:
    """The files of further tokenizers."""
    return {
        f"{folder.name}/{name}": data
        for folder in further_tokenizers(directory)
        for name, data in copied(folder, goes_along, home=directory).items()
    }


def module_files(directory: Path) -> dict[str, bytes | Path]:
    """The files of what a sentence-transformer puts behind the model (1_Pooling, 2_Dense), each in
    a folder that modules.json names; weights too, but no pickles."""
    try:
        content: Any = document(directory / _MODULES, 2**20)
    except (OSError, ValueError):
        return {}
    found: dict[str, bytes | Path] = {}
    for entry in list_of(content):
        name = mapping_of(entry).get("path")
        if not isinstance(name, str) or re.fullmatch(r"\w[\w.-]*", name) is None:
            continue
        folder = directory / name
        if folder.is_dir():
            own = copied(folder, home=directory)
            for path in folder.glob("*.safetensors"):
                own[path.name] = safe_target(directory, f"{name}/{path.name}")
            found |= {f"{name}/{file}": data for file, data in own.items()}
    return found


def module_notices(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What to say of a sentence-transformer's further modules, which come from the first seed."""
    homes = [each.directory for each in checkpoints if each.directory is not None]
    first = homes[0] if homes and homes[0] == checkpoints[0].directory else None
    if first is None:
        return []
    ours = _digests(first)
    notices = [
        f"{at(other)}: other modules of a sentence-transformer ({_MODULES} and the folders that it "
        f"names) than in {at(first)} (the first seed's are kept)"
        for other in homes[1:]
        if (theirs := _digests(other)) and theirs != ours
    ]
    pickles = sorted(first.glob("*_*/*.bin")) if ours else []
    return notices + [
        f"{at(path)}: may hold a pickle, which is never copied: what is written lacks this module; "
        "save the seed as safetensors (in sentence-transformers: save_pretrained)"
        for path in pickles
    ]


def _digests(directory: Path) -> dict[str, str]:
    """Of modules.json and the files that belong to it."""
    if not (directory / _MODULES).is_file():
        return {}
    files = {_MODULES: safe_target(directory, _MODULES), **module_files(directory)}
    return {name: file_digest(data) for name, data in files.items()}


def with_dtype(files: Mapping[str, bytes | Path], dtype: str | None) -> dict[str, bytes | Path]:
    """Files of a model, in whose `config.json` stands the dtype that its weights get, and nothing
    of a quantisation, since weights that are written never are quantised."""
    found = dict(files)
    if (config := found.get("config.json")) is not None:
        with contextlib.suppress(ValueError):
            content: Any = parse_json(config.read_bytes() if isinstance(config, Path) else config)
            if _settle(content, None if dtype is None else TORCH_NAMES[dtype]):
                found["config.json"] = (json.dumps(content, indent=2) + "\n").encode()
    return found


def copied(
    directory: Path, wanted: Callable[[str], bool] = lambda _: True, home: Path | None = None
) -> dict[str, bytes | Path]:
    """The files of a directory that go along with its weights, as `side_files` says.

    Args:
        directory: of a model, or of a component of a pipeline.
        wanted: names of others are passed over.
        home: directory inside which links may lead; None means this one.

    Raises:
        CheckpointError: a link leads out of it.
    """
    home = home or directory
    found: dict[str, bytes | Path] = {}
    for path in sorted(directory.iterdir()):
        lower = path.name.lower()
        left_out = lower.startswith((".", *_OF_THE_SEED)) or lower.endswith((*_WEIGHTS, *_CODE))
        if left_out or path.is_dir() or not wanted(path.name):
            continue
        if path.is_file() or not path.exists():  # a dangling link is refused, not passed over
            target = safe_target(home, str(path.relative_to(home)))
            found[path.name] = _without_mark(target) if lower.endswith(".json") else target
    for name in further_templates(directory) if wanted(FURTHER_TEMPLATES) else ():
        found[name] = safe_target(home, str((directory / name).relative_to(home)))
    return found


def _without_mark(path: Path) -> bytes | Path:
    """A JSON file; its text in plain UTF-8 if it begins with a mark of its byte order, which
    transformers does not read."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return path
    data = path.read_bytes()
    try:
        return data.decode(json.detect_encoding(data)).encode()
    except UnicodeDecodeError:
        return path


def pinned_digests(model: Path, tokenizer: Path) -> dict[str, str]:
    """Digests of what decides, beside the weights, what a language model reads and answers.

    Args:
        model: directory of config.json and generation_config.json.
        tokenizer: directory of the tokenizer.

    Returns:
        "configuration", "generation settings", "tokenizer", `RARE` and "chat template" to 16 hex
        digits, as far as there is one. What says nothing about the model's function does not count.

    Raises:
        CheckpointError: a file cannot be read.
    """
    parts = {
        "configuration": [pinned_settings(model / "config.json")],
        "generation settings": [pinned_settings(model / "generation_config.json")],
        "tokenizer": [
            *(_bytes(tokenizer / name) for name in VOCABULARIES),
            *(pinned_settings(tokenizer / name, _OF_TOKENIZERS) for name in SETTINGS),
        ],
        RARE: [_bytes(path) for path in rare_vocabularies(tokenizer)],
        "chat template": [pinned_templates(tokenizer)],
    }
    return {name: _joined(found) for name, found in parts.items() if any(found)}


def code_notice(first: Checkpoint) -> str | None:
    """What to say of code that the model needs and that stays where it is, if there is any."""
    directory = first.directory
    if directory is None or "auto_map" not in (model_config(directory) or {}):
        return None
    code = sorted(path.name for path in directory.glob("*.py") if path.is_file())
    if not code:
        return None
    return (
        f"{at(directory)} brings code of its own ({some(code)}); what is written never holds code: "
        "copy it there yourself, if you trust it"
    )


def plain_notice(first: Checkpoint) -> str | None:
    """What to say of a configuration that calls for a quantisation, of weights that have none."""
    if not (model_config(first.directory) or {}).get("quantization_config"):
        return None
    return (
        f"{at(first.path)}: its config.json says that the weights are quantised "
        "(quantization_config), and they are not; what is written does not say so"
    )


def _settle(content: Any, dtype: str | None) -> bool:
    """Change a configuration and those inside it (a language model's in a vision model's); True if
    there was something to change."""
    if not isinstance(content, dict):
        return False
    entries = cast("dict[str, Any]", content)
    changed = entries.pop("quantization_config", None) is not None
    for key, value in entries.items():
        if dtype is not None and key in ("dtype", "torch_dtype"):
            entries[key] = dtype
            changed = True
        elif _settle(value, dtype):
            changed = True
    return changed


def _bytes(path: Path) -> bytes:
    return read_file(path) if path.is_file() else b""


def _joined(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]
