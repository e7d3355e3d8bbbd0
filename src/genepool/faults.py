"""What is wrong with settings, of a run file above all: each mistake in a line, with advice."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import BaseModel, ValidationError

from genepool.messages import one_line

if TYPE_CHECKING:
    from genepool.yaml_documents import Lines

# Keys and indices from the top of the file.
Place = tuple[str | int, ...]

_MOST = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake.

    Attributes:
        place: of the value that is wrong, or that is missing.
        text: what is wrong with it.
        meant: of a key, the other one that is meant, as far as can be guessed.
        missing: whether a value is not there at all.
    """

    place: Place
    text: str
    meant: str | None = None
    missing: bool = False


def faults_of(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    place: Place = (),
    also: Sequence[str] = (),
) -> list[Fault]:
    """What pydantic found, in words.

    Args:
        error: that validating `data` as `model` raised.
        place: where in the file `data` stands.
        also: keys that may stand beside those of the model.
    """
    # By place: for a value that may be of several kinds, what is wrong with it as each of them.
    found: dict[Place, dict[str, list[Fault]]] = {}
    for detail in error.errors(include_url=False):
        here, fork, kind = _located(detail["loc"], data, detail["type"] == "missing")
        fault = _fault(detail, (*place, *here), [*(() if here[1:] else also), *_keys(model, here)])
        found.setdefault(here if fork is None else fork, {}).setdefault(kind, []).append(fault)
    out: list[Fault] = []
    for fork, kinds in found.items():
        # A kind that fits but for its parts is what was meant; else one of those is.
        fitting = [
            faults
            for kind, faults in kinds.items()
            if not kind or all(len(fault.place) > len(place) + len(fork) for fault in faults)
        ]
        if fitting:
            out += [
                fault for faults in (fitting if "" in kinds else fitting[:1]) for fault in faults
            ]
        else:
            every = dict.fromkeys(fault.text for faults in kinds.values() for fault in faults)
            *others, last = every
            wanted = [*(text.partition("; got")[0] for text in others), last]
            wanted[1:] = [text.removeprefix("input should be ") for text in wanted[1:]]
            out.append(Fault((*place, *fork), " or ".join(wanted)))
    absent = [fault.place for fault in out if fault.missing]
    return [_taken_for_another(fault, absent) for fault in out]


def _taken_for_another(fault: Fault, absent: Sequence[Place]) -> Fault:
    """A key whose value is wrong may be meant for one that is missing, such as seed for seeds."""
    if fault.missing or fault.meant or not fault.place:
        return fault
    beside = [str(place[-1]) for place in absent if place[:-1] == fault.place[:-1]]
    close = difflib.get_close_matches(str(fault.place[-1]), beside, n=1)
    if not close:
        return fault
    return Fault(fault.place, f"{fault.text}; did you mean {close[0]!r}?", meant=close[0])


def in_a_line(error: ValidationError, model: type[BaseModel], data: Any, what: str) -> str:
    """The mistakes that pydantic found, in a line that begins with what they are in."""
    faults = faults_of(error, model, data)
    # What is missing may have been given under a name that is not known.
    meant = {(*fault.place[:-1], fault.meant) for fault in faults}
    texts: list[str] = []
    for fault in faults:
        option = one_line(".".join(map(str, fault.place)))
        if not (fault.missing and fault.place in meant):
            texts.append(f"option '{option}': {fault.text}" if option else fault.text)
    rest = [f"and {len(texts) - _MOST} more"] if len(texts) > _MOST else []
    return f"{what}: " + "; ".join([*texts[:_MOST], *rest]).replace("?; ", "? ")


def _located(
    loc: tuple[str | int, ...], data: Any, missing: bool
) -> tuple[Place, Place | None, str]:
    """Where in the data an error is; if a value there may be of several kinds, where, and which."""
    here: list[str | int] = []
    fork: Place | None = None
    kind = ""
    for number, part in enumerate(loc):
        inner: dict[Any, Any] = {}
        if isinstance(data, dict):
            inner = cast("dict[Any, Any]", data)
        elif isinstance(data, (list, tuple)):
            inner = dict(enumerate(cast("list[Any]", data)))
        if part in inner:
            here.append(part)
            data = inner[part]
        elif missing and number == len(loc) - 1:
            here.append(part)
        elif part != "[key]" and fork is None:
            fork, kind = tuple(here), str(part)
    return tuple(here), fork, kind


def _fault(detail: Any, place: Place, known: list[str]) -> Fault:
    if detail["type"] == "missing":
        return Fault(place, "this is required and was not given", missing=True)
    if detail["type"] == "extra_forbidden":
        return unknown_key(place, known)
    message, given = detail["msg"].removeprefix("Value error, "), detail.get("input")
    message = message.replace("a valid integer", "a whole number")
    if detail["type"] == "model_type":
        message = "input should be a mapping"
    plain = isinstance(given, (str, int, float, type(None)))
    got = f"; got {shown(given)}" if plain else ""
    return Fault(place, f"{message[:1].lower()}{one_line(message[1:])}{got}")


def unknown_key(place: Place, known: list[str]) -> Fault:
    """A key that nothing is called by."""
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return Fault(place, f"unknown key; {hint}", meant=close[0] if close else None)


def shown(value: object) -> str:
    """A value of any length, safe to print in a line."""
    try:
        return one_line(repr(value))
    except ValueError:
        return "a number of thousands of digits"


def _keys(model: type[BaseModel], place: Place) -> list[str]:
    """The fields of the section in which the last key of a place stands."""
    for part in place[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            inner = next(_models(model.model_fields[part].annotation), None)
            if inner is None:
                break
            model = inner
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    parts = get_args(annotation)
    if not parts and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in parts:
        yield from _models(part)


def guesses(faults: Sequence[Fault], data: Any) -> dict[Place, str]:
    """Keys that must stand for another one that is not there: by place, which."""
    out: dict[Place, str] = {}
    taken: set[Place] = set()
    for fault in faults:
        if fault.meant is None:
            continue
        section = data
        for part in fault.place[:-1]:
            section = section[part]
        there = (*fault.place[:-1], fault.meant)
        if fault.meant not in section and there not in taken:
            out[fault.place] = fault.meant
            taken.add(there)
    return out


def respelt(place: Place, meant: dict[Place, str]) -> Place:
    """A place in what `renamed` gives."""
    return tuple(meant.get(place[: number + 1], part) for number, part in enumerate(place))


def renamed(data: Any, meant: dict[Place, str], place: Place = ()) -> Any:
    """A copy in which keys are spelt as they were meant."""
    if isinstance(data, dict):
        entries = cast("dict[str, Any]", data)
        return {
            meant.get((*place, key), key): renamed(value, meant, (*place, key))
            for key, value in entries.items()
        }
    if isinstance(data, list):
        parts = cast("list[Any]", data)
        return [renamed(part, meant, (*place, index)) for index, part in enumerate(parts)]
    return data


def line_of(place: Place, lines: Lines) -> int | None:
    """The line of a value, or of the closest around it that has one."""
    known = (place[:length] for length in range(len(place), 0, -1))
    return next((lines[part] for part in known if part in lines), None)


def at(source: str, line: int | None) -> str:
    """`run.yaml, line 7`."""
    return source if line is None else f"{source}, line {line}"


def report(faults: Sequence[Fault], source: str, lines: Lines) -> list[str]:
    """A line for each mistake, in the order of the file."""
    placed = [(line_of(fault.place, lines), fault) for fault in faults]
    placed.sort(key=lambda each: each[0] or 0)
    out: list[str] = []
    for line, fault in placed:
        field = one_line(".".join(map(str, fault.place))) or "the file"
        out.append(f"{at(source, line)}: {field}: {fault.text}")
    out = list(dict.fromkeys(out))
    rest = len(out) - _MOST
    return [*out[:_MOST], *([f"{source}: and {rest} more"] if rest > 0 else [])]
