"""The run file: what to breed, from what, judged by what.

Default, range, help and type of every setting live on its field here; the command line, the schema
and docs/run-file.md are made from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genepool.checkpoints.layout import pattern_test
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.checkpoints.seed_options import Chromosomes, SeedOptions
from genepool.documents import Unreadable, read_text
from genepool.errors import ConfigError, GenepoolError, MissingExtraError, RunFileErrors
from genepool.messages import at as path_of
from genepool.messages import is_text, some
from genepool.models.build import ModelOptions
from genepool.output.mergekit import mergekit_advice
from genepool.run.faults import (
    Fault,
    Place,
    at,
    faults_of,
    guesses,
    line_of,
    renamed,
    report,
    respelt,
    shown,
    unknown_key,
)
from genepool.settings import Section
from genepool.strategies.base import Strategy
from genepool.strategies.by_name import find_strategy
from genepool.tasks.task import find_evaluator
from genepool.yaml_documents import Lines, parse_yaml

_LARGEST = 1_000_000
_DEEPEST = 50

# Where paths stand, and how long the names of files can be.
_PATHS = {("pool",), ("seeds",), ("seeds", "path"), ("seeds", "base"), ("model", "tokenizer")}
_LONGEST_NAME, _LONGEST_PATH, _DEEPEST_PATH = 255, 4000, 200


class StrategyEntry(BaseModel):
    """A strategy: its name; its own options stand beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(default="m2n2", description="This strategy makes the children.")


class TaskOptions(BaseModel):
    """A task: what every evaluator shares; its own options stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(min_length=1, description="The task is called so.")
    evaluator: str = Field(description="This evaluator scores it.")
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="The task weighs so much; by default all weigh equally, of whatever size.",
    )
    guard: bool = Field(
        default=False,
        description="Nobody competes for this task, but a child whose mean score on it falls "
        "below the best seed's, less 'tolerance', is not admitted.",
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="On a guard a child's mean score may fall so far below the best seed's.",
    )


class RunConfig(Section):
    """A run file."""

    pool: str = Field(min_length=1, description="The population lives in this directory.")
    seeds: list[str | SeedOptions] = Field(
        min_length=1, description="The run starts from these checkpoints."
    )
    partial: bool = Field(
        default=False,
        description="The seeds may share only part of their tensors: what all hold under one name "
        "and in one shape evolves, and all else comes from the first seed.",
    )
    vocabulary: Literal["same", "common"] = Field(
        default="same",
        description="With 'same', seeds whose tokenizers differ are refused; with 'common', the "
        "rows of the tokens that are the same in all seeds, from id 0 on, are merged, and the "
        "further rows come from the first seed.",
    )
    tasks: list[TaskOptions] = Field(min_length=1, description="Members are scored on these.")
    strategy: StrategyEntry = Field(
        default=StrategyEntry(), description="It says how children are made and which survive."
    )
    model: ModelOptions = Field(default=ModelOptions(), description="Children live in this model.")
    components: dict[str, str] = Field(
        default={},
        description="A component of a pipeline that is named here evolves ('evolve'), or comes as "
        "it is from the seed whose name stands behind it. The denoiser (U-Net or transformer) "
        "evolves unless others are named that do; what is not named comes from the first seed.",
    )
    chromosomes: Chromosomes = Field(
        default={},
        description="A name stands for the tensors that fit the patterns behind it, and these have "
        "split points of their own; the word `attention` stands for all attention layers and "
        "everything else. A pattern is one of file names (`*.mlp.*`), or after `re:` a regular "
        "expression for a whole name, without look-around and back-references.",
    )
    budget: int = Field(default=1000, ge=0, le=10**9, description="So many children are scored.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="The random seed decides all draws.")
    in_flight: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="So many children are proposed before the oldest is absorbed; the paper has 1.",
    )
    early_stop: bool = Field(
        default=True,
        description="A child is scored no further once its rejection is certain (lossless).",
    )
    track_held_out: bool = Field(
        default=False, description="Every new champion is also scored on the held-out examples."
    )
    executor: Literal["serial", "process"] = Field(
        default="serial",
        description="Children are scored in this process, one at a time, or in worker processes.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="There are so many workers; 0 means as many as cores, at most 'in_flight'.",
    )

    @property
    def evolving(self) -> tuple[str, ...]:
        """The components of a pipeline that are said to evolve."""
        return tuple(name for name, value in self.components.items() if value == EVOLVE)

    @property
    def whole(self) -> dict[str, str]:
        """Component -> the name of the seed that it is taken from as it is."""
        return {name: value for name, value in self.components.items() if value != EVOLVE}

    @property
    def contested(self) -> list[TaskOptions]:
        """The tasks that members compete for, in order; at least one."""
        return [task for task in self.tasks if not task.guard]

    @property
    def guards(self) -> list[TaskOptions]:
        """The guard tasks, in order."""
        return [task for task in self.tasks if task.guard]


@dataclass(frozen=True, slots=True)
class Given:
    """A run file as it was read: plain values, which may go to other processes.

    Attributes:
        data: its content.
        directory: the folder that its relative paths start from.
        source: what to call it in messages.
        lines: on which line each value stands.
    """

    data: Mapping[str, Any]
    directory: Path
    source: str
    lines: Lines = field(default_factory=dict[Place, int])


@dataclass(frozen=True, eq=False, slots=True)
class RunTask:
    """A task of a run file, and what opens it: `evaluator(options, directory)`."""

    settings: TaskOptions
    evaluator: type[Any]
    options: BaseModel


@dataclass(frozen=True, eq=False, slots=True)
class Run:
    """A run file, valid in all its parts; nothing of it needs a second look.

    Attributes:
        given: what it was made from, for other processes.
        config: its settings.
        seeds: with their names filled in; equal names get a number.
        tasks: all of them, in order.
        strategy: with its options.
    """

    given: Given
    config: RunConfig
    seeds: tuple[SeedOptions, ...]
    tasks: tuple[RunTask, ...]
    strategy: Strategy

    @property
    def directory(self) -> Path:
        """The folder that relative paths start from."""
        return self.given.directory

    def resolve(self, path: str) -> Path:
        """A path of the run file, relative to the run file's folder."""
        return self.directory / Path(path).expanduser()

    def where(self, *place: str | int) -> str:
        """`run.yaml, line 7` for the value at this place, or the closest that has a line."""
        return at(self.given.source, line_of(place, self.given.lines))


def load_run(run: str | os.PathLike[str] | Mapping[str, Any], directory: Path | None = None) -> Run:
    """Read and validate a run file, or a mapping with the same keys.

    Args:
        run: the file, or the mapping.
        directory: that relative paths start from; None means the file's folder, and for a mapping
            the current one.

    Raises:
        ConfigError: naming file, line and field of everything that is wrong, a line for each.
        MissingExtraError: the strategy needs a package that is not installed.
    """
    if isinstance(run, Mapping):
        return resolve(Given(dict(run), directory or Path.cwd(), "run"))
    file = Path(run)
    source = path_of(file)
    if not is_text(str(file.absolute().parent)):
        raise ConfigError(
            f"{source}: its folder has a name that is not UTF-8, and a pool keeps names as text; "
            "rename the folder"
        )
    try:
        data, lines = parse_yaml(read_text(file, _LARGEST))
    except Unreadable as error:
        raise ConfigError(f"{at(source, error.line)}: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{source}: cannot read the run file ({error.strerror or error})"
        ) from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: expected a mapping with at least pool, seeds and tasks; "
            f"got {type(data).__name__ if data is not None else 'nothing'}"
        )
    content = cast("dict[str, Any]", data)
    if (advice := mergekit_advice(content)) is not None:
        raise ConfigError(f"{source}: {advice}")
    return resolve(Given(content, directory or file.absolute().parent, source, lines))


def recorded_run(config: Mapping[str, Any], directory: Path, source: str) -> Run:
    """The run that a pool was made by, from its settings as the pool records them, defaults too.

    Raises:
        ConfigError, MissingExtraError: as `load_run`.
    """
    tasks = [dict(_mapping(task)) for task in _list(config.get("tasks"))]
    for task in tasks:
        # What applies only to guards, or only to the others, may not stand with the rest.
        task.pop("weight" if task.get("guard") else "tolerance", None)
    return resolve(Given({**config, "tasks": tasks}, directory, source))


def resolve(given: Given) -> Run:
    """Validate a run file and look up what it names; everything is parsed once.

    Raises:
        ConfigError, MissingExtraError: as `load_run`.
    """
    data, lines = given.data, given.lines
    faults: list[Fault] = []
    guessed: set[Place] = set()
    while True:
        look = _Look(data, given.directory)
        run = look.run(given)
        if run is not None and not faults:
            return run
        meant = guesses(look.faults, data)
        if not meant:
            break
        # What else is wrong is seen once the misspelt keys are read as they were meant.
        faults += [fault for fault in look.faults if fault.place in meant]
        missing = {fault.place for fault in look.faults if fault.missing}
        guessed |= {respelt(place, meant) for place in meant} - missing
        data = renamed(data, meant)
        lines = {**{respelt(place, meant): line for place, line in lines.items()}, **lines}
    # Of a value whose key may have been meant otherwise, nothing is said.
    faults += [fault for fault in look.faults if fault.place not in guessed]
    if not faults and look.missing is not None:
        raise look.missing
    found = report(faults, given.source, lines)
    raise ConfigError(found[0]) if len(found) == 1 else RunFileErrors("\n".join(found))


class _Look:
    """One look at a run file, which gathers all that is wrong."""

    def __init__(self, data: Mapping[str, Any], directory: Path) -> None:
        self.faults: list[Fault] = []
        self.missing: MissingExtraError | None = None
        self._data = data
        self._directory = directory

    def run(self, given: Given) -> Run | None:
        """The run, if nothing is wrong."""
        if not self._texts(self._data, ()):
            return None
        texts, self.faults = self.faults, []
        config: RunConfig | None = None
        try:
            config = RunConfig.model_validate(self._data)
        except ValidationError as error:
            self.faults += faults_of(error, RunConfig, self._data)
        tasks = _list(self._data.get("tasks"))
        opened = [self._task(index, _mapping(task)) for index, task in enumerate(tasks)]
        self._names_and_guards(tasks)
        self._chromosomes()
        self._components(config)
        strategy = self._strategy()
        for fault in texts:
            self._fault(*fault.place, text=fault.text)
        if self.faults or self.missing or config is None or strategy is None:
            return None
        return Run(
            given,
            config,
            _named(config.seeds),
            tuple(
                RunTask(settings, *pair)
                for settings, pair in zip(config.tasks, opened, strict=True)
                if pair is not None
            ),
            strategy,
        )

    def _fault(self, *place: str | int, text: object) -> None:
        """Note what is wrong; of a value that should not be there, that alone."""
        self.faults = [fault for fault in self.faults if fault.place != place]
        self.faults.append(Fault(place, str(text)))

    def _texts(self, value: Any, place: Place) -> bool:
        """Look for text that is none and paths that cannot be; False if too deep to look on."""
        if len(place) > _DEEPEST:
            self._fault(*place[:2], text=f"nested more than {_DEEPEST} deep")
            return False
        if isinstance(value, str):
            names = [part for part in place if isinstance(part, str)]
            if "\0" in value or not is_text(value):
                self._fault(*place, text=f"holds a character that is no text; got {shown(value)}")
            elif tuple(names) in _PATHS and (
                len(value) > _LONGEST_PATH
                or value.count("/") > _DEEPEST_PATH
                or any(len(part.encode()) > _LONGEST_NAME for part in value.split("/"))
            ):
                self._fault(*place, text=f"no file has so long a name; got {shown(value)}")
        elif isinstance(value, Mapping):
            inside = cast("Mapping[Any, Any]", value)
            shallow = [self._texts(inside[key], (*place, key)) for key in inside]
            return all(shallow)
        elif isinstance(value, (list, tuple)):
            parts = cast("list[Any]", value)
            shallow = [self._texts(part, (*place, index)) for index, part in enumerate(parts)]
            return all(shallow)
        return True

    def _task(self, index: int, task: dict[str, Any]) -> tuple[type[Any], BaseModel] | None:
        """The evaluator of a task, and its own options."""
        shared = tuple(TaskOptions.model_fields)
        own = {key: value for key, value in task.items() if key not in shared}
        name = task.get("evaluator")
        if not isinstance(name, str):
            # Which keys it would know cannot be said, but what stands for a missing one.
            missing = [key for key in ("name", "evaluator") if key not in task]
            found = [unknown_key(("tasks", index, key), missing) for key in own]
            self.faults += [fault for fault in found if fault.meant]
            return None
        try:
            evaluator = find_evaluator(name, self._directory)
        except MissingExtraError as error:
            self.missing = error
            return None
        except GenepoolError as error:
            self._fault("tasks", index, "evaluator", text=error)
            return None
        try:
            return evaluator, evaluator.Options.model_validate(own)
        except ValidationError as error:
            self.faults += faults_of(error, evaluator.Options, own, ("tasks", index), shared)
            return None

    def _names_and_guards(self, tasks: list[Any]) -> None:
        taken: set[object] = set()
        entries = [_mapping(task) for task in tasks]
        for index, task in enumerate(entries):
            name, guard = task.get("name"), task.get("guard", False)
            if isinstance(name, str):
                if name in taken:
                    self._fault("tasks", index, "name", text=f"{name!r} is used twice")
                taken.add(name)
            if guard is True and "weight" in task:
                text = f"task {name!r} is a guard; nobody competes for a guard, so leave it out"
                self._fault("tasks", index, "weight", text=text)
            if guard is False and "tolerance" in task:
                text = f"task {name!r} is not a guard; add 'guard: true' or leave it out"
                self._fault("tasks", index, "tolerance", text=text)
        if entries and all(task.get("guard") is True for task in entries):
            text = f"all {len(entries)} are guards; at least one must be a task that members"
            self._fault("tasks", text=f"{text} compete for")

    def _chromosomes(self) -> None:
        for name, patterns in _mapping(self._data.get("chromosomes")).items():
            for index, pattern in enumerate(_list(patterns)):
                try:
                    pattern_test(str(pattern))
                except ValueError as error:
                    text = f"{shown(pattern)} is not a regular expression that can be used: {error}"
                    self._fault("chromosomes", name, index, text=text)

    def _components(self, config: RunConfig | None) -> None:
        names = [] if config is None else [seed.name for seed in _named(config.seeds)]
        for part, seed in ({} if config is None else config.whole).items():
            if seed not in names:
                text = (
                    f"expected '{EVOLVE}' or the name of a seed; got {shown(seed)}; the seeds are "
                    f"{some(names, limit=20)}"
                )
                self._fault("components", part, text=text)
        if config is not None and EVOLVE in names and config.components:
            self._fault(
                "seeds", text=f"no seed can be called '{EVOLVE}' where components are named"
            )

    def _strategy(self) -> Strategy | None:
        given = {"name": StrategyEntry().name, **_mapping(self._data.get("strategy"))}
        name = given["name"]
        if not isinstance(name, str) or not isinstance(self._data.get("strategy", {}), dict):
            return None
        try:
            found = find_strategy(name)
        except ConfigError as error:
            self._fault("strategy", "name", text=error)
            return None
        try:
            strategy = found.model_validate(given)
        except ValidationError as error:
            self.faults += faults_of(error, found, given, ("strategy",))
            return None
        in_flight = self._data.get("in_flight", 1)
        try:
            if not any(fault.place == ("in_flight",) for fault in self.faults):
                strategy.check(in_flight)
        except MissingExtraError as error:
            self.missing = error
        except ConfigError as error:
            where, _, text = str(error).partition(": ")
            known = where == "in_flight" or where.startswith("strategy.")
            place = where.split(".") if known else ["strategy"]
            self._fault(*place, text=text if known else error)
        return strategy


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _named(entries: list[str | SeedOptions]) -> tuple[SeedOptions, ...]:
    """Seeds with their names filled in; equal names get a number."""
    out: list[SeedOptions] = []
    for entry in entries:
        seed = SeedOptions(path=entry) if isinstance(entry, str) else entry
        name = seed.name or Path(seed.path).name.removesuffix(".safetensors") or seed.path
        taken = {other.name for other in out}
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        out.append(seed.model_copy(update={"name": unique}))
    return tuple(out)
