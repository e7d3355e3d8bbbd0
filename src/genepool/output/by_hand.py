"""One merge by hand, without a pool."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from genepool.checkpoints.family import Family, Source, Words, make_family, open_source
from genepool.checkpoints.files.cache import shared_cache
from genepool.checkpoints.files.digests import copies, remember_digests
from genepool.checkpoints.seeds import SeedLike, named_source
from genepool.core.genome import Genome, Recipe, recipe, seed_recipe
from genepool.core.slerp import Angle, merge_recipe, products_of, tensor_recipe
from genepool.errors import InputError, WriteError
from genepool.governance.card import Card, CardSeed
from genepool.materialise.gram import Gram, load_or_build_gram
from genepool.output.member import rebuild_command
from genepool.output.methods.cancelling import cancels
from genepool.output.methods.layer_values import Values, along_layers
from genepool.output.methods.task_vectors import METHODS, Method, TaskVectors, task_vectors
from genepool.output.recipe_file import settings_digest
from genepool.output.write.model import (
    Exported,
    PathLike,
    Writing,
    card_seed,
    describe_genome,
    describe_seeds,
    library_of,
    write_model,
)
from genepool.output.write.weights import SHARD_BYTES, Produce
from genepool.threads import Progress

# Parameters from which on remembering what was read of models pays.
_REMEMBERED = 2**20


def merge(
    a: SeedLike,
    b: SeedLike,
    directory: PathLike,
    *,
    ratio: Values | Mapping[str, Values],
    split: float | int | str = 1.0,
    angle: Angle = "global",
    adapter_base: str | None = None,
    partial: bool = False,
    vocabulary: Words = "same",
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress | None = None,
) -> Exported:
    """Merge two checkpoints by SLERP: `ratio` left of the split point and 1 - ratio right of it.

    Args:
        a, b: checkpoints of one architecture: paths, ids of the Hugging Face Hub, or mappings with
            the keys of a seed in a run file.
        directory: new or empty.
        ratio: in [0, 1]; left of the split 0 gives a and 1 gives b. Several numbers stand along
            the layers, and a mapping has one or several for tensors whose names contain its keys,
            the first that fits ("" fits all; see `weights.layer_values`); both without a split.
        split: fraction of the axis (float), position (int), or name of the tensor that is the
            first on the right; 1.0 merges everything at `ratio`.
        angle: over what the SLERP angle is measured.
        adapter_base: base of a seed that is an adapter; None takes the one that it names.
        partial: merge what both hold under one name and in one shape, and take the rest from a.
        vocabulary: "common" merges the rows of the tokens that are the same in both tokenizers.
        dtype: of all merged tensors, as safetensors names it; None keeps those of a.
        shard_bytes: largest size of a file.
        advance: called with the fraction that is done.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    opened = _open([a, b], adapter_base, partial, vocabulary)
    layout = opened.family.layout
    position = layout.position(split)
    whole = position == layout.axis.size
    if isinstance(ratio, int | float):
        ratios = None
    elif whole:
        values = ratio if isinstance(ratio, Mapping) else {"": ratio}
        ratios = along_layers([slot.name for slot in layout.slots], values)
    else:
        raise InputError("ratio: a split point goes with one number, not with several")
    gram = _gram(opened.family)
    sides = [seed_recipe(layout.axis.size, k, 2) for k in range(2)]
    products = products_of(sides[0], sides[1], gram)
    if ratios is None:
        genome = merge_recipe(products, layout.axis, cast(float, ratio), [position], angle)
    else:
        genome = tensor_recipe(products, layout.axis, ratios, angle)
    # Pairs, since a mapping's order counts, which JSON does not keep.
    told = list(ratio.items()) if isinstance(ratio, Mapping) else ratio
    settings = {"method": "slerp", "ratio": told, "split": position, "angle": angle}
    where = "" if whole else f", split at position {position} of the axis"
    text = f"SLERP at ratio {_ratio_text(ratio)}{where} (angle: {angle})"
    return _write(
        genome,
        describe_genome(genome),
        settings,
        text,
        opened,
        directory,
        Writing(dtype, shard_bytes, advance),
    )


def _ratio_text(ratio: Values | Mapping[str, Values]) -> str:
    if isinstance(ratio, int | float):
        return f"{ratio:g}"
    if isinstance(ratio, Mapping):
        parts = [(f" for '{text}'" if text else "", values) for text, values in ratio.items()]
        return "; ".join(_ratio_text(values) + where for where, values in parts)
    return ", ".join(f"{number:g}" for number in ratio) + " along the layers"


def blend(
    models: Sequence[SeedLike],
    directory: PathLike,
    *,
    method: str = "linear",
    base: SeedLike | None = None,
    weights: Sequence[float] | None = None,
    density: float | Sequence[float] | None = None,
    seed: int = 0,
    normalise: bool | None = None,
    scale: float = 1.0,
    adapter_base: str | None = None,
    partial: bool = False,
    vocabulary: Words = "same",
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    advance: Progress | None = None,
) -> Exported:
    """Merge any number of models, or what training changed in them, by weight.

    Args:
        models: of one architecture, as for `merge`; the first gives configuration and tokenizer.
        directory: new or empty.
        method: "linear": the weighted mean (Wortsman et al. 2022). With a base: "task-arithmetic"
            adds the weighted task vectors (model - base) to it (Ilharco et al. 2023); "ties" trims
            them by size, elects signs and averages (Yadav et al. 2023); "dare-linear" and
            "dare-ties" keep changes at random and divide by the density (Yu et al. 2024).
        base: that the models were trained from; all methods but "linear" need it.
        weights: one for each model; None means 1 each.
        density: share of each task vector that is kept, in (0, 1], one for all or one for each
            model; for "ties" and the DARE methods, None means 0.5.
        seed: of what the DARE methods keep.
        normalise: divide by the sum of the weights; None does so for "linear" and "ties". A sum
            below a millionth of that of their absolute values counts as 0.
        scale: factor of the merged task vector; for all methods but "linear".
        adapter_base, partial, vocabulary, dtype, shard_bytes, advance: as for `merge`.

    Raises:
        CheckpointError, InputError: naming what does not fit.
    """
    factors = _check_blend(models, method, base, weights, density, scale)
    divide = method in ("linear", "ties") if normalise is None else normalise
    given = [*models] if base is None else [*models, base]
    if divide and method in ("linear", "task-arithmetic") and cancels(factors):
        raise InputError("weights: they sum to 0, so that they cannot be normalised")
    settings: dict[str, Any] = {"method": method, "weights": factors, "normalise": divide}
    if base is not None:
        settings["scale"] = scale
    opened = _open(given, adapter_base, partial, vocabulary)
    text = f"{method} with weights {', '.join(f'{w:g}' for w in factors)}"
    writing = Writing(dtype, shard_bytes, advance)
    if method in ("linear", "task-arithmetic"):
        genome = _linear(factors, divide, None if base is None else scale, opened.family)
        found = describe_genome(genome)
        return _write(genome, found, settings, text, opened, directory, writing)
    how = TaskVectors(
        cast(Method, method),
        tuple(factors),
        _densities(density, len(factors)),
        seed if method.startswith("dare") else 0,
        divide,
        scale,
    )
    settings["density"] = [*how.densities] if isinstance(how.density, tuple) else how.density
    settings["seed"] = how.seed
    named = {"genome": settings_digest(how)}
    produce = task_vectors(opened.family.checkpoints, opened.family.layout, how)
    several = how.densities if isinstance(how.density, tuple) else (how.density,)
    text += f", density {', '.join(f'{density:g}' for density in several)}"
    text += f", relative to {opened.seeds[-1].name}"
    return _write(produce, named, settings, text, opened, directory, writing)


def _check_blend(
    models: Sequence[SeedLike],
    method: str,
    base: SeedLike | None,
    weights: Sequence[float] | None,
    density: float | Sequence[float] | None,
    scale: float,
) -> list[float]:
    """The weights, once everything has been checked that needs no file."""
    known = ("linear", "task-arithmetic", *METHODS)
    if method not in known:
        raise InputError(f"method: expected one of {', '.join(known)}; got {method!r}")
    if not models:
        raise InputError("models: expected at least one; got none")
    if method == "linear" and base is not None:
        raise InputError("linear takes no base; give it as one of the models, or leave it out")
    if method != "linear" and base is None:
        raise InputError(f"{method} needs the base that the models were trained from (--base)")
    if density is not None and method not in METHODS:
        raise InputError(f"{method} takes no density; it is for {', '.join(METHODS)}")
    factors = [1.0] * len(models) if weights is None else [float(weight) for weight in weights]
    if len(factors) != len(models):
        raise InputError(f"weights: expected {len(models)}, one for each model; got {len(factors)}")
    # Refuses NaN too. What is left, and its sums, float32 holds.
    if not all(abs(number) <= 1e30 for number in (*factors, scale)):
        raise InputError(
            f"weights and scale: expected finite numbers, up to 1e30; got {factors}, {scale}"
        )
    return factors


def _densities(given: float | Sequence[float] | None, models: int) -> float | tuple[float, ...]:
    """One number where all models have the same, so that equal merges have equal recipes."""
    if given is None:
        return 0.5
    several = tuple(float(density) for density in np.atleast_1d(given))
    same = len(several) == 1 or (len(several) == models and len(set(several)) == 1)
    return several[0] if same else several


def _linear(factors: Sequence[float], divide: bool, scale: float | None, family: Family) -> Recipe:
    """The weighted mean or, with a scale, task arithmetic, whose base is the last seed."""
    total = math.fsum(factors) if divide else 1.0
    row = [(1.0 if scale is None else scale) * factor / total for factor in factors]
    if scale is not None:
        row.append(1.0 - math.fsum(row))
    return recipe([0, family.layout.axis.size], np.array([row]))


def _gram(family: Family) -> Gram:
    """The models' inner products, from the user's cache where there is one with room."""
    checkpoints, layout = family.checkpoints, family.layout
    cache = shared_cache() if layout.axis.size >= _REMEMBERED else None
    try:
        return load_or_build_gram(checkpoints, layout, cache and cache / "gram")
    except WriteError:
        return load_or_build_gram(checkpoints, layout, None)


@dataclass(frozen=True, eq=False, slots=True)
class _Opened:
    """The models of a merge, opened."""

    sources: tuple[Source, ...]
    family: Family
    seeds: tuple[CardSeed, ...]
    partial: bool


def _open(
    models: Sequence[SeedLike], adapter_base: str | None, partial: bool, vocabulary: Words
) -> _Opened:
    sources = tuple(named_source(model, adapter_base) for model in models)
    checkpoints = [open_source(source) for source in sources]
    family = make_family(checkpoints, partial=partial, vocabulary=vocabulary)
    cache = shared_cache() if family.layout.axis.size >= _REMEMBERED else None
    if cache is not None:
        # All are known by the time that they are written; a full cache costs the next merge only.
        with suppress(WriteError):
            remember_digests(family.checkpoints, [source.rename for source in sources], cache)
    given = [dict(model) if isinstance(model, Mapping) else {} for model in models]
    names = _names(
        [
            str(options.get("name") or checkpoint.name)
            for options, checkpoint in zip(given, family.checkpoints, strict=True)
        ]
    )
    seeds = tuple(
        card_seed(name, source, checkpoint, str(options.get("licence") or ""))
        for name, source, checkpoint, options in zip(
            names, sources, family.checkpoints, given, strict=True
        )
    )
    twins = copies(names, [seed.digest for seed in seeds])
    family = replace(family, notices=(*family.notices, *twins))
    return _Opened(sources, family, seeds, partial)


def _write(
    made: Genome | Produce,
    genome: Mapping[str, Any],
    settings: Mapping[str, Any],
    text: str,
    opened: _Opened,
    directory: PathLike,
    writing: Writing,
) -> Exported:
    family = opened.family
    details: dict[str, Any] = {
        **describe_seeds(opened.seeds, opened.sources, family, partial=opened.partial),
        **genome,
        **settings,
    }
    card = Card(
        title="",
        seeds=opened.seeds,
        how=f"A merge of {len(opened.seeds)} models by hand, with genepool: {text}.",
        tags=("merge", "genepool"),
        library=library_of(family.checkpoints[0]),
        notices=family.notices,
        rebuild=rebuild_command(opened.seeds),
    )
    return write_model(made, details, card, family.checkpoints, family.layout, directory, writing)


def _names(names: list[str]) -> list[str]:
    """The names, a number added where one repeats, since a recipe's seeds are known by name."""
    out: list[str] = []
    for name in names:
        unique, number = name, 2
        while unique in out:
            unique, number = f"{name}-{number}", number + 1
        out.append(unique)
    return out
