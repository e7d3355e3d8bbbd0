"""A live model with the tasks around it: genome in, scores out. One per process, one thread."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genepool.core.early_stop.evaluation_plan import EvaluationPlan
from genepool.core.genome import Genome, seed_recipe
from genepool.errors import ConfigError, DeviceMemoryError, EvaluationError, InputError
from genepool.messages import agreeing, count, of_device_memory, one_line, some
from genepool.models.build import build_model
from genepool.models.live import Writer
from genepool.pool.records import Measure
from genepool.run.inputs import Inputs
from genepool.tasks.checks import checked_scores
from genepool.tasks.classifier.settle import settle
from genepool.tasks.task import Drawn, Measured, Transcribed, own_failures

# Which examples: those that members compete for, the held-out ones, or those of the guards.
Part = Literal["train", "held-out", "guard"]

# Scores that differ by less are alike: another machine may compute other last digits.
ALIKE = 1e-3

# Generators of random numbers that all code of a process shares, and what begins anew at each call.
_SHARED = {
    "random": "random.Random(0)",
    "numpy.random": "numpy.random.default_rng(0)",
    "torch": "torch.Generator().manual_seed(0)",
}

# A task is looked at so often. Chance may give the same scores twice, where it breaks a tie: so one
# that draws counts as several times only.
_LOOKS, _DRAWN = 100, 20

# Models after which all values are looked at: the first ones, and then one of so many.
_FIRST, _EACH = 8, 64

# Parts in which a question is asked at most, so that somebody can watch.
_PARTS = 20


def _shared_states() -> dict[str, object]:
    """The states of the generators in `_SHARED`, so far as they are loaded, to be compared."""
    numbers: Any = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    found: dict[str, object] = {"random": random.getstate()}
    found["numpy.random"] = [np.asarray(part).tobytes() for part in numbers.values()]
    if (torch := sys.modules.get("torch")) is not None:
        states = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            states += torch.cuda.get_rng_state_all()
        found["torch"] = [state.numpy().tobytes() for state in states]
    return found


def in_parts(
    indices: NDArray[np.int64], blocks: NDArray[np.int64] | None
) -> list[NDArray[np.int64]]:
    """What is asked, in a few parts, so that somebody can watch; the scores are the same.

    Args:
        indices: int64[n] of examples.
        blocks: int64[N] of all examples, see `Examples`; None asks everything at once.

    Returns:
        places in `indices`, int64 each: all of them, whole blocks together.
    """
    if blocks is None:
        return [np.arange(indices.size)]
    asked = blocks[indices]
    numbers = np.unique(asked)
    parts = np.array_split(numbers, max(1, min(numbers.size, _PARTS)))
    return [np.flatnonzero(np.isin(asked, part)) for part in parts]


class Scorer:
    """Scores genomes. Building one builds the live model; each `load` fills it in one pass."""

    def __init__(
        self,
        inputs: Inputs,
        threads: int | None = None,
        asked: Callable[[int, int], None] | None = None,
        *,
        as_exported: bool = True,
    ) -> None:
        """Build the live model.

        Args:
            inputs: seeds, layout and tasks, opened.
            threads: that may materialise; None means the cores of this process.
            asked: told how many examples of a model were asked, of how many, while it is scored.
            as_exported: whether a genome is scored as its export will be; pools of older releases
                were scored before the weights were rounded to the seeds' dtype.
        """
        self._asked = asked
        run = inputs.run
        self._inputs = inputs
        self._writer: Writer | None = None
        with self._memory("to build the model"):
            self._model = build_model(
                run.config.model, inputs.layout, inputs.checkpoints, run.directory, self._of_seeds
            )
        held = run.config.model.seeds == "device"
        with self._memory("to hold the seeds", len(inputs.checkpoints) if held else 0):
            self._writer = self._model.writer(
                inputs.checkpoints,
                inputs.layout,
                threads,
                as_exported=as_exported,
                seeds=run.config.model.seeds,
            )
        self._unchanged = None
        if self._model.module is not None:
            # Late: it needs torch.
            from genepool.models.filled import Unchanged

            self._unchanged = Unchanged(self._model.module)
        # Models that were written, and values of the last one, as `Unchanged` samples them; None
        # where they are not looked at.
        self._models = 0
        self._written: Mapping[str, bytes] | None = None
        # What generators that the whole process shares were left at, and how often a part and task
        # was looked at for drawing from them.
        self._states = _shared_states()
        self._seen: Counter[tuple[Part, int]] = Counter()
        self._loaded: Genome | None = None

    @property
    def value(self) -> Any:
        """The live model, as tasks are given it."""
        return self._model.value

    def load(self, genome: Genome) -> None:
        """Materialise a genome into the live model, unless it is there already."""
        if self._loaded is not genome:
            self._loaded = None
            self._write(genome)
            self._loaded = genome

    def _write(self, genome: Genome) -> None:
        if self._writer is None:
            raise RuntimeError("the live model is not built yet")
        self._require_values()
        with self._memory("to make a child"):
            self._writer.write(genome)
        self._models += 1
        looked = self._models <= _FIRST or not self._models % _EACH
        self._written = self._unchanged.sample() if self._unchanged and looked else None

    def _require_values(self) -> None:
        """Refuse tasks that have changed what was written: after some models, as it takes longer.

        Raises:
            ConfigError: one has, after the first time that it was asked.
        """
        if self._unchanged is not None and self._written is not None:
            self._unchanged.look("a task", self._written)

    @contextlib.contextmanager
    def _memory(self, doing: str, seeds: int = 0) -> Generator[None, None, None]:
        """Say what takes a device's memory, and what would fit, where there is none left.

        Args:
            doing: what for, as the message says it.
            seeds: number of seeds that are about to be put there.

        Raises:
            DeviceMemoryError: a device has none left. No child is to blame for it.
        """
        try:
            yield
        except BaseException as error:
            if not of_device_memory(error):
                raise
            # Late: torch is loaded, since the error is its.
            from genepool.materialise.device import resident_bytes
            from genepool.materialise.device_memory import model_bytes, taken, told

            options, layout = self._inputs.run.config.model, self._inputs.layout
            held = resident_bytes(self._writer) + seeds * model_bytes(layout, None)
            text = told(doing, taken(layout, options.device, options.dtype, held))
            if options.device_map is not None:
                text += " (these are of all devices of 'model.device_map' together)"
            raise DeviceMemoryError(text) from error

    def _of_seeds(self, ask: Callable[[], Any]) -> list[Any]:
        """See `kind.OfSeeds`."""
        loaded, self._loaded = self._loaded, None
        size, count = self._inputs.layout.axis.size, len(self._inputs.checkpoints)
        found: list[Any] = []
        try:
            for number in range(count):
                self._write(seed_recipe(size, number, count))
                found.append(ask())
        finally:
            if loaded is not None:
                self.load(loaded)
        return found

    def answer(self, plan: EvaluationPlan) -> None:
        """Ask the loaded genome what a plan wants to know.

        Raises:
            EvaluationError: the model could not be scored.
        """
        with self._memory("to score"):
            if settle(self._inputs.tasks, self.value, plan):
                return
        done, total = int(np.count_nonzero(~np.isnan(plan.scores))), plan.scores.size
        while not plan.done:
            indices = plan.next()
            scores = np.empty(indices.size, dtype=np.float32)
            blocks = None if self._asked is None else self._inputs.blocks
            for part in in_parts(indices, blocks):
                scores[part] = self.score(indices[part])
                done += part.size
                if self._asked is not None:
                    self._asked(done, total)
            plan.record(indices, scores)
        self._require_values()

    def score(self, indices: NDArray[np.int64], part: Part = "train") -> NDArray[np.float32]:
        """Score the loaded genome.

        Args:
            indices: int64[n], positions among the examples of all tasks laid end to end, or of all
                guards.
            part: which examples these are.

        Returns:
            float32[n] in [0, 1], in the order of `indices`.

        Raises:
            EvaluationError: the model could not be scored.
        """
        inputs = self._inputs
        parts = {"train": inputs.examples, "held-out": inputs.held_out}
        examples = parts.get(part, inputs.guard_examples)
        if examples is None:
            raise RuntimeError(f"there are no {part} examples")
        out = np.empty(indices.size, dtype=np.float32)
        with self._memory("to score"):
            for number, mine, positions in examples.locate(indices):
                out[mine] = self._task_scores(part, number, positions)
        return out

    def _task_scores(
        self, part: Part, number: int, indices: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """What a task says, if these are scores, and if it has left the model as it was."""
        run, guard, held_out = self._inputs.run.config, part == "guard", part == "held-out"
        task = (self._inputs.guards if guard else self._inputs.tasks)[number]
        what = f"task '{(run.guards if guard else run.contested)[number].name}'"
        ids = task.held_out if held_out else task.samples

        def ask() -> NDArray[np.float32]:
            with self._left_as_it_was(what, (part, number)), own_failures(type(task), f"{what}: "):
                found = task.score(self.value, indices, held_out=held_out)
            try:
                return checked_scores(found, indices.size, binary=task.binary)
            except EvaluationError:
                # Only now, since naming examples takes longer than looking at scores.
                places: list[int] = indices.tolist()
                names = [ids[place] for place in places]
                try:
                    return checked_scores(found, indices.size, ids=names, binary=task.binary)
                except EvaluationError as error:
                    raise EvaluationError(f"{what}: {error}") from None

        scores, before = ask(), self._states
        if self._seen[part, number] >= _LOOKS or run.changed_scores == "tell":
            return scores
        self._states = now = _shared_states()
        self._seen[part, number] += 1
        if drawn := [name for name in now if now[name] != before.get(name)]:
            # What seeds them itself at each call, or draws what is of no account, repeats.
            differ = np.flatnonzero(np.abs(ask() - scores) > ALIKE)
            if differ.size:
                raise ConfigError(
                    f"{what} draws random numbers that the whole process shares ({some(drawn)}), "
                    f"and its scores do not repeat ({count(differ.size, 'example')} of "
                    f"{indices.size} {agreeing(differ.size, 'differs', 'differ')}, the "
                    f"first is '{one_line(ids[indices[differ[0]]])}'): "
                    "models would be selected by luck. Draw from a generator that begins anew at "
                    f"each call, as {' or '.join(_SHARED[name] for name in drawn)}, or seed the "
                    "shared one there; 'changed_scores: tell' goes on all the same"
                )
            self._states = _shared_states()
            self._seen[part, number] += _DRAWN if self._states != now else _LOOKS
        return scores

    @contextlib.contextmanager
    def _left_as_it_was(self, what: str, asked: tuple[Part, int]) -> Generator[None, None, None]:
        """Refuse a task that changes the live model in a way that later scores would depend on.

        Raises:
            ConfigError: it does.
        """
        if self._unchanged is None:
            yield
            return
        before = None
        if asked not in self._seen:
            # What changes values does so from the first time on, as a rule.
            before = self._written or self._unchanged.sample()
            self._seen[asked] = 0
        try:
            yield
        except EvaluationError:
            self._unchanged.look(what, before)
            raise
        self._unchanged.look(what, before)

    def measures(self) -> tuple[Measure, ...]:
        """What tasks and guards measure of the loaded genome besides its scores.

        Raises:
            EvaluationError: a number is not finite, or the model could not be measured.
        """
        inputs, found = self._inputs, list[Measure]()
        config = inputs.run.config
        entries = [*zip(config.contested, inputs.tasks, strict=True)]
        entries += zip(config.guards, inputs.guards, strict=True)
        for entry, task in entries:
            if isinstance(task, Measured):
                with self._memory("to score"), own_failures(type(task), f"task '{entry.name}': "):
                    named = {str(key): float(n) for key, n in task.measures(self.value).items()}
                found += [Measure(entry.name, name, named[name]) for name in sorted(named)]
        for measure in found:
            if not math.isfinite(measure.value):
                raise EvaluationError(f"{measure.task}: '{measure.name}' is {measure.value}")
        return tuple(found)

    def pictures(
        self, task: int, indices: NDArray[np.int64], *, held_out: bool
    ) -> NDArray[np.uint8]:
        """What the loaded genome draws for examples of a task, uint8[n, height, width, 3].

        Args:
            task: its number, among those that members compete for.
            indices: int64[n], positions among its examples.
            held_out: which of its examples.

        Raises:
            EvaluationError: the model could not draw.
        """
        drawing = self._inputs.tasks[task]
        if not isinstance(drawing, Drawn):
            raise InputError(f"task {task} has no pictures")
        with self._memory("to score"), own_failures(type(drawing)):
            return drawing.drawn(self.value, indices, held_out=held_out)

    def transcripts(self, task: int, indices: NDArray[np.int64], *, held_out: bool) -> list[str]:
        """What the loaded genome does in episodes of a task, each as JSON.

        Args:
            task: its number, among those that members compete for.
            indices: int64[n], positions among its examples.
            held_out: which of its examples.

        Raises:
            EvaluationError: the model could not act.
        """
        acting = self._inputs.tasks[task]
        if not isinstance(acting, Transcribed):
            raise InputError(f"task {task} has no episodes")
        with self._memory("to score"), own_failures(type(acting)):
            found = acting.transcripts(self.value, indices, held_out=held_out)
            return [json.dumps(one) for one in found]
