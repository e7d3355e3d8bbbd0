"""Merging two genomes: spherical interpolation with split points, paper eq. 2.

A child is `concat(f(w; A[:s], B[:s]), f(1 - w; A[s:], B[s:]))` with f = SLERP. Where the angle
between A and B is measured makes three different merges (`Angle`): over all weights (the
reference code), over each side of each split (the paper's equation read literally), or over each
tensor (the popular tools). In all of them the result is linear in A and B piece by piece, which is
why a merge is returned as a recipe over its parents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genepool.core.axis import Axis, InnerProducts, axis
from genepool.core.checks import in_range, is_whole, numbers
from genepool.core.genome import Genome, Recipe, Vector, recipe
from genepool.errors import InputError

Angle = Literal["global", "side", "tensor"]
ANGLES: tuple[Angle, ...] = ("global", "side", "tensor")

# (<a,a>, <a,b>, <b,b>) over positions start..stop.
Products = Callable[[int, int], tuple[float, float, float]]

_COLINEAR = 1e-6
# Between opposite vectors the great circle is not determined: coefficients grow as 1 / sin omega
# and carry the rounding of the inner products with them. float32, as in the reference, cannot tell
# such an angle from pi within 3.5e-4, so nothing that it could do is lost.
_OPPOSITE = 1e-3


def slerp_weights(ratio: float, products: tuple[float, float, float]) -> tuple[float, float]:
    """Coefficients of A and B in `slerp(ratio; A, B)`.

    `sin((1 - t) omega) / sin omega` and `sin(t omega) / sin omega`; plain linear interpolation
    where sin omega <= 1e-6 or a norm is 0, as in the reference, and within 1e-3 of opposite
    directions, where the arc is not determined.

    Args:
        ratio: t in [0, 1]; 0 gives A.
        products: `<A,A>`, `<A,B>`, `<B,B>` in float64.
    """
    aa, ab, bb = products
    norm = math.sqrt(max(aa, 0.0)) * math.sqrt(max(bb, 0.0))
    if norm > 0:
        omega = math.acos(min(1.0, max(-1.0, ab / norm)))
        sine = math.sin(omega)
        if sine > (_COLINEAR if ab > 0 else _OPPOSITE):
            return math.sin((1.0 - ratio) * omega) / sine, math.sin(ratio * omega) / sine
    return 1.0 - ratio, ratio


def _angled(products: Products, start: int, stop: int) -> tuple[float, float, float]:
    # Two single numbers have no angle between 0 and pi, but where one is a small difference,
    # rounding in its products may feign one.
    return products(start, stop) if stop - start > 1 else (0.0, 0.0, 0.0)


def merge_recipe(
    products: Products,
    along: Axis,
    ratio: float,
    splits: Sequence[int],
    angle: Angle = "global",
    *,
    trusted: bool = False,
) -> Recipe:
    """The merge as a recipe over (A, B): `ratio` left of each chromosome's split, 1 - ratio right.

    Where a chromosome has several splits the two ratios take turns: `ratio`, 1 - ratio, `ratio`...

    Args:
        products: inner products of A and B over a stretch of the parameter axis.
        along: the parameter axis.
        ratio: in [0, 1].
        splits: positions, as many for every chromosome, chromosome after chromosome, inside or at
            the ends of it and in order.
        angle: over what the SLERP angle is measured.
        trusted: ratio, splits and angle are known to be right.

    Raises:
        InputError: ratio, splits or angle out of range.
    """
    if not trusted:
        _check_plan(along, ratio, splits, angle)
    cuts: list[int] = [0]
    rows: list[tuple[float, float]] = []

    overall = _angled(products, 0, along.size) if angle == "global" else (0.0, 0.0, 0.0)
    each = len(splits) // len(along.names)
    for number, (low, high) in enumerate(zip(along.cuts[:-1], along.cuts[1:], strict=True)):
        points = splits[number * each : (number + 1) * each]
        left, right = slerp_weights(ratio, overall), slerp_weights(1.0 - ratio, overall)
        if angle == "tensor":
            inner = along.tensors[(along.tensors >= low) & (along.tensors <= high)].tolist()
            pieces = list(pairwise(inner))
        else:
            pieces = [(low, high)]
        for start, stop in pieces:
            if angle == "tensor":
                whole = _angled(products, start, stop)
                left, right = slerp_weights(ratio, whole), slerp_weights(1.0 - ratio, whole)
            begin, turned = start, False
            for point in (*points, stop):
                end = min(max(point, start), stop)
                if angle == "side":
                    here = _angled(products, begin, end)
                    row = slerp_weights(1.0 - ratio if turned else ratio, here)
                else:
                    row = right if turned else left
                begin, turned = end, not turned
                if end > cuts[-1]:
                    if rows and rows[-1] == row:
                        cuts[-1] = end
                    else:
                        cuts.append(end)
                        rows.append(row)
    # Adding 0.0 turns -0.0 into 0.0, so that equal recipes have equal bytes.
    return Recipe(np.array(cuts, dtype=np.int64), np.array(rows) + 0.0)


def tensor_recipe(
    products: Products, along: Axis, ratios: Sequence[float], angle: Angle = "tensor"
) -> Recipe:
    """A merge with a ratio of its own for each tensor, as a recipe over (A, B).

    Args:
        products, along, angle: as for `merge_recipe`; "side" is "global" here.
        ratios: one for each tensor of the parameter axis, in [0, 1]; 0 gives A.

    Raises:
        InputError: not as many ratios as tensors, or one out of range.
    """
    pieces = list(pairwise(along.tensors.tolist()))
    if len(ratios) != len(pieces) or not all(0.0 <= ratio <= 1.0 for ratio in ratios):
        raise InputError(f"ratio: expected {len(pieces)} numbers in [0, 1], one for each tensor")
    overall = _angled(products, 0, along.size)
    rows = [
        slerp_weights(ratio, overall if angle != "tensor" else _angled(products, start, stop))
        for (start, stop), ratio in zip(pieces, ratios, strict=True)
    ]
    return recipe([0, *(stop for _, stop in pieces)], np.array(rows) + 0.0)


def products_of(first: Genome, second: Genome, gram: InnerProducts | None) -> Products:
    """Inner products of two genomes of one kind, in float64.

    For recipes they follow from the seeds' (`gram`): `<A,B> = sum_segments a^T G b`. For vectors
    they are summed pairwise, so that they do not depend on the number of threads.
    """
    if isinstance(first, Vector) and isinstance(second, Vector):
        return _vector_products(first, second)
    if isinstance(first, Recipe) and isinstance(second, Recipe) and gram is not None:
        return _recipe_products(first, second, gram)
    raise InputError("both parents must be recipes (with the seeds' inner products) or vectors")


def merge_vectors(
    a: ArrayLike,
    b: ArrayLike,
    ratio: float,
    split: int,
    angle: Angle = "global",
    tensors: Sequence[int] | None = None,
) -> NDArray[np.floating]:
    """Merge two vectors: `slerp(ratio)` left of `split` and `slerp(1 - ratio)` right of it.

    Args:
        a, b: [D] each, finite.
        ratio: in [0, 1]; left of the split 0 gives a and 1 gives b, right of it the other way.
        split: index in 0..D.
        angle: over what the SLERP angle is measured.
        tensors: inner tensor boundaries, for angle "tensor"; None means one tensor.

    Returns:
        [D], float64, or float32 where both inputs are float32.

    Raises:
        InputError: shapes that differ, values that are not finite, ratio or split out of range.
    """
    left, right = numbers(a, "a"), numbers(b, "b")
    if left.ndim != 1 or left.shape != right.shape or left.size == 0:
        raise InputError(
            f"a and b must be vectors of one length, at least 1; got {left.shape} and {right.shape}"
        )
    exact = [x.astype(np.float64) for x in (left, right)]
    for name, values in zip("ab", exact, strict=True):
        wrong = ~np.isfinite(values)
        if bool(wrong.any()):
            position = int(wrong.argmax())
            raise InputError(f"{name} must be finite; position {position} has {values[position]}")

    def products(start: int, stop: int) -> tuple[float, float, float]:
        x, y = exact[0][start:stop], exact[1][start:stop]
        return float((x * x).sum()), float((x * y).sum()), float((y * y).sum())

    along = axis(left.size, list(tensors or []))
    plan = merge_recipe(products, along, ratio, [split], angle)
    out = np.empty(left.size)
    for (start, stop), (of_a, of_b) in zip(
        zip(plan.bounds[:-1].tolist(), plan.bounds[1:].tolist(), strict=True),
        plan.coefs.tolist(),
        strict=True,
    ):
        out[start:stop] = of_a * exact[0][start:stop] + of_b * exact[1][start:stop]
    single = left.dtype == np.float32 and right.dtype == np.float32
    return out.astype(np.float32) if single else out


def _check_plan(along: Axis, ratio: float, splits: Sequence[int], angle: str) -> None:
    if not in_range(ratio, 0, 1):
        raise InputError(f"ratio must lie in [0, 1]; got {ratio!r}")
    if angle not in ANGLES:
        raise InputError(f"angle must be one of {', '.join(ANGLES)}; got {angle!r}")
    each, odd = divmod(len(splits), len(along.names))
    if odd or not each:
        raise InputError(
            f"expected one split per chromosome ({', '.join(along.names)}), or equally many for "
            f"each; got {len(splits)}"
        )
    for number, split in enumerate(splits):
        place = number // each
        name, low, high = along.names[place], along.cuts[place], along.cuts[place + 1]
        if not is_whole(split):
            raise InputError(f"split of chromosome {name!r} must be a whole number; got {split!r}")
        if not low <= split <= high:
            raise InputError(f"split of chromosome {name!r} must lie in {low}..{high}; got {split}")
        if number % each and split < splits[number - 1]:
            raise InputError(
                f"splits of chromosome {name!r} must be in order; got {split} after "
                f"{splits[number - 1]}"
            )


def _vector_products(first: Vector, second: Vector) -> Products:
    def between(one: Vector, two: Vector, start: int, stop: int) -> float:
        exact = one.values[start:stop].astype(np.float64)
        exact *= two.values[start:stop]
        return float(np.add.reduce(exact))

    def products(start: int, stop: int) -> tuple[float, float, float]:
        if (start, stop) == (0, first.size):
            return first.dot(first), first.dot(second), second.dot(second)
        return (
            between(first, first, start, stop),
            between(first, second, start, stop),
            between(second, second, start, stop),
        )

    return products


def _recipe_products(first: Recipe, second: Recipe, gram: InnerProducts) -> Products:
    def products(start: int, stop: int) -> tuple[float, float, float]:
        if start == stop:
            return 0.0, 0.0, 0.0
        edges = np.unique(np.concatenate([first.bounds, second.bounds, [start, stop]]))
        edges = edges[(edges >= start) & (edges <= stop)]
        at_first = np.searchsorted(first.bounds, edges[:-1], side="right") - 1
        at_second = np.searchsorted(second.bounds, edges[:-1], side="right") - 1
        blocks = gram.between(edges)
        u, v = first.coefs[at_first], second.coefs[at_second]
        return (
            float(np.einsum("si,sij,sj->", u, blocks, u)),
            float(np.einsum("si,sij,sj->", u, blocks, v)),
            float(np.einsum("si,sij,sj->", v, blocks, v)),
        )

    return products
