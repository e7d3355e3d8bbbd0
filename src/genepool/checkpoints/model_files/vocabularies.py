"""Vocabularies: which token has which id, from the files that tokenizers are saved in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.model_files.configs import read_json
from genepool.errors import CheckpointError
from genepool.messages import at, one_line

# The first of these that a directory holds; all but the last two say which token has which id.
_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, eq=False, slots=True)
class Vocabulary:
    """A tokenizer's vocabulary.

    Attributes:
        file: that it was read from.
        ids: token to id; empty for a SentencePiece model, which is compared by its bytes.
        content: the file's bytes, if it can only be compared so.
    """

    file: Path
    ids: dict[str, int]
    content: bytes


def same_files(first: Path, other: Path) -> bool:
    """Whether two directories hold the same tokenizer file, byte for byte, or neither has one."""
    ours, theirs = _file(first), _file(other)
    if ours is None or theirs is None:
        return ours is theirs
    return (
        ours.name == theirs.name
        and ours.stat().st_size == theirs.stat().st_size
        and ours.read_bytes() == theirs.read_bytes()
        and _added(first) == _added(other)
    )


def read_vocabulary(directory: Path) -> Vocabulary | None:
    """The vocabulary of a model's directory, or None if it holds no tokenizer.

    Raises:
        CheckpointError: a tokenizer file cannot be read, or gives one id to two tokens.
    """
    file = _file(directory)
    if file is None:
        return None
    if file.suffix == ".model":
        return Vocabulary(file, {}, file.read_bytes())
    if file.name == "tokenizer.json":
        ids = _tokenizer_ids(file)
    elif file.name == "vocab.json":
        ids = {**_whole(file, read_json(file)), **_added(directory)}
    else:
        lines = file.read_text("utf-8", errors="replace").splitlines()
        ids = {**{token: number for number, token in enumerate(lines)}, **_added(directory)}
    return Vocabulary(file, ids, b"")


def _file(directory: Path) -> Path | None:
    return next((directory / name for name in _FILES if (directory / name).is_file()), None)


def _added(directory: Path) -> dict[str, int]:
    file = directory / "added_tokens.json"
    return _whole(file, read_json(file)) if file.is_file() else {}


def _tokenizer_ids(file: Path) -> dict[str, int]:
    content = read_json(file)
    model: Any = content.get("model")
    vocabulary: Any = (
        cast("dict[str, Any]", model).get("vocab") if isinstance(model, dict) else None
    )
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


def conflict(first: Vocabulary, other: Vocabulary, *, nested: bool) -> str | None:
    """What stands in the way of merging embeddings row by row, in words; None if nothing does.

    Args:
        first, other: the vocabularies.
        nested: whether one of them may have tokens besides (in rows that the other leaves unused).
    """
    if first.content or other.content:
        if first.content and other.content and first.content != other.content:
            return "the files differ"
        return None
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
    if nested:
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
