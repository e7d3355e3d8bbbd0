"""Weighted sums of models: the mean (Wortsman et al. 2022), task arithmetic (Ilharco et al. 2023).

Both are recipes of one segment, so that no tensor is read before the result is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genepool.checkpoints.family import Family
from genepool.core.genome import recipe
from genepool.errors import InputError
from genepool.output.methods.specification import (
    Combined,
    Method,
    Options,
    WrongOptions,
    cancels,
    weights_of,
)


@dataclass(frozen=True, slots=True)
class Linear:
    """The weighted sum of K models, or of what training changed in them.

    Attributes:
        weights: K numbers.
        normalise: divide them by their sum.
        scale: None for the sum of the models; a number for task arithmetic, which adds the sum of
            the differences from the base, times this, to the base.
    """

    weights: tuple[float, ...]
    normalise: bool
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.normalise and cancels(self.weights):
            raise InputError("weights: they sum to 0, so that they cannot be normalised")

    def combine(self, family: Family, names: Sequence[str]) -> Combined:
        """As `Specification` says."""
        total = math.fsum(self.weights) if self.normalise else 1.0
        factor = 1.0 if self.scale is None else self.scale
        row = [factor * weight / total for weight in self.weights]
        settings: dict[str, Any] = {
            "method": "linear" if self.scale is None else "task-arithmetic",
            "weights": [*self.weights],
            "normalise": self.normalise,
        }
        if self.scale is not None:
            row.append(1.0 - math.fsum(row))
            settings["scale"] = self.scale
        genome = recipe([0, family.layout.axis.size], np.array([row]))
        shown = ", ".join(f"{weight:g}" for weight in self.weights)
        return Combined(genome, settings, f"{settings['method']} with weights {shown}")


def _linear(options: Options, models: int) -> Linear:
    if models < 2:
        raise WrongOptions(f"linear merges at least two models; got {models}")
    return Linear(weights_of(options, models), options.normalise is not False)


def _task_arithmetic(options: Options, models: int) -> Linear:
    scale = 1.0 if options.scale is None else options.scale
    return Linear(weights_of(options, models), options.normalise is True, scale)


METHODS = (
    Method("linear", ("weights", "normalise"), _linear),
    Method("task-arithmetic", ("base", "weights", "normalise", "scale"), _task_arithmetic),
)
