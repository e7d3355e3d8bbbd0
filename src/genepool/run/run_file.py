"""The run file: what to breed, from what, judged by what; read once, into a value."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.seed_options import SeedOptions
from genepool.documents import Unreadable, at_home, current_folder, list_of, mapping_of, read_text
from genepool.errors import ConfigError, RunFileErrors
from genepool.faults import Fault, Place, at, guesses, line_of, renamed, report, respelt
from genepool.messages import at as path_of
from genepool.messages import is_text, some
from genepool.output.mergekit import mergekit_advice
from genepool.pool.database import DATABASE
from genepool.run.file.run_checks import Look, RunTask
from genepool.run.file.run_settings import RunConfig
from genepool.settings import as_in_a_file
from genepool.strategies.base import Strategy
from genepool.yaml_documents import Lines, parse_yaml

_LARGEST = 1_000_000
# Children in flight for each worker.
_IN_FLIGHT = 2


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
        return self.directory / at_home(path)

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
        return resolve(Given(as_in_a_file(run), directory or current_folder(), "run"))
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
            f"{source}: cannot read the run file ({error.strerror or error}){_meant(file)}"
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


def _meant(file: Path) -> str:
    """What may have been meant by a run file that cannot be read, in words."""
    # These answer for names that are too long or hold NUL, too.
    if os.path.exists(file / DATABASE):  # noqa: PTH110
        return "; this is a pool, which `genepool status` shows: name the run file that made it"
    is_folder = os.path.isdir(file)  # noqa: PTH112
    try:
        there = sorted(str(each) for each in (file if is_folder else file.parent).glob("*.y*ml"))
    except (OSError, ValueError):
        return ""
    close = there if is_folder else difflib.get_close_matches(str(file), there)
    return f"; did you mean {some(close)}?" if close else ""


def recorded_run(config: Mapping[str, Any], directory: Path, source: str) -> Run:
    """The run that a pool was made by, from its settings as the pool records them, defaults too.

    Raises:
        ConfigError, MissingExtraError: as `load_run`.
    """
    tasks = [dict(mapping_of(task)) for task in list_of(config.get("tasks"))]
    for task in tasks:
        # What applies only to guards, or only to the others, may not stand with the rest.
        task.pop("weight" if task.get("guard") else "tolerance", None)
    return resolve(Given({**config, "tasks": tasks}, directory, source))


def settled(run: Run, workers: int, recorded: int | None) -> Run:
    """A run with `in_flight: auto`, with a number in its place.

    Children are absorbed in order, so that a slow one holds the others up; with twice as many in
    flight as workers these were busy for 0.99 of the time in recorded runs (benchmarks/order.py).

    Args:
        run: as it was read.
        workers: that it has now.
        recorded: the number that its pool began with, if it has begun: another one would be
            another run.
    """
    number = recorded or (1 if workers == 1 else _IN_FLIGHT * workers)
    while not recorded and not _allowed(run.strategy, number):
        number -= 1
    return resolve(replace(run.given, data={**run.given.data, "in_flight": number}))


def _allowed(strategy: Strategy, in_flight: int) -> bool:
    try:
        strategy.check(in_flight)
    except ConfigError:
        return in_flight == 1
    return True


def resolve(given: Given) -> Run:
    """Validate a run file and look up what it names; everything is parsed once.

    Raises:
        ConfigError, MissingExtraError: as `load_run`.
    """
    if isinstance(name := given.data.get("strategy"), str):
        given = replace(given, data={**given.data, "strategy": {"name": name}})
    data, lines = given.data, given.lines
    faults: list[Fault] = []
    guessed: set[Place] = set()
    while True:
        look = Look(data, given.directory)
        if (parts := look.parts) is not None and not faults:
            seeds = parts.config.named_seeds
            return Run(given, parts.config, seeds, parts.tasks, parts.strategy)
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
