"""What every method of merging by hand is: options as a user gives them, a value, its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from genepool.checkpoints.family import Family
from genepool.checkpoints.files.cache import shared_cache
from genepool.checkpoints.seeds import SeedLike
from genepool.core.genome import Genome
from genepool.core.slerp import Angle
from genepool.errors import InputError
from genepool.output.methods.layer_values import Values
from genepool.output.write.weights import Produce

CANCELLED = 1e-6
"""Weights whose sum is at most this share of the sum of their absolute values sum to zero."""

# Parameters from which on remembering what was read of models pays.
_REMEMBERED = 2**20


class WrongOptions(InputError):
    """Options, or a number of models, that do not go with a method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can say of a merge; None where nothing was said, and the method's default holds.

    Attributes:
        ratio: in [0, 1]: 0 gives the first model and 1 the second. Several numbers stand along the
            layers, and a mapping has one or several for tensors whose names contain its keys.
        split: fraction of all weights (float), position (int), or name of the tensor that is the
            first right of the split point.
        angle: over what the angle of SLERP is measured.
        base: the model that the others were trained from.
        weights: one for each model.
        density: share of each task vector that is kept, in (0, 1]; one for all, or one for each.
        seed: the random seed of what is drawn.
        normalise: whether to divide by the sum of the weights.
        scale: factor of the merged task vector.
    """

    ratio: Values | Mapping[str, Values] | None = None
    split: float | int | str | None = None
    angle: Angle | None = None
    base: SeedLike | None = None
    weights: Sequence[float] | None = None
    density: float | Sequence[float] | None = None
    seed: int | None = None
    normalise: bool | None = None
    scale: float | None = None

    def plain(self) -> Options:
        """The same options, with numbers of Python in the place of those of numpy, which JSON does
        not know, and of which `True` is not Python's."""
        numbers = [field.name for field in fields(self) if field.name not in ("angle", "base")]
        return replace(self, **{name: _plain(getattr(self, name)) for name in numbers})

    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return cast("Any", value).tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return value


@dataclass(frozen=True, eq=False, slots=True)
class Combined:
    """What a specification makes of a family.

    Attributes:
        made: a genome over the family, or the function that computes the merged tensors.
        settings: for `genepool.json`, with `method`.
        text: the same for people.
        digest: what stands for the genome where `made` is none; else empty.
    """

    made: Genome | Produce
    settings: Mapping[str, Any]
    text: str
    digest: str = ""


class Specification(Protocol):
    """A merge by hand as a frozen value, checked but for what needs the models."""

    def combine(self, family: Family, names: Sequence[str]) -> Combined:
        """Prepare the merge of a family whose models have these names; a base is the last.

        Raises:
            InputError: the specification does not fit the family.
            CheckpointError: a model is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """A method that users name.

    Attributes:
        name: what they type.
        takes: the options that it has; one with `base` needs a base, and others take none.
        specify: its specification, from options and the number of models (the base not counted).
        read: a specification from what `Combined.settings` and the digest (`genome`) say in a
            `genepool.json`; None where the recipe in the file says all. Raises KeyError, TypeError
            or ValueError for what is damaged.
    """

    name: str
    takes: tuple[str, ...]
    specify: Callable[[Options, int], Specification]
    read: Callable[[Mapping[str, Any], int], Specification] | None = None


def weights_of(options: Options, models: int) -> tuple[float, ...]:
    """The weights, one for each model; 1 each where none are given.

    Raises:
        InputError: another number of them, or a weight or scale that float32 cannot compute with.
    """
    given = options.weights
    weights = (1.0,) * models if given is None else tuple(float(weight) for weight in given)
    if len(weights) != models:
        raise InputError(f"weights: expected {models}, one for each model; got {len(weights)}")
    scale = 1.0 if options.scale is None else options.scale
    # Refuses NaN too. What is left, and its sums, float32 holds.
    if not all(abs(number) <= 1e30 for number in (*weights, scale)):
        raise InputError(
            f"weights and scale: expected finite numbers, up to 1e30; got {[*weights]}, {scale}"
        )
    return weights


def cancels(weights: Sequence[float]) -> bool:
    """Whether finite numbers sum to 0 but for rounding, as 0.1, 0.2 and -0.3 do: no divisor."""
    # Relative to the largest, so that no sum overflows.
    largest = max(map(abs, weights)) or 1.0
    shares = [weight / largest for weight in weights]
    return abs(math.fsum(shares)) <= CANCELLED * math.fsum(map(abs, shares))


def cache_for(family: Family) -> Path | None:
    """Where to remember what was read of models, if they are large enough; None for nowhere."""
    return shared_cache() if family.layout.axis.size >= _REMEMBERED else None
