"""The evaluator contract: what a task is, how evaluators are found, what scores must be.

An evaluator is a class with a pydantic model `Options` (unknown keys forbidden, every field with
its type and help) that is called as `Evaluator(options, directory)` and gives a `Task`. Relative
paths in the options are relative to `directory`, the run file's folder. `genepool.testing` ships
the contract as a test.

The driver may ask for the examples in any blocks and any order (early stop), and the scores must be
bit for bit those of asking for all of them at once: the score of an example must not depend on what
else is asked. A task whose scores do depend on the neighbours in a batch (padding changes the last
bits of what a language model computes) fixes the batches: see `Blocked`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genepool.errors import ConfigError, GenepoolError
from genepool.messages import blamed, one_line, pass_on, shown
from genepool.tasks.checks import checked_indices, checked_scores, require_unique
from genepool.tasks.named_classes import NamedClasses

__all__ = [
    "Batched",
    "Blocked",
    "Doubting",
    "Drawn",
    "Generating",
    "Labelled",
    "Measured",
    "Prompting",
    "Remarking",
    "Task",
    "Transcribed",
    "Unshared",
    "checked_indices",
    "checked_scores",
    "evaluator",
    "evaluator_names",
    "find_evaluator",
    "open_task",
    "own_failures",
    "require_task",
]


class Task(Protocol):
    """One opened task: fixed examples and how to score a model on them.

    A task is used by one thread at a time: it may keep working buffers.
    """

    @property
    def samples(self) -> tuple[str, ...]:
        """Ids of the N selection examples, all different, in their fixed order; N >= 1."""
        ...

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of the held-out examples, none of them in `samples`; may be empty."""
        ...

    @property
    def digest(self) -> str:
        """Digest of ids and content.

        Other data, another order or other settings that change scores give another digest.
        """
        ...

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        ...

    def score(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.float32]:
        """Score a model.

        Args:
            model: the value of a live model (see `models.live`); not to be changed.
            indices: int64[n], positions in `samples`, or in `held_out` if `held_out` is true; any
                order, any n >= 0.
            held_out: which of the two sets `indices` counts in.

        Returns:
            float32[n], a new array: the score in [0, 1] of each index, in their order.

        Raises:
            EvaluationError: the model could not be scored; no score is made up for it.
        """
        ...


@runtime_checkable
class Batched(Protocol):
    """A task that scores a fixed number of examples at once; optional."""

    @property
    def batch(self) -> int:
        """Blocks of examples that are multiples of this waste nothing; at least 1."""
        ...


@runtime_checkable
class Blocked(Protocol):
    """A task that always scores the same examples together; optional.

    Asked for any example of a block, it scores the whole block, in stored order, and gives what was
    asked. Asking for whole blocks wastes nothing. Held-out examples are in fixed blocks likewise.
    """

    @property
    def blocks(self) -> NDArray[np.int64]:
        """int64[N], the block of each selection example, counted from 0, never falling."""
        ...


@runtime_checkable
class Labelled(Protocol):
    """A task whose examples are of different kinds; optional."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The kind of each selection example, N of them; for strategies and reports."""
        ...


@runtime_checkable
class Generating(Protocol):
    """A task that knows whether language models generate in it; optional."""

    @property
    def generates(self) -> bool:
        """Whether the model's own `generate` may be called."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A task about which something is good to know; optional."""

    @property
    def notices(self) -> tuple[str, ...]:
        """One line each; shown when a run begins or goes on."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A task that measures more of a model than members compete for; optional.

    Seeds and champion are measured when a run has reached its budget; nobody is selected by it.
    """

    def measures(self, model: Any) -> Mapping[str, float]:
        """Numbers about the model, by what they are: finite. Shares are shown in per cent, and
        what lies outside [0, 1] for any model as a number.

        Raises:
            EvaluationError: the model could not be measured.
        """
        ...


@runtime_checkable
class Prompting(Protocol):
    """A task that gives models other texts besides those of `Drawn.captions`; optional."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """All of them, with these captions."""
        ...


@runtime_checkable
class Drawn(Protocol):
    """A task whose models draw; optional. Pictures are kept of seeds, champion and archive."""

    def drawn(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.uint8]:
        """The very pictures that are scored for these examples, uint8[n, height, width, 3].

        Raises:
            EvaluationError: the model could not draw.
        """
        ...

    def captions(self, indices: NDArray[np.int64], *, held_out: bool = False) -> Sequence[str]:
        """What is to be drawn, n texts."""
        ...

    def references(
        self, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.uint8] | None:
        """The real pictures of the examples, uint8[n, height, width, 3]; None if there are none."""
        ...


@runtime_checkable
class Transcribed(Protocol):
    """A task in which models act; optional. Transcripts are kept of seeds and champion."""

    def transcripts(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> Sequence[Mapping[str, Any]]:
        """What was said and done in the very episodes that are scored, n values that JSON holds.

        Each has `id`, `score`, `ended` (why), `actions`, `rewards`, and the conversation as chat
        `messages`.

        Raises:
            EvaluationError: the model could not act.
        """
        ...


@runtime_checkable
class Unshared(Protocol):
    """A task that no two processes may score at a time; optional."""

    @property
    def exclusive(self) -> bool:
        """Whether it is one: models would be given each other's scores."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """A task that refuses to score where it finds that it does not repeat itself; optional."""

    def let_differ(self) -> None:
        """Tell it and go on, since the run file says `changed_scores: tell`."""
        ...


@contextlib.contextmanager
def own_failures(kind: type[Any], where: str = "") -> Generator[None, None, None]:
    """What an evaluator of somebody's own raises unforeseen is one line, and no model's fault.

    Args:
        kind: the class that is called inside.
        where: the beginning of the line.

    Raises:
        ConfigError: in place of what is no GenepoolError.
    """
    try:
        yield
    except GenepoolError:
        raise
    except BaseException as error:
        pass_on(error)
        if kind.__module__.startswith("genepool."):
            raise
        raise ConfigError(
            f"{where}the evaluator {one_line(kind.__qualname__)} failed: {blamed(error)}; mend it, "
            "or let it raise genepool.errors.EvaluationError for a model that cannot be scored"
        ) from error


def require_task(task: Task) -> None:
    """Look once at what the protocols above say of a task.

    Raises:
        ConfigError: what is otherwise, and how it should be.
    """
    for name, ids in {"samples": task.samples, "held_out": task.held_out}.items():
        if not isinstance(cast("object", ids), Sequence) or isinstance(cast("object", ids), str):
            raise ConfigError(f"'{name}' of the evaluator: expected ids, a tuple of texts")
    if not task.samples:
        raise ConfigError("'samples' of the evaluator: expected at least one example; got none")
    require_unique([*map(str, task.samples), *map(str, task.held_out)], "'samples' and 'held_out'")
    looked: list[tuple[str, object, bool, str]] = []
    digest, binary = cast("object", task.digest), cast("object", task.binary)
    looked.append(("digest", digest, isinstance(digest, (str, int)), "a text"))
    fine = isinstance(binary, (bool, np.bool_))
    looked.append(("binary", binary, fine, "True or False"))
    if isinstance(task, Batched):
        fine = isinstance(cast("object", task.batch), (int, np.integer)) and task.batch >= 1
        looked.append(("batch", task.batch, fine, "a number from 1"))
    if isinstance(task, Labelled):
        fine = len(task.labels) in (0, len(task.samples))
        looked.append(("labels", task.labels, fine, "one for each of 'samples', or none"))
    if isinstance(task, Blocked):
        blocks = np.asarray(task.blocks)
        fine = blocks.shape == (len(task.samples),) and blocks.dtype.kind in "iu"
        fine = fine and bool((np.diff(blocks, prepend=0) >= 0).all())
        looked.append(("blocks", blocks, fine, "int64[N] from 0 that never fall"))
    for name, got, fine, what in looked:
        if not fine:
            raise ConfigError(f"'{name}' of the evaluator: expected {what}; got {shown(got)}")


_known = NamedClasses("evaluator", "genepool.evaluators")

evaluator = _known.register
"""Register a class as an evaluator; also `genepool.evaluator`."""

find_evaluator = _known.find
"""The evaluator class of a name; `cls(options, directory)` opens a task."""

evaluator_names = _known.names
"""The names that `find_evaluator` knows, sorted."""


def open_task(name: str, options: Mapping[str, Any], directory: Path) -> Task:
    """Find an evaluator, check the options and open the task.

    Raises:
        ConfigError: no such evaluator, or the options do not fit it (the message names the option).
        GenepoolError: whatever the evaluator finds wrong with its data.
    """
    found = find_evaluator(name, directory)
    return found(_known.options(name, found, options), directory)
