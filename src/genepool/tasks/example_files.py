"""Examples for user functions: .jsonl, .json, .npy and .npz files, ids, and a digest of content."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.documents import parse_json, read_text
from genepool.errors import ConfigError
from genepool.messages import at, blamed, cause, failures_as, is_text, one_line, shown
from genepool.models.user_code import load_object
from genepool.tasks import datasets
from genepool.tasks.checks import content_digest

_LARGEST = 4_000_000_000
_PLAIN = {str, int, float, bool, type(None)}
FILES = (".jsonl", ".json", ".npy", ".npz")


def read_examples(source: str, directory: Path) -> list[Any]:
    """Read examples from a file, or from `module:name`.

    A .jsonl file has one JSON value a line, a .json file a list; a .npy array is divided along its
    first axis, and an .npz file into mappings with the row of every array. `module:name` is a
    sequence, or a function without arguments that returns one. Arrays in examples are read-only.

    Raises:
        ConfigError: there is no such file or object, or it holds no examples.
    """
    if source.endswith(FILES):
        path = directory / source
        found = _from_file(path)
        what = at(path)
    else:
        found = _from_object(source, directory)
        what = f"'{one_line(source)}'"
    if not found:
        raise ConfigError(f"{what}: holds no examples")
    return found


def example_ids(examples: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the examples: by their field "id" if all have one, else by a digest of their content.

    Args:
        examples: JSON values, numpy arrays, and mappings and lists of these.

    Returns:
        (ids, digests): one of each per example; digests have 32 hex digits.

    Raises:
        ConfigError: some have an id and some have not, an id is neither text nor a whole number, or
            an example holds something that cannot be digested.
    """
    digests = [_digest(position, example) for position, example in enumerate(examples)]
    given = [
        cast("Mapping[str, Any]", e).get("id") if isinstance(e, Mapping) else None for e in examples
    ]
    if all(value is None for value in given):
        return tuple(digests), tuple(digests)
    for position, value in enumerate(given):
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ConfigError(
                f"example {position} (counting from 0) has no usable 'id': expected text or a "
                f"whole number, as every example has one or none has; got {shown(value)}"
            )
        if not is_text(str(value)):
            raise ConfigError(
                f"example {position} (counting from 0) has an 'id' that holds half of a character "
                f"(a lone surrogate): {shown(value)}"
            )
    return tuple(str(value) for value in given), tuple(digests)


def contents(examples: Sequence[Any]) -> tuple[str, ...]:
    """A digest of each example without its field "id", of examples that `example_ids` has named.

    Where an example is but its id, that is its content.
    """
    nameless: list[Any] = [
        {key: value for key, value in cast("Mapping[str, Any]", example).items() if key != "id"}
        or example
        if isinstance(example, Mapping)
        else example
        for example in examples
    ]
    return tuple(_digest(position, example) for position, example in enumerate(nameless))


def own_copy(example: Any) -> Any:
    """An example that a function may change: the next model is given another one.

    Arrays that are read-only stay one and the same, as all are that come from a file.
    """
    if type(example) is dict:
        held = cast("dict[str, Any]", example)
        return {key: v if type(v) in _PLAIN else own_copy(v) for key, v in held.items()}
    if type(example) in (list, tuple):
        members = cast("Sequence[Any]", example)
        own = [v if type(v) in _PLAIN else own_copy(v) for v in members]
        return own if type(example) is list else tuple(own)
    if isinstance(example, np.ndarray):
        array = cast("NDArray[Any]", example)
        return array.copy() if array.flags.writeable else array
    if isinstance(example, (MutableMapping, list, tuple)):  # OrderedDict, named tuples, ...
        return copy.deepcopy(cast("Any", example))
    return example


def _digest(position: int, example: object) -> str:
    parts: list[str | bytes | NDArray[Any]] = []
    try:
        _flatten(example, parts)
    except (TypeError, RecursionError) as error:
        raise ConfigError(
            f"example {position} (counting from 0) cannot be digested: {cause(error)}; use text, "
            "numbers, lists, mappings and numpy arrays"
        ) from error
    return content_digest(parts)


def _flatten(value: object, parts: list[str | bytes | NDArray[Any]]) -> None:
    """Append parts that together say what `value` is: equal values, equal parts."""
    if value is None or isinstance(value, (bool, int, float, str)):
        parts.append(repr(value))
    elif isinstance(value, bytes):
        parts.append(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        array: NDArray[Any] = np.asarray(cast("Any", value))
        if array.dtype.hasobject:
            raise TypeError("an array of Python objects has no fixed content")
        parts.append(array)
    elif isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        if not all(isinstance(key, str) for key in items):
            raise TypeError("keys must be text")
        parts.append(f"mapping:{len(items)}")
        for key in sorted(cast("Mapping[str, object]", items)):
            if not is_text(key):
                raise TypeError(f"the key {key!r} holds half of a character (a lone surrogate)")
            parts.append(key)
            _flatten(items[key], parts)
    elif isinstance(value, (list, tuple)):
        members = cast("Sequence[object]", value)
        parts.append(f"list:{len(members)}")
        for member in members:
            _flatten(member, parts)
    else:
        raise TypeError(f"a value of type {type(value).__name__} has no fixed content")


def _from_file(path: Path) -> list[Any]:
    if path.suffix == ".npy":
        array = datasets.read_array(path)
        if array.ndim < 1:
            raise ConfigError(f"{at(path)}: expected one example per row; got a single number")
        return _rows(array)
    if path.suffix == ".npz":
        arrays = datasets.read_npz_arrays(path)
        sizes = {array.shape[0] if array.ndim else None for array in arrays.values()}
        if len(sizes) != 1 or None in sizes:
            shapes = ", ".join(f"{one_line(n)} {a.shape}" for n, a in arrays.items()) or "no arrays"
            raise ConfigError(
                f"{at(path)}: expected arrays of equal length, one row per example; got {shapes}"
            )
        columns = {name: _rows(array) for name, array in arrays.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return _from_json(path)


def _rows(array: NDArray[Any]) -> list[Any]:
    array.setflags(write=False)
    return list(array)


def _from_json(path: Path) -> list[Any]:
    try:
        text = read_text(path, _LARGEST)
    except FileNotFoundError as error:
        raise ConfigError(f"{at(path)}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{at(path)}: cannot be read: {one_line(error)}") from error
    if path.suffix == ".json":
        found = _parse(text, at(path))
        if not isinstance(found, list):
            raise ConfigError(
                f"{at(path)}: expected a JSON list of examples; got {type(found).__name__}"
            )
        return cast("list[Any]", found)
    # Not splitlines(): JSON text may hold line separators other than the line feed.
    lines = text.split("\n")
    return [
        _parse(line, f"{at(path)}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse(text: str, where: str) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid JSON: {error}") from error


def _from_object(source: str, directory: Path) -> list[Any]:
    if ":" not in source:
        raise ConfigError(
            f"'{one_line(source)}': expected a file ending in {', '.join(FILES)}, or "
            "'module:function'"
        )
    found = load_object(source, directory)
    if callable(found):
        with failures_as(ConfigError, f"'{source}' failed", told=blamed):
            found = found()
    if isinstance(found, np.ndarray):
        return _rows(cast("NDArray[Any]", found).copy()) if found.ndim else []
    if not isinstance(found, Sequence) or isinstance(found, (str, bytes)):
        raise ConfigError(
            f"'{source}': expected a list of examples, or a function that returns one; "
            f"got {type(cast('object', found)).__name__}"
        )
    return list(cast("Sequence[Any]", found))
