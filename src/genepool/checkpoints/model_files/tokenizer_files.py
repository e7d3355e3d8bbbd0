"""Tokenizers as they are saved: which files are theirs, and their chat templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.model_files.configs import differing_fields, optional_json, read_text
from genepool.documents import mapping_of
from genepool.messages import at, one_line, some

# Files that say, together, how text becomes tokens; and what goes with them, as JSON objects.
VOCABULARIES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"),
    *("spiece.model", "sentencepiece.bpe.model"),
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Beside config.json, what says how a model is fed and how it generates.
FEEDING = (
    *("generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("processor_config.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
)
_TELLING = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "bos_token", "eos_token", "unk_token"),
    *("do_lower_case", "strip_accents", "legacy"),
)
_TEMPLATE = "chat_template.jinja"
# Transformers 5 saves all chat templates but the default one here, each in a file of its name.
FURTHER_TEMPLATES = "additional_chat_templates"
_OF_TOKENS = (".tiktoken", ".spm", "spm.model", "tekken.json")
_OTHERS = (*_OF_TOKENS, _TEMPLATE, "chat_template.json")


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of that name goes with the tokenizer, not with the model."""
    return name in (*VOCABULARIES, *SETTINGS, FURTHER_TEMPLATES) or name.endswith(_OTHERS)


def holds_tokenizer(directory: Path) -> bool:
    """Whether a directory holds a tokenizer's tokens."""
    return any(
        path.name in VOCABULARIES or path.name.endswith(_OF_TOKENS) for path in directory.iterdir()
    )


def rare_vocabularies(directory: Path) -> list[Path]:
    """Files of tokens whose names are not in `VOCABULARIES`, in order of their names."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.name.endswith(_OF_TOKENS))


def further_tokenizers(directory: Path) -> list[Path]:
    """The folders of further tokenizers: processors of transformers read one of that name from each
    (qformer_tokenizer of InstructBLIP, protein_tokenizer of Evolla)."""
    return [
        folder
        for folder in sorted(directory.glob("*_tokenizer"))
        if folder.name.isidentifier() and folder.is_dir() and holds_tokenizer(folder)
    ]


def further_templates(directory: Path) -> list[str]:
    """The chat templates that have files in a folder of their own, as paths from the directory."""
    folder = directory / FURTHER_TEMPLATES
    found = sorted(folder.glob("*.jinja")) if folder.is_dir() else []
    return [f"{FURTHER_TEMPLATES}/{path.name}" for path in found]


def chat_templates(directory: Path) -> dict[str, str]:
    """The chat templates of a tokenizer by name, "default" first of all; empty if it has none.

    As transformers reads them: files of their own come before what tokenizer_config.json says, and
    chat_template.json is a processor's.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found: dict[str, str] = {}
    if (directory / _TEMPLATE).is_file():
        found["default"] = read_text(directory / _TEMPLATE)
    for name in further_templates(directory):
        found[Path(name).stem] = read_text(directory / name)
    for name in () if found else ("tokenizer_config.json", "chat_template.json"):
        given: Any = (optional_json(directory / name) or {}).get("chat_template")
        if isinstance(given, str):
            return {"default": given}
        pairs: list[tuple[Any, Any]] = []
        if isinstance(given, dict):
            pairs = list(cast("dict[Any, Any]", given).items())
        elif isinstance(given, list):
            for entry in cast("list[Any]", given):
                fields = mapping_of(entry)
                pairs.append((fields.get("name", "default"), fields.get("template", entry)))
        if pairs:
            return {str(name): str(text) for name, text in pairs}
    return found


def compare_tokenizer_settings(first: Path, other: Path) -> list[str]:
    """Notices of how the chat templates and special tokens of two tokenizers' directories differ.

    Raises:
        CheckpointError: a file cannot be read.
    """
    notices: list[str] = []
    ours, theirs = (
        {name: text.strip() for name, text in chat_templates(directory).items()}
        for directory in (first, other)
    )
    changed = [n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
    if ours and theirs and changed:
        what = "another chat template" if changed == ["default"] else "other chat templates"
        names = "" if changed == ["default"] else f" ({some(changed)})"
        notices.append(f"{at(other)}: {what}{names} than in {at(first)} (the first seed's is kept)")
    elif changed and holds_tokenizer(first) and holds_tokenizer(other):
        has, lacks = (other, first) if theirs else (first, other)
        kept = "the result will have none" if theirs else "it is kept"
        notices.append(f"{at(has)} has a chat template and {at(lacks)} has none ({kept})")
    config = "tokenizer_config.json"
    a, b = (_telling(optional_json(directory / config) or {}) for directory in (first, other))
    # What one does not say is as the class has it, which is not known here: only `add_` tells then.
    fields = [
        key
        for key in _TELLING
        if a.get(key) != b.get(key) and (key.startswith("add_") or (key in a and key in b))
    ]
    if fields and (first / config).is_file() and (other / config).is_file():
        notices.append(_others(other, first, fields, config))
    return notices + compare_settings("special_tokens_map.json", first, other)


def compare_settings(name: str, first: Path, other: Path, *, missed: bool = False) -> list[str]:
    """Notices of how the JSON file of that name differs in two directories that both have it.

    Args:
        name: of the file.
        first, other: the directories.
        missed: whether it is also told that only the other one has it.

    Raises:
        CheckpointError: a file cannot be read.
    """
    a, b = (optional_json(directory / name) for directory in (first, other))
    if b is None or (a is None and not missed):
        return []
    fields = differing_fields(a or {}, b)
    if fields and a is None:
        what = f"{at(other)} has a {name} ({some(fields)}) and {at(first)} has none"
        return [f"{what} (the result will have none)"]
    return [_others(other, first, fields, name)] if fields else []


def _others(other: Path, first: Path, fields: Sequence[str], name: str) -> str:
    return (
        f"{at(other)}: other values of {', '.join(one_line(key) for key in fields[:6])} in {name} "
        f"than in {at(first)} (the first seed's is kept)"
    )


def cuts_and_pads_alike(first: Path, other: Path) -> bool:
    """Whether a text has the same tokens, up to the same length and padded with the same one, by
    what the configurations of two tokenizers both say.

    Raises:
        CheckpointError: a file cannot be read.
    """
    keys = (*_TELLING, "pad_token", "model_max_length")
    configs = (optional_json(place / "tokenizer_config.json") or {} for place in (first, other))
    a, b = (_telling(config, keys) for config in configs)
    return all(a[key] == b[key] for key in a.keys() & b.keys())


def _telling(config: dict[str, Any], keys: Sequence[str] = _TELLING) -> dict[str, Any]:
    """What of a tokenizer's configuration changes which tokens a text has; tokens as their text."""
    found: dict[str, Any] = {}
    for key in keys:
        value: Any = config.get(key)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("content")
        if value is not None:
            found[key] = value
    return found


def pinned_templates(directory: Path) -> bytes:
    """The chat templates as a pool pins them; empty if there are none.

    Raises:
        CheckpointError: a file cannot be read.
    """
    found = chat_templates(directory)
    if found.keys() <= {"default"}:
        return found.get("default", "").strip().encode()
    return json.dumps([{"name": n, "template": text} for n, text in found.items()]).encode()
