"""One look at the content of a run file, which gathers all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from genepool.checkpoints.layout import pattern_test
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.documents import list_of, mapping_of
from genepool.errors import ConfigError, GenepoolError, MissingExtraError
from genepool.faults import Fault, Place, faults_of, shown, unknown_key
from genepool.messages import is_text, some
from genepool.run.file.run_settings import RunConfig, StrategyEntry, TaskOptions
from genepool.strategies.base import Strategy
from genepool.strategies.by_name import find_strategy
from genepool.tasks.task import find_evaluator

_DEEPEST = 50

# Where paths stand, and how long the names of files can be.
_PATHS = {("pool",), ("seeds",), ("seeds", "path"), ("seeds", "base"), ("model", "tokenizer")}
_LONGEST_NAME, _LONGEST_PATH, _DEEPEST_PATH = 255, 4000, 200


@dataclass(frozen=True, eq=False, slots=True)
class RunTask:
    """A task of a run file, and what opens it: `evaluator(options, directory)`."""

    settings: TaskOptions
    evaluator: type[Any]
    options: BaseModel


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """What a run file holds, valid: its settings, its tasks in order, and its strategy."""

    config: RunConfig
    tasks: tuple[RunTask, ...]
    strategy: Strategy


class Look:
    """What a run file holds, or what is wrong with it.

    Attributes:
        parts: None if anything is wrong.
        faults: the mistakes.
        missing: an optional package that it asks for and that is not installed.
    """

    def __init__(self, data: Mapping[str, Any], directory: Path) -> None:
        self.faults: list[Fault] = []
        self.missing: MissingExtraError | None = None
        self._data = data
        self._directory = directory
        self.parts = self._look()

    def _look(self) -> Parts | None:
        if not self._texts(self._data, ()):
            return None
        texts, self.faults = self.faults, []
        config: RunConfig | None = None
        try:
            config = RunConfig.model_validate(self._data)
        except ValidationError as error:
            self.faults += faults_of(error, RunConfig, self._data)
        entries = list_of(self._data.get("tasks"))
        opened = [self._task(index, mapping_of(entry)) for index, entry in enumerate(entries)]
        self._names_and_guards(entries)
        self._chromosomes()
        self._components(config)
        if config is not None and config.devices is not None and config.executor != "process":
            text = "only the executor 'process' shares devices out; others use 'model.device'"
            self._fault("devices", text=text)
        if config is not None and config.devices is not None and config.model.device_map:
            text = "each worker's model lies on one of them; 'model.device_map' is for one model"
            self._fault("devices", text=text)
        strategy = self._strategy()
        for fault in texts:
            self._fault(*fault.place, text=fault.text)
        if self.faults or self.missing or config is None or strategy is None:
            return None
        pairs = zip(config.tasks, opened, strict=True)
        return Parts(
            config,
            tuple(RunTask(task, *pair) for task, pair in pairs if pair is not None),
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
        entries = [mapping_of(task) for task in tasks]
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
        for name, patterns in mapping_of(self._data.get("chromosomes")).items():
            for index, pattern in enumerate(list_of(patterns)):
                try:
                    pattern_test(str(pattern))
                except ValueError as error:
                    text = f"{shown(pattern)} is not a regular expression that can be used: {error}"
                    self._fault("chromosomes", name, index, text=text)

    def _components(self, config: RunConfig | None) -> None:
        names = [] if config is None else [seed.name for seed in config.named_seeds]
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
        given = {"name": StrategyEntry().name, **mapping_of(self._data.get("strategy"))}
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
                strategy.check(1 if in_flight == "auto" else in_flight)
        except MissingExtraError as error:
            self.missing = error
        except ConfigError as error:
            where, _, text = str(error).partition(": ")
            known = where == "in_flight" or where.startswith("strategy.")
            place = where.split(".") if known else ["strategy"]
            self._fault(*place, text=text if known else error)
        return strategy
