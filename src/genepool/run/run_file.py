"""The run file: what to breed, from what, judged by what.

Default, range, help and type of every setting live on its field here; the command line, the schema
and docs/run-file.md are made from them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genepool.checkpoints.seed_options import SeedOptions
from genepool.errors import ConfigError, MissingExtraError
from genepool.messages import at, is_text
from genepool.models.build import ModelOptions
from genepool.run.yaml_lines import Lines, load_with_lines
from genepool.settings import Section
from genepool.strategies.base import Strategy
from genepool.strategies.by_name import find_strategy
from genepool.tasks.task import find_evaluator


class StrategyEntry(BaseModel):
    """A strategy: its name; its own options stand beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(default="m2n2", description="which strategy")


class TaskOptions(BaseModel):
    """A task: what every evaluator shares; its own options stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(min_length=1, description="what to call it")
    evaluator: str = Field(description="which evaluator scores it")
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="what the whole task weighs; tasks of different sizes weigh equally by default",
    )
    guard: bool = Field(
        default=False,
        description="nobody competes for this task, but a child whose mean score on it falls below "
        "the best seed's, less 'tolerance', is not admitted",
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="of a guard: how far a child's mean score may fall below the best seed's",
    )

    def own_options(self) -> dict[str, Any]:
        """The evaluator's own options, as given."""
        return dict(self.model_extra or {})


class RunConfig(Section):
    """A run file."""

    pool: str = Field(min_length=1, description="directory in which the population lives")
    seeds: list[str | SeedOptions] = Field(
        min_length=1, description="the checkpoints to start from"
    )
    partial: bool = Field(
        default=False,
        description="the seeds may share only part of their tensors: what all hold under one name "
        "and in one shape evolves, all else comes from the first seed",
    )
    vocabulary: Literal["same", "common"] = Field(
        default="same",
        description="'same' refuses seeds whose tokenizers differ; 'common' merges the rows of the "
        "tokens that are the same in all seeds, from id 0 on, and takes the further rows from the "
        "first seed",
    )
    tasks: list[TaskOptions] = Field(min_length=1, description="what members are scored on")
    strategy: StrategyEntry = Field(
        default=StrategyEntry(), description="how children are made and which survive"
    )
    model: ModelOptions = Field(
        default=ModelOptions(), description="the live model into which children are materialised"
    )
    chromosomes: dict[str, list[str]] = Field(
        default={}, description="name -> patterns of tensor names; each splits on its own"
    )
    budget: int = Field(default=1000, ge=0, le=10**9, description="number of children to score")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the randomness")
    in_flight: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="children proposed before the oldest is absorbed; 1 is the paper's algorithm",
    )
    early_stop: bool = Field(
        default=True, description="stop scoring a child once its rejection is certain (lossless)"
    )
    track_held_out: bool = Field(
        default=False, description="also score every new champion on the held-out examples"
    )
    executor: Literal["serial", "process"] = Field(
        default="serial", description="where children are scored: here, or in worker processes"
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="worker processes; 0: as many as cores, at most in_flight",
    )

    @property
    def contested(self) -> list[TaskOptions]:
        """The tasks that members compete for, in order; at least one."""
        return [task for task in self.tasks if not task.guard]

    @property
    def guards(self) -> list[TaskOptions]:
        """The guard tasks, in order."""
        return [task for task in self.tasks if task.guard]


class Run(Section):
    """A validated run file and the folder that its relative paths start from."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    config: RunConfig
    directory: Path
    source: str
    lines: dict[tuple[str | int, ...], int] = Field(default_factory=dict)

    def resolve(self, path: str) -> Path:
        """A path of the run file, relative to the run file's folder."""
        return self.directory / Path(path).expanduser()

    def where(self, *path: str | int) -> str:
        """`run.yaml, line 7` for the value at this path, or the closest that has a line."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines and length:
                return f"{self.source}, line {self.lines[path[:length]]}"
        return self.source

    @property
    def strategy(self) -> Strategy:
        """The strategy with its options, validated.

        Raises:
            ConfigError: no such strategy, or one of its options is wrong.
        """
        entry = self.config.strategy
        try:
            found = find_strategy(entry.name)
        except ConfigError as error:
            raise ConfigError(f"{self.where('strategy', 'name')}: strategy.name: {error}") from None
        given = {"name": entry.name, **(entry.model_extra or {})}
        try:
            return found.model_validate(given)
        except ValidationError as error:
            text = _explain(error, self.source, self.lines, ("strategy",), found, given)
            raise ConfigError(text) from None

    @property
    def seeds(self) -> list[SeedOptions]:
        """The seeds with their names filled in; equal names get a number."""
        out: list[SeedOptions] = []
        for entry in self.config.seeds:
            seed = SeedOptions(path=entry) if isinstance(entry, str) else entry
            name = seed.name or Path(seed.path).name.removesuffix(".safetensors") or seed.path
            taken = {other.name for other in out}
            unique, number = name, 2
            while unique in taken:
                unique, number = f"{name}-{number}", number + 1
            out.append(seed.model_copy(update={"name": unique}))
        return out


def load_run(run: str | os.PathLike[str] | Mapping[str, Any]) -> Run:
    """Read and validate a run file, or a mapping with the same keys (relative to here).

    Raises:
        ConfigError: naming file, line and field.
    """
    if isinstance(run, Mapping):
        data, lines, source, directory = dict(run), {}, "run", Path.cwd()
    else:
        file = Path(run)
        data, lines = load_with_lines(file)
        source, directory = str(file), file.absolute().parent
        if not is_text(str(directory)):
            raise ConfigError(
                f"{at(file)}: its folder has a name that is not UTF-8, and a pool keeps names as "
                "text; rename the folder"
            )
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: expected a mapping with at least pool, seeds and tasks; "
            f"got {type(data).__name__ if data is not None else 'nothing'}"
        )
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, lines, (), RunConfig, data)) from None
    names = [task.name for task in config.tasks]
    for index, name in enumerate(names):
        if name in names[:index]:
            line = lines.get(("tasks", index, "name"))
            raise ConfigError(f"{_at(source, line)}: tasks.{index}.name: {name!r} is used twice")
    _check_guards(config, source, lines)
    out = Run(config=config, directory=directory, source=source, lines=lines)
    for index, task in enumerate(config.tasks):
        task_options(out, index, task)
    try:
        out.strategy.check(config.in_flight)
    except MissingExtraError:
        raise
    except ConfigError as error:
        text = str(error)
        known = text.startswith(source)
        raise ConfigError(text if known else f"{out.where('strategy')}: {text}") from None
    return out


def _check_guards(config: RunConfig, source: str, lines: Lines) -> None:
    for index, task in enumerate(config.tasks):
        key, hint = "tolerance", "add 'guard: true' or leave it out"
        if task.guard:
            key, hint = "weight", "nobody competes for a guard, so leave it out"
        if key in task.model_fields_set:
            line = lines.get(("tasks", index, key))
            kind = "is" if task.guard else "is not"
            raise ConfigError(
                f"{_at(source, line)}: tasks.{index}.{key}: task {task.name!r} {kind} a guard; "
                f"{hint}"
            )
    if not config.contested:
        raise ConfigError(
            f"{_at(source, lines.get(('tasks',)))}: tasks: all {len(config.tasks)} are guards; "
            "at least one must be a task that members compete for"
        )


def task_options(run: Run, index: int, task: TaskOptions) -> tuple[type[Any], Any]:
    """The evaluator of a task and its validated options.

    Raises:
        ConfigError: no such evaluator, or one of its options is wrong.
    """
    try:
        found = find_evaluator(task.evaluator, run.directory)
    except ConfigError as error:
        where = run.where("tasks", index, "evaluator")
        raise ConfigError(f"{where}: tasks.{index}.evaluator: {error}") from None
    own = task.own_options()
    try:
        return found, found.Options.model_validate(own)
    except ValidationError as error:
        also, place = tuple(TaskOptions.model_fields), ("tasks", index)
        text = _explain(error, run.source, run.lines, place, found.Options, own, also)
        raise ConfigError(text) from None


def _explain(
    error: ValidationError,
    source: str,
    lines: Lines,
    prefix: tuple[str | int, ...],
    model: type[BaseModel],
    data: Any,
    also: tuple[str, ...] = (),
) -> str:
    """One line for the first thing that is wrong; `also` are keys that stand there beside."""
    found = error.errors(include_url=False)
    first = found[0]
    if first["loc"][-1:] == ("str",) and isinstance(first.get("input"), dict) and len(found) > 1:
        # A mapping was meant where a text could also stand.
        first = found[1]
    location = tuple(part for part in first["loc"] if part not in ("SeedOptions", "str", "[key]"))
    path = (*prefix, *location)
    line = next(
        (lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None
    )
    field = ".".join(str(part) for part in path) or "the file"
    given = first.get("input")
    got = f"; got {given!r}" if isinstance(given, (str, int, float, bool, type(None))) else ""
    if first["type"] == "extra_forbidden":
        known = [*also, *_keys_beside(model, location)]
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{_at(source, line)}: {field}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{_at(source, line)}: {field}: this is required and was not given"
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"{_at(source, line)}: {field}: {message}{got}"


def _keys_beside(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    here: type[BaseModel] | None = model
    section = location[0] if len(location) > 1 else None
    if section == "seeds":
        here = SeedOptions
    elif section == "model":
        here = ModelOptions
    return list(here.model_fields)


def _at(source: str, line: int | None) -> str:
    return source if line is None else f"{source}, line {line}"
