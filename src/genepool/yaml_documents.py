"""YAML from outside: bounded as documents are, and with the line on which each value stands."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any, cast

import yaml

from genepool.documents import MAX_DIGITS, Unreadable
from genepool.messages import one_line

# Path into a document -> line number from 1. A key is a string or, in a list, an index.
Lines = dict[tuple[str | int, ...], int]

_DEPTH = 50
# Values of a document with its aliases written out; PyYAML reads some 10,000 a second.
_COUNT = 20_000
_PLAIN = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# A number for YAML 1.2 (section 10.3.2) and for people; PyYAML, of YAML 1.1, makes a text of it.
_EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+", re.ASCII)
# What YAML 1.1 counts by eights and by sixties: neither YAML 1.2 nor people do.
_EIGHTS_OR_SIXTIES = re.compile(r"[-+]?0[0-9_]+|.*:.*", re.ASCII)


def parse_yaml(text: str) -> tuple[Any, Lines]:
    """One YAML document as plain values, and the line on which each value or key stands.

    Raises:
        Unreadable: it is no YAML, has a key twice or one that is not text, or is out of all
            proportion, with its aliases written out.
    """
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        values = _Values(loader)
        return (None if node is None else values.of(node, ())), values.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"not valid YAML ({one_line(error.problem)})"
        raise Unreadable(reason, mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        place = getattr(error, "position", None)
        first = (str(error).splitlines() or ["unreadable"])[0]
        line = text.count("\n", 0, place) + 1 if isinstance(place, int) else None
        raise Unreadable(f"not valid YAML ({one_line(first)})", line) from None
    finally:
        if loader is not None:
            loader.dispose()


def texts_under(data: bytes, key: str) -> list[str]:
    """The text or texts under a key of a YAML document that another program is going to read.

    It may bear tags of that program's, and what is no YAML is that program's to refuse.

    Raises:
        Unreadable: it is out of all proportion, with its aliases written out.
    """
    try:
        loader = _Loader(data)
        try:
            root: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError:
        return []
    level, depth, count = [] if root is None else [root], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        _require_proportion(depth, count, level[0].start_mark.line + 1)
        for node in level:
            _require_digits(node)
        # A list of itself would be as long as its square.
        level = list(islice((part for node in level for part in _parts(node)), _COUNT + 1))
    found: list[yaml.Node] = []
    if isinstance(root, yaml.MappingNode):
        found = [value for name, value in root.value if name.value == key]
    parts = [part for value in found for part in _parts(value) or [value]]
    return [str(part.value) for part in parts if isinstance(part, yaml.ScalarNode)]


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


class _Loader(yaml.SafeLoader):
    """Stops composing a document that is out of all proportion."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self._depth = self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        line = int(cast("Any", self).peek_event().start_mark.line) + 1
        _require_proportion(self._depth, self._count, line)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Values:
    """Nodes into values; an alias counts each time that it is used."""

    def __init__(self, loader: _Loader) -> None:
        self.lines: Lines = {}
        self._loader = loader
        self._count = 0

    def of(self, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        _require_proportion(len(path), self._count, line)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _PLAIN:
            raise Unreadable(f"not valid YAML (the tag '{one_line(node.tag)}' has no use)", line)
        if isinstance(node, yaml.SequenceNode):
            return [self.of(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._mapping(cast("yaml.MappingNode", node), path)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                sources = child.value if isinstance(child, yaml.SequenceNode) else [child]
                for source in sources:
                    found = self.of(source, (*path, "<<"))
                    if not isinstance(found, dict):
                        raise Unreadable("'<<' takes a mapping, or a list of them", line)
                    merged = {**cast("dict[str, Any]", found), **merged}
                continue
            plain = isinstance(key_node, yaml.ScalarNode)
            key = self._scalar(key_node) if plain else None
            if not isinstance(key, str):
                shown = one_line(key_node.value) if plain else "a list or mapping"
                raise Unreadable(f"a key must be text; got {shown}", line)
            if key in own:
                raise Unreadable(f"the key '{one_line(key)}' is given twice", line)
            self.lines[(*path, key)] = line
            own[key] = self.of(child, (*path, key))
        return {**merged, **own}

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        line = node.start_mark.line + 1
        _require_digits(node)
        if node.style is None and _EXPONENT.fullmatch(node.value):
            return float(node.value)
        if node.tag in _NUMBERS and _EIGHTS_OR_SIXTIES.fullmatch(node.value):
            raise Unreadable(
                f"'{one_line(node.value)}' is not one number to all readers of YAML; write a plain "
                "one, such as 8 or 90, or a text in quotes",
                line,
            )
        try:
            return self._loader.construct_object(node)  # pyright: ignore[reportUnknownMemberType]
        except yaml.YAMLError:
            raise
        except Exception:
            # PyYAML's constructors fail in ways of their own where a tag does not fit its value.
            kind = node.tag.rpartition(":")[2]
            reason = f"not valid YAML ('{one_line(node.value)}' is no {one_line(kind)})"
            raise Unreadable(reason, line) from None


def _require_digits(node: yaml.Node) -> None:
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
        line = node.start_mark.line + 1
        raise Unreadable(f"a whole number of {len(node.value)} digits is too large", line)


def _require_proportion(depth: int, count: int, line: int) -> None:
    if depth > _DEPTH:
        raise Unreadable(f"nested more than {_DEPTH} deep", line)
    if count > _COUNT:
        raise Unreadable(f"holds more than {_COUNT:,} values, aliases written out", line)
