"""YAML with line numbers, so that every error can name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from genepool.errors import ConfigError

# Path into the document -> line number from 1. A key is a string or, in a list, an index.
Lines = dict[tuple[str | int, ...], int]

_MAX_DEPTH = 50


def load_with_lines(file: Path) -> tuple[Any, Lines]:
    """Read one YAML document.

    Returns:
        The document as plain Python values, and the line on which each value (and key) stands.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot read the run file ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: the run file is not UTF-8 text") from None
    lines: Lines = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else _convert(loader, node, (), lines, file)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark else "somewhere"
        raise ConfigError(f"{file}, {where}: not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        raise ConfigError(f"{file}: not valid YAML ({first})") from None
    return value, lines


def _convert(
    loader: yaml.SafeLoader, node: yaml.Node, path: tuple[str | int, ...], lines: Lines, file: Path
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(path) > _MAX_DEPTH:
        raise ConfigError(f"{file}, line {lines[path]}: nested more than {_MAX_DEPTH} deep")
    if isinstance(node, yaml.SequenceNode):
        return [
            _convert(loader, child, (*path, index), lines, file)
            for index, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        out: dict[Any, Any] = {}
        for key_node, child in node.value:
            key: object = loader.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"{file}, line {line}: a key must be text; got {key!r}")
            if key in out:
                raise ConfigError(f"{file}, line {line}: the key {key!r} is given twice")
            lines[(*path, key)] = line
            out[key] = _convert(loader, child, (*path, key), lines, file)
        return out
    return loader.construct_object(node, deep=True)  # pyright: ignore[reportUnknownMemberType]
