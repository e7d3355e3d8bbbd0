"""Vocabularies: which token has which id, from the files that tokenizers are saved in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.model_files.configs import optional_json, read_file, read_json, read_text
from genepool.checkpoints.model_files.tied import embedding_rows
from genepool.checkpoints.model_files.tokenizer_files import (
    FEEDING,
    SETTINGS,
    chat_templates,
    compare_settings,
    compare_tokenizer_settings,
    further_tokenizers,
    holds_tokenizer,
    rare_vocabularies,
)
from genepool.documents import mapping_of
from genepool.errors import CheckpointError
from genepool.messages import at, count, one_line, some

# The first of these that a directory holds says which token has which id; else one of a rarer form.
_FILES = (
    *("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"),
    "sentencepiece.bpe.model",
)
_MERGES = "merges.txt"


@dataclass(frozen=True, eq=False, slots=True)
class Vocabulary:
    """A tokenizer's vocabulary.

    Attributes:
        file: that it was read from.
        ids: token to id; empty where the file is of a form that is not read here.
        content: the file's bytes then: it can only be compared by them.
    """

    file: Path
    ids: dict[str, int]
    content: bytes


def same_files(first: Path, other: Path) -> bool:
    """Whether two directories hold the same tokenizer file, byte for byte, and the same further
    tokens; or neither has one."""
    ours, theirs = _file(first), _file(other)
    if ours is None or theirs is None:
        return ours is theirs
    if ours.name != theirs.name or not _same_bytes(ours, theirs):
        return False
    if ours.name == "vocab.json" and not _same_bytes(first / _MERGES, other / _MERGES):
        return False
    if _added(first) == _added(other):
        return True
    a, b = read_vocabulary(first), read_vocabulary(other)
    return a is not None and b is not None and bool(a.ids) and a.ids == b.ids


def compare_further_tokenizers(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Notices of how the further tokenizers of two seeds' processors differ.

    Raises:
        CheckpointError: a file cannot be read.
    """
    ours, theirs = (
        {
            folder.name: folder
            for place in (seed.directory, seed.tokenizer)
            if place is not None
            for folder in further_tokenizers(place)
        }
        for seed in (first, other)
    )
    notices: list[str] = []
    for name, folder in theirs.items():
        if name not in ours:
            notices.append(f"{at(folder)}: the first seed has none, nor will the result")
            continue
        if not same_files(ours[name], folder):
            kept = f"than in {at(ours[name])} (the first seed's is kept)"
            notices.append(f"{at(folder)}: another tokenizer {kept}")
        notices += compare_tokenizer_settings(ours[name], folder)
    return notices


def _same_bytes(ours: Path, theirs: Path) -> bool:
    if not (ours.is_file() and theirs.is_file()):
        return ours.is_file() == theirs.is_file()
    alike = ours.stat().st_size == theirs.stat().st_size
    return alike and read_file(ours) == read_file(theirs)


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """The vocabulary of a model's directory, or None if it holds no tokenizer.

    Raises:
        CheckpointError: a tokenizer file cannot be read, or gives one id to two tokens.
    """
    file = _file(directory)
    if file is None:
        return None
    if file.name not in _FILES:
        return Vocabulary(file, {}, _content(file))
    if file.suffix == ".model":
        content = read_file(file)
        pieces = _pieces(content)
        if pieces is None:
            return Vocabulary(file, {}, content)
        ids = {token: number for number, token in enumerate(pieces)}
    elif file.name == "tokenizer.json":
        # Tokens that it does not have itself get the ids behind its own.
        ids = _tokenizer_ids(file)
        taken = set(ids.values())
        more = {t: n for t, n in _added(directory).items() if n not in taken and t not in ids}
        return Vocabulary(file, {**ids, **more}, b"")
    elif file.name == "vocab.json":
        ids = _whole(file, read_json(file))
    else:
        # Not `splitlines`: that also parts at characters that are tokens, such as U+2028.
        lines = read_text(file).removesuffix("\n").split("\n")
        ids = {token: number for number, token in enumerate(lines)}
    return Vocabulary(file, {**ids, **_added(directory)}, b"")


def _file(directory: Path) -> Path | None:
    named = (directory / name for name in _FILES)
    return next((path for path in (*named, *rare_vocabularies(directory)) if path.is_file()), None)


def _content(file: Path) -> bytes:
    """What says, in a file of a rarer form, which token has which id."""
    if file.suffix != ".json":
        return read_file(file)
    content = read_json(file)
    return json.dumps([content.get("vocab"), content.get("special_tokens")]).encode()


def _added(directory: Path) -> dict[str, int]:
    """The tokens that were added to a tokenizer, by what is said beside its own file."""
    file = directory / "tokenizer_config.json"
    given: Any = (optional_json(file) or {}).get("added_tokens_decoder") or {}
    try:
        later = {str(entry["content"]): int(number) for number, entry in given.items()}
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise _odd(file, "added_tokens_decoder") from error
    file = directory / "added_tokens.json"
    return {**later, **_whole(file, optional_json(file) or {})}


def _pieces(content: bytes) -> list[str] | None:
    """The pieces of a SentencePiece model in the order of their ids; None if it is none.

    The file is a message of Protocol Buffers, `ModelProto` of sentencepiece_model.proto: its field
    1 repeats messages whose field 1 is the text of a piece.
    """
    try:
        pieces = [_texts(piece)[0] for piece in _texts(content)]
        return [piece.decode("utf-8") for piece in pieces] or None
    except (IndexError, ValueError):
        return None


def _texts(message: bytes) -> list[bytes]:
    """What the fields numbered 1 of a message of Protocol Buffers hold.

    Raises:
        IndexError, ValueError: it is no such message.
    """
    found: list[bytes] = []
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            size, place = 0, _varint(message, place)[1]
        elif kind == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}[kind] if kind in (1, 5) else -1
        if size < 0 or place + size > len(message):
            raise ValueError("no message of Protocol Buffers")
        if key == 0x0A:
            found.append(message[place : place + size])
        place += size
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("no number of Protocol Buffers")


def _tokenizer_ids(file: Path) -> dict[str, int]:
    content = read_json(file)
    vocabulary: Any = mapping_of(content.get("model")).get("vocab")
    if isinstance(vocabulary, list):  # a Unigram model: pairs of token and score
        pairs = cast("list[Any]", vocabulary)
        try:
            ids = {str(pair[0]): number for number, pair in enumerate(pairs)}
        except (TypeError, IndexError, KeyError) as error:
            raise _odd(file, "model.vocab") from error
    elif isinstance(vocabulary, dict):
        ids = _whole(file, cast("dict[str, Any]", vocabulary))
    else:
        raise _odd(file, "model.vocab")
    added: Any = content.get("added_tokens") or []
    try:
        more = {str(entry["content"]): entry["id"] for entry in added}
    except (TypeError, KeyError) as error:
        raise _odd(file, "added_tokens") from error
    return {**ids, **_whole(file, more)}


def _whole(file: Path, ids: dict[str, Any]) -> dict[str, int]:
    for token, number in ids.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise CheckpointError(
                f"{at(file)}: token '{one_line(token)}' has the id {one_line(number)}; expected a "
                "whole number from 0"
            )
    return ids


def _odd(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{at(file)}: '{what}' is not what tokenizers write; fetch it again")


def common_rows(vocabularies: Sequence[Vocabulary]) -> int | None:
    """How many tokens from id 0 on are the same in all vocabularies.

    Returns:
        The first id that is not the same token (or no token) everywhere; None if there is none,
        so that the vocabularies are equal.
    """
    tables = [{number: token for token, number in v.ids.items()} for v in vocabularies]
    first = tables[0]
    differing = [
        number
        for table in tables[1:]
        for number in first.keys() | table.keys()
        if first.get(number) != table.get(number)
    ]
    return min(differing, default=None)


def comparable(first: Vocabulary, other: Vocabulary) -> bool:
    """Whether two vocabularies are in forms that can be compared.

    Some tokenizers shift the ids of the SentencePiece model that they are saved with.
    """
    if bool(first.ids) != bool(other.ids):
        return False
    if (first.file.suffix == ".model") == (other.file.suffix == ".model"):
        return True
    shifts = Counter(other.ids[t] - n for t, n in first.ids.items() if t in other.ids)
    ((shift, number),) = shifts.most_common(1) or [(0, 0)]
    return shift == 0 or 2 * number < min(len(first.ids), len(other.ids))


def conflict(first: Vocabulary, other: Vocabulary, *, nested: bool) -> str | None:
    """What stands in the way of merging embeddings row by row, in words; None if nothing does.

    Args:
        first, other: the vocabularies.
        nested: whether one of them may have tokens besides (in rows that the other leaves unused).
    """
    if not (first.ids and other.ids):
        return "the files differ" if first.content != other.content else None
    moved = [t for t, number in first.ids.items() if other.ids.get(t, number) != number]
    if moved:
        token = min(moved, key=lambda t: first.ids[t])
        more = f" (and {len(moved) - 1} more tokens)" if len(moved) > 1 else ""
        return (
            f"token '{one_line(token)}' has id {other.ids[token]} against {first.ids[token]}{more}"
        )
    names = {number: token for token, number in first.ids.items()}
    taken = [(n, t) for t, n in other.ids.items() if names.get(n, t) != t]
    if taken:
        number, token = min(taken)
        return f"id {number} is token '{one_line(token)}' against '{one_line(names[number])}'"
    # What was added to a SentencePiece model afterwards may be said nowhere beside it.
    if nested or (first.file.suffix == ".model") != (other.file.suffix == ".model"):
        return None
    parts: list[str] = []
    for verb, has, lacks in (
        ("lacks", first.ids, other.ids),
        ("has besides", other.ids, first.ids),
    ):
        extra = sorted((n, t) for t, n in has.items() if t not in lacks)
        if extra:
            shown = ", ".join(f"'{one_line(t)}' (id {n})" for n, t in extra[:3])
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            parts.append(f"it {verb} the tokens {shown}{more}")
    return " and ".join(parts) or None


def with_own_tokenizer(folded: Checkpoint, adapter: Path) -> Checkpoint:
    """A folded adapter with the tokenizer that its directory holds, if that holds one.

    Raises:
        CheckpointError: it has tokens beyond the rows of the embeddings, or cannot be read.
    """
    home = folded.directory or adapter
    own, base = chat_templates(adapter), chat_templates(home)
    if others := [name for name in FEEDING if compare_settings(name, home, adapter, missed=True)]:
        text = f"{at(adapter)} holds {some(others)} with other values than the base has, whose are"
        folded = _told(folded, f"{text} used; to use the adapter's, copy them into its folder")
    if not holds_tokenizer(adapter):
        found = [
            n for n in SETTINGS if optional_json(adapter / n) not in (None, optional_json(home / n))
        ]
        found += ["a chat template"] if own and own != base else []
        if not found:
            return folded
        return _told(
            folded,
            f"{at(adapter)} holds {' and '.join(found)} but no tokenizer: tokenizer and chat "
            "template of the base are used; to use its own, save the tokenizer beside it",
        )
    folded = replace(folded, tokenizer=adapter)
    ours = None if folded.directory is None else read_vocabulary(folded.directory)
    theirs = read_vocabulary(adapter)
    if theirs is not None:
        _require_rows(folded, theirs, ours)
    notes: list[str] = []
    if ours is not None and theirs is not None:
        if not comparable(ours, theirs):
            notes.append("could not be compared with the base's")
        elif reason := conflict(ours, theirs, nested=False):
            notes.append(reason)
    if own != base and folded.directory is not None:
        notes.append("another chat template" if own else "no chat template, which the base has")
    if not notes:
        return folded
    return _told(folded, f"{at(adapter)}: its own tokenizer is used ({'; '.join(notes)})")


def _require_rows(folded: Checkpoint, own: Vocabulary, base: Vocabulary | None) -> None:
    """The tokens of an adapter must have rows in the embeddings, unless the base's have none."""
    if base is not None and _beyond(folded, base):
        return
    if beyond := _beyond(folded, own):
        last = max(own.ids.values())
        raise CheckpointError(
            f"{beyond}; resize the base as it was for training (in transformers: "
            f"model.resize_token_embeddings({last + 1})), or take the tokenizer away"
        )


def rows_notice(checkpoint: Checkpoint) -> str | None:
    """What to say of a tokenizer whose last tokens have no rows in the embeddings.

    Raises:
        CheckpointError: a tokenizer file cannot be read.
    """
    own = None if checkpoint.words is None else read_vocabulary(checkpoint.words)
    beyond = own and _beyond(checkpoint, own)
    return f"{beyond}: no text with such a token can be read" if beyond else None


def _beyond(checkpoint: Checkpoint, vocabulary: Vocabulary) -> str | None:
    """Which token has an id for which the embeddings have no row, in words; None if none has."""
    rows = embedding_rows(checkpoint)
    token, last = max(vocabulary.ids.items(), key=lambda item: item[1], default=("", -1))
    if rows is None or last < rows:
        return None
    return (
        f"{at(vocabulary.file)}: token '{one_line(token)}' has id {last}, and the embeddings have "
        f"only {count(rows, 'row')}"
    )


def _told(checkpoint: Checkpoint, notice: str) -> Checkpoint:
    return replace(checkpoint, notices=(*checkpoint.notices, notice))
