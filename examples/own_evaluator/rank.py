"""An evaluator of one's own: at which place does a network rank the right digit?

The built-in classifier says right or wrong. This one gives the reciprocal rank, 1 for the first
place, 1/2 for the second, so that a model which is almost right competes too. The run file names it
`rank:ReciprocalRank`; a package would make it known by an entry point in the group
`genepool.evaluators`. `genepool.testing.tasks.check_task` checks that it keeps the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

import genepool
from genepool.errors import EvaluationError
from genepool.tasks.checks import checked_indices, checked_scores, content_digest
from genepool.tasks.datasets import digits


class Options(BaseModel):
    """What may stand beside `evaluator: rank:ReciprocalRank` in a run file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    train: int = Field(default=200, ge=1, le=1000, description="Number of training images.")
    held_out: int = Field(default=100, ge=0, le=700, description="Number of held-out images.")


@genepool.evaluator("reciprocal-rank")
class ReciprocalRank:
    """One over the rank that a 64-256-10 network gives to the right digit."""

    Options = Options

    def __init__(self, options: Options, directory: Path) -> None:
        images, labels = digits().inputs, digits().labels
        # The first images to train on, the last to report.
        chosen = [*range(options.train), *range(len(labels) - options.held_out, len(labels))]
        self._images, self._labels = images[chosen], labels[chosen]
        ids = tuple(f"digit-{i}" for i in chosen)
        self.samples, self.held_out = ids[: options.train], ids[options.train :]
        # Other data or another split must give another digest: a pool refuses to mix them.
        self.digest = content_digest(
            ["reciprocal rank 1", str(options.train), self._images, self._labels, *ids]
        )
        self.binary = False

    def score(
        self,
        model: Mapping[str, NDArray[np.float32]],
        indices: NDArray[np.int64],
        *,
        held_out: bool = False,
    ) -> NDArray[np.float32]:
        """See `genepool.tasks.task.Task.score`."""
        size = len(self.held_out if held_out else self.samples)
        rows = checked_indices(indices, size) + (len(self.samples) if held_out else 0)
        scores = [self._reciprocal_rank(model, int(row)) for row in rows]
        return checked_scores(scores, rows.size)

    def _reciprocal_rank(self, model: Mapping[str, NDArray[np.float32]], row: int) -> float:
        # One image at a time: in a batch the last bits of a row may depend on the batch's size,
        # and a score must not depend on what else is asked.
        hidden = np.maximum(self._images[row] @ model["hidden.weight"] + model["hidden.bias"], 0)
        logits = hidden @ model["output.weight"] + model["output.bias"]
        if not np.isfinite(logits).all():
            raise EvaluationError(f"logits that are not finite for image {row}")
        # Last among equals: a model that says the same of all digits has found none of them.
        return 1 / int((logits >= logits[self._labels[row]]).sum())
