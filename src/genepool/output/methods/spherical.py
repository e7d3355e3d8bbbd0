"""SLERP of two models (paper eq. 2), with a split point or with ratios along the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from genepool.checkpoints.family import Family
from genepool.core.checks import in_range
from genepool.core.genome import seed_recipe
from genepool.core.slerp import Angle, merge_recipe, products_of, tensor_recipe
from genepool.errors import InputError, WriteError
from genepool.materialise.gram import Gram, load_or_build_gram
from genepool.messages import shown
from genepool.output.methods.layer_values import Values, along_layers
from genepool.output.methods.specification import (
    Combined,
    Method,
    Options,
    WrongOptions,
    cache_for,
)


@dataclass(frozen=True, slots=True)
class Slerp:
    """Two models: the second with weight `ratio` left of the split point, 1 - ratio right of it.

    Attributes:
        ratio, split, angle: as in `Options`; a split of 1.0 leaves nothing right of it.
    """

    ratio: Values | Mapping[str, Values]
    split: float | int | str = 1.0
    angle: Angle = "global"

    def combine(self, family: Family, names: Sequence[str]) -> Combined:
        """As `Specification` says."""
        layout, ratio = family.layout, self.ratio
        position = layout.position(self.split)
        whole = position == layout.axis.size
        sides = [seed_recipe(layout.axis.size, k, 2) for k in range(2)]
        if isinstance(ratio, int | float):
            products = products_of(sides[0], sides[1], _gram(family))
            genome = merge_recipe(products, layout.axis, ratio, [position], self.angle)
        elif whole:
            values = ratio if isinstance(ratio, Mapping) else {"": ratio}
            ratios = along_layers([slot.name for slot in layout.slots], values)
            products = products_of(sides[0], sides[1], _gram(family))
            genome = tensor_recipe(products, layout.axis, ratios, self.angle)
        else:
            raise InputError("ratio: a split point goes with one number, not with several")
        # Pairs, since a mapping's order counts, which JSON does not keep.
        told = list(ratio.items()) if isinstance(ratio, Mapping) else ratio
        where = "" if whole else f", split at position {position} of the parameter axis"
        return Combined(
            genome,
            {"method": "slerp", "ratio": told, "split": position, "angle": self.angle},
            f"SLERP at ratio {_text(ratio)}{where} (angle: {self.angle})",
        )


def _text(ratio: Values | Mapping[str, Values]) -> str:
    if isinstance(ratio, int | float):
        return f"{ratio:g}"
    if isinstance(ratio, Mapping):
        parts = [(f" for '{text}'" if text else "", values) for text, values in ratio.items()]
        return "; ".join(_text(values) + where for where, values in parts)
    return ", ".join(f"{number:g}" for number in ratio) + " along the layers"


def _gram(family: Family) -> Gram:
    """The models' inner products, from the user's cache where there is one with room."""
    cache = cache_for(family)
    try:
        return load_or_build_gram(family.checkpoints, family.layout, cache and cache / "gram")
    except WriteError:
        return load_or_build_gram(family.checkpoints, family.layout, None)


def _specify(options: Options, models: int) -> Slerp:
    if models != 2:
        raise WrongOptions(f"slerp merges two models, A and B; got {models}")
    if options.ratio is None:
        raise WrongOptions("slerp needs a ratio: missing option '--ratio'")
    ratio = options.ratio
    each: list[Any] = [*ratio.values()] if isinstance(ratio, Mapping) else [ratio]
    for one in each:
        listed = cast("list[Any]", one if isinstance(one, list) else [one])
        if wrong := [number for number in listed if not in_range(number, 0, 1)]:
            raise WrongOptions(
                "ratio: expected numbers from 0 (all of the first model) to 1 (all of the second); "
                f"got {shown(wrong[0])}"
            )
    return Slerp(
        options.ratio,
        1.0 if options.split is None else options.split,
        options.angle or "global",
    )


METHODS = (Method("slerp", ("ratio", "split", "angle"), _specify),)
