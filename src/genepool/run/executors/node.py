"""A worker on another machine: it opens a run there, and makes sure that it is the same run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from genepool.checkpoints.files.cache import shared_cache
from genepool.checkpoints.files.digests import recall_digests
from genepool.errors import CheckpointError, GenepoolError
from genepool.messages import one_line
from genepool.run.executors.installation import require_same_modules
from genepool.run.executors.remote import answer, unforeseen
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.pins import Pins, pins_of, require_same_tasks
from genepool.run.run_file import Given, resolve


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is told once: the run, and what it must find.

    Attributes:
        given: the run file, as it was read.
        pins: what the pool was made from.
        modules: the user's modules, as `own_modules` and `named_modules` give them.
        threads: that may materialise.
        as_exported: as `Scorer` takes it.
    """

    given: Given
    pins: Pins
    modules: dict[str, str]
    threads: int
    as_exported: bool


class Node:
    """A live model on this machine, for somebody on another one."""

    def __init__(self, name: str, assignment: Assignment) -> None:
        """Open the run and build the live model.

        Args:
            name: of this machine, for messages.
            assignment: what to open, and what must be found.

        Raises:
            GenepoolError: it cannot be opened here, or it is not the same; the message names the
                machine.
        """
        self._name = name
        try:
            self._inputs = open_inputs(resolve(assignment.given))
            sources, checkpoints = self._inputs.sources, self._inputs.checkpoints
            pool = self._inputs.run.resolve(self._inputs.run.config.pool)
            # The seeds are read, unless their digests are known here: in the pool, or in the cache.
            recall_digests(checkpoints, [source.rename for source in sources], pool)
            with tempfile.TemporaryDirectory() as folder:
                found = pins_of(self._inputs, shared_cache() or Path(folder))
            _require_same(found, assignment.pins)
            require_same_tasks(self._inputs, assignment.pins.digests)
            self._scorer = Scorer(
                self._inputs, assignment.threads, as_exported=assignment.as_exported
            )
            require_same_modules(assignment.modules, self._inputs.run.given.data)
        except GenepoolError as error:
            raise GenepoolError(f"{name}: {error}") from error
        except BaseException as error:
            raise GenepoolError(f"{name}: {unforeseen(error)}") from error

    def answer(self, message: bytes) -> bytes:
        """See `remote.answer`; a model is made of the very seeds that were digested."""
        reply = answer(lambda: self._scorer, message)
        try:
            # What a load has read was read before this look.
            self._inputs.look()
        except CheckpointError as error:
            reply = b"fail" + str(error).encode(errors="backslashreplace")
        return b"fail" + f"{self._name}: ".encode() + reply[4:] if reply[:4] == b"fail" else reply


def _require_same(found: Pins, expected: Pins) -> None:
    for seed, wanted in zip(found.seeds, expected.seeds, strict=True):
        if seed.digest != wanted.digest:
            raise CheckpointError(
                f"seed '{seed.name}': {one_line(seed.path)} has the digest {seed.digest[:12]} "
                f"there, and the run's has {wanted.digest[:12]}; put the same file in both places"
            )
    if found.settings["layout"] != expected.settings["layout"]:
        raise CheckpointError("the seeds' tensors lie in another order there than in the run")
    files, wanted = found.settings["companions"], expected.settings["companions"]
    for name in sorted({*files, *wanted}):
        if name not in wanted:
            raise CheckpointError(f"{name} lies there, and the run has none; take it away")
        if name not in files:
            raise CheckpointError(f"the run has {name}, which is not there; copy it over")
        if files[name] != wanted[name]:
            raise CheckpointError(f"another {name} lies there than in the run; copy it over")
