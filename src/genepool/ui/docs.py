"""The parts of docs/ that are made from the code, so that they cannot fall behind it.

`python -m genepool.ui.docs docs CONTRIBUTING.md` (or `make docs`) writes them anew; a test fails
when they differ.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import genepool
from genepool.checkpoints.seed_options import SeedOptions
from genepool.models.build import ModelOptions
from genepool.run.file.run_settings import RayEnvironment, RayOptions, RunConfig, TaskOptions
from genepool.strategies.by_name import BUILT_IN
from genepool.strategies.map_elites import Measure
from genepool.tasks.agent.environment import find_environment
from genepool.tasks.lm_eval.evaluator import GenerationOptions
from genepool.tasks.task import find_evaluator
from genepool.ui.cli.main import cli

# The rooms, each of which uses only those before it.
ROOMS = (
    *("core", "strategies", "checkpoints", "materialise", "models", "tasks", "pool", "governance"),
    *("output", "run", "study", "ui"),
)
_PART = re.compile(r"(<!-- made from the code: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """A page with its parts between `<!-- made from the code: NAME -->` and `<!-- end -->` new."""
    return _PART.sub(lambda found: f"{found[1]}\n{_PARTS[found[2]]()}\n{found[3]}", text)


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command that does something, in the order of the alphabet."""
    root = click.Context(cli, info_name="genepool")
    stack: list[tuple[click.Context, click.Command]] = [(root, cli)]
    while stack:
        context, command = stack.pop()
        if not isinstance(command, click.Group):
            yield context, command
            continue
        for name in sorted(command.commands, reverse=True):
            child = command.commands[name]
            stack.append((click.Context(child, info_name=name, parent=context), child))


def _commands() -> str:
    out: list[str] = []
    for context, command in commands():
        usage = " ".join(command.collect_usage_pieces(context))
        out.append(f"### {context.command_path}\n")
        out.append(f"```\n{context.command_path} {usage}\n```\n")
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        out.append("\n\n".join(" ".join(text.split()) for text in paragraphs) + "\n")
        for parameter in command.params:
            # What an argument means is said in the command's text.
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                name, text = record
                out.append(f"- `{name}`: {' '.join(text.split())}")
        out.append("")
    return "\n".join(out)


def _run_file() -> str:
    parts = [
        _table("The file", RunConfig),
        _table("An entry of `seeds`", SeedOptions),
        _table("An entry of `tasks`, whatever its evaluator", TaskOptions),
        _table("`model`", ModelOptions),
        _table("`ray`, for `executor: ray`", RayOptions),
        _table("`environment` of `ray`", RayEnvironment),
    ]
    for name, options in BUILT_IN.items():
        parts.append(_table(f"`strategy` with `name: {name}`", options, leave_out=("name",)))
    parts.append(_table("An entry of `measures` of `map-elites`", Measure))
    for name in ("agent", "classifier", "function", "images", "lm-eval"):
        title = f"A task with `evaluator: {name}`, besides"
        parts.append(_table(title, find_evaluator(name).Options))
    parts.append(_table("`generation` of `lm-eval`", GenerationOptions))
    for name in ("agentgym", "gymnasium", "openenv", "textworld"):
        title = f"`settings` of `agent` with `environment: {name}`"
        parts.append(_table(title, find_environment(name).Options))
    return "\n".join(parts)


def _files() -> str:
    """One line for every file of the package, room by room, as the file itself says it."""
    package = Path(genepool.__file__).parent
    out: list[str] = []
    for room in ("", *ROOMS, "testing"):
        here = package / room if room else package
        if room:
            out += [f"\n**{room}/** {_first(here / '__init__.py')}\n"]
        files = here.rglob("*.py") if room else here.glob("*.py")
        for file in sorted(files):
            if file.name != "__init__.py" or not room:
                out.append(f"- `{file.relative_to(package).as_posix()}`: {_first(file)}")
    return "\n".join(out)


def _first(file: Path) -> str:
    """The first paragraph of a file's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _device_memory() -> str:
    """What models of 16 bits need, by their size and the number of seeds, in GB of 10^9 bytes."""
    from genepool.materialise.device_memory import device_needed

    lines = [
        "| parameters | seeds | seeds on the GPU: GPU | seeds in main memory: GPU | main memory |",
        "|---|---|---|---|---|",
    ]
    for billions in (0.5, 1, 3, 7, 14, 32, 70):
        model = int(2e9 * billions)
        for count in (2, 3, 4):
            sizes = (device_needed(model, count * model), device_needed(model, 0), count * model)
            cells = " | ".join(f"{size / 1e9:.1f} GB" for size in sizes)
            lines.append(f"| {billions} B | {count} | {cells} |")
    return "\n".join(lines)


_PARTS: dict[str, Callable[[], str]] = {
    "commands": _commands,
    "device-memory": _device_memory,
    "files": _files,
    "run-file": _run_file,
}


def _table(title: str, model: type[BaseModel], leave_out: Sequence[str] = ()) -> str:
    lines = [f"### {title}\n", "| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        kind = _bounded(_type(field.annotation), field.metadata)
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default()
    if isinstance(value, BaseModel):
        named = type(value).model_fields.get("name")
        return f"`{named.default}`" if named is not None else "as below"
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _type(kind: Any) -> str:
    """An annotation in words that a writer of YAML understands."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(_type(inside[0]), list(inside[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        parts = [_type(part) for part in inside if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is list:
        return f"list, each {_type(inside[0])}"
    if origin is dict:
        return f"mapping, each {_type(inside[0])}: {_type(inside[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "mapping, see below"
    if kind is Any:
        return "anything"
    words = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    return words[kind]


def _bounded(text: str, metadata: list[Any]) -> str:
    limits: list[str] = []
    for entry in metadata:
        for part in (entry, *getattr(entry, "metadata", ())):
            for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
                limit = getattr(part, name, None)
                if limit is not None:
                    limits.append(f"{sign} {_round(limit)}")
    return f"{text} {', '.join(limits)}" if limits else text


def _round(limit: float) -> str:
    return "2^63" if limit == 2**63 else f"{limit:,}"


def main(*places: Path) -> None:
    """Write pages, or those of directories, anew where they differ."""
    pages = [page for place in places for page in (sorted(place.glob("*.md")) or [place])]
    for page in pages:
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"wrote {page}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
