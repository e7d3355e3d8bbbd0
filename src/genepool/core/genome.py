"""Genomes: how a model is made.

SLERP only scales and adds, so without mutation every descendant, however deep, is piecewise linear
in the seeds: a `Recipe`, a few kilobytes for a model of any size. With mutation a genome is a dense
`Vector`. A merge itself is a recipe too, over the parents instead of the seeds, so that one
operation, `compose`, makes the recipe of a child and one, `express`, its weights.

Arithmetic that every implementation repeats exactly, so that a genome names one model bit for bit:
coefficients are rounded to float32; terms whose coefficient is then zero are left out; products and
sums are float32, in source order, each rounded (no fused multiply-add); noise times its standard
deviation, a float32 product, is added last; the sum is rounded once to the output's dtype.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from genepool.core.rng import noise, noise_words
from genepool.errors import InputError
from genepool.messages import count

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def _frozen(array: NDArray[np.generic]) -> None:
    array.setflags(write=False)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Recipe:
    """Piecewise linear combination of K sources along the parameter axis.

    Position `p` with `bounds[s] <= p < bounds[s + 1]` holds `sum_k coefs[s, k] * source_k[p]`.
    Build one with `recipe`, which validates and joins neighbours that are equal.

    Attributes:
        bounds: int64[S+1], strictly increasing, from 0 to the parameter axis size D.
        coefs: float64[S, K], finite; neighbouring rows differ.
    """

    bounds: Int64
    coefs: Float64

    def __post_init__(self) -> None:
        _frozen(self.bounds)
        _frozen(self.coefs)

    def __repr__(self) -> str:
        segments = count(len(self.coefs), "segment")
        return f"<Recipe: {segments} of {self.sources} models over {self.size} positions>"

    @property
    def size(self) -> int:
        """Length D of the parameter axis."""
        return int(self.bounds[-1])

    @property
    def sources(self) -> int:
        """Number K of sources."""
        return int(self.coefs.shape[1])


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """How a dense genome comes about: `express(merge, parents)` and normal noise on top.

    Attributes:
        merge: over the parents.
        parents: dense genomes.
        mutation: standard deviation of the noise; 0 for none.
        seed, step: where the noise comes from: `noise_words(seed, step, D)`.
    """

    merge: Recipe
    parents: tuple[Vector, ...]
    mutation: float
    seed: int
    step: int


class Vector:
    """A dense genome: weights, or an origin that they follow from.

    Most children are scored once and rejected. Told by its origin, a child is computed in one pass
    straight into the live model; its own weights are made when something asks for them, bit for bit
    the same, and the parents are let go of.
    """

    __slots__ = ("__weakref__", "_dots", "_origin", "_square", "_values")

    def __init__(self, made: Float32 | Origin) -> None:
        """Take over weights, float32[D], which become read-only, or an origin."""
        self._dots: WeakKeyDictionary[Vector, float] = WeakKeyDictionary()
        self._values: Float32 | None = None
        self._square: float | None = None
        self._origin: Origin | None = None
        if isinstance(made, Origin):
            self._origin = made
        else:
            _frozen(made)
            self._values = made

    def __reduce__(self) -> tuple[type[Vector], tuple[Float32]]:
        """For other processes, and copies: the weights."""
        return Vector, (self.values,)

    @property
    def origin(self) -> Origin | None:
        """What the weights follow from, as long as they have not been made."""
        return self._origin

    @property
    def values(self) -> Float32:
        """float32[D], read-only."""
        origin = self._origin
        if self._values is None and origin is not None:
            values = express(origin.merge, [parent.values for parent in origin.parents])
            if origin.mutation:
                grain = noise(noise_words(origin.seed, origin.step, values.size))
                grain *= np.float32(origin.mutation)
                values += grain
            _frozen(values)
            self._values, self._origin = values, None
        # Another thread may have been faster; it made the same.
        return cast("Float32", self._values)

    @property
    def size(self) -> int:
        """Length D of the parameter axis."""
        origin = self._origin
        return origin.merge.size if origin is not None else int(self.values.shape[0])

    def dot(self, other: Vector) -> float:
        """Inner product, in float64; kept, since the same parents meet again and again."""
        if other is self:
            if self._square is None:
                self._square = self._product(self)
            return self._square
        found = self._dots.get(other)
        if found is None:
            found = self._dots[other] = other._dots[self] = self._product(other)
        return found

    def _product(self, other: Vector) -> float:
        exact = self.values.astype(np.float64)
        exact *= other.values
        return float(np.add.reduce(exact))


Genome = Recipe | Vector


def recipe(bounds: NDArray[np.integer] | Sequence[int], coefs: NDArray[np.floating]) -> Recipe:
    """Validate and bring to canonical form (neighbouring segments with equal rows are joined).

    Args:
        bounds: int[S+1], starting at 0, strictly increasing.
        coefs: float[S, K], finite.

    Raises:
        InputError: a shape, the order of the bounds, or a coefficient is wrong.
    """
    edges = np.array(bounds, dtype=np.int64)
    rows = np.array(coefs, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or edges[0] != 0 or bool(np.any(np.diff(edges) <= 0)):
        raise InputError(
            "recipe bounds must start at 0 and increase strictly, with at least one segment; "
            f"got {edges[:8].tolist()}{'...' if edges.size > 8 else ''}"
        )
    if rows.ndim != 2 or rows.shape[0] != edges.size - 1 or rows.shape[1] < 1:
        raise InputError(
            f"recipe coefs must have shape (segments, sources) = ({edges.size - 1}, >= 1); "
            f"got {rows.shape}"
        )
    if not bool(np.isfinite(rows).all()):
        raise InputError("recipe coefs must be finite; got NaN or infinity")
    return canonical(edges, rows)


def canonical(edges: Int64, rows: Float64) -> Recipe:
    """A recipe from arrays that are known to be valid; neighbours with equal rows are joined.

    Args:
        edges: int64[S+1].
        rows: float64[S, K].
    """
    keep = np.ones(rows.shape[0], dtype=bool)
    np.any(rows[1:] != rows[:-1], axis=1, out=keep[1:])
    if not keep.all():
        edges = np.append(edges[:-1][keep], edges[-1])
        rows = rows[keep]
    # Adding 0.0 turns -0.0 into 0.0, so that equal recipes have equal bytes.
    return Recipe(np.ascontiguousarray(edges), np.ascontiguousarray(rows + 0.0))


def seed_recipe(size: int, index: int, count: int) -> Recipe:
    """The recipe of seed `index` of `count` itself, on a parameter axis of `size` positions."""
    if size < 1 or not 0 <= index < count:
        raise InputError(f"seed index must be in 0..{count - 1} and size positive; got {index}")
    row = np.zeros((1, count))
    row[0, index] = 1.0
    return Recipe(np.array([0, size], dtype=np.int64), row)


def compose(outer: Recipe, inner: Sequence[Recipe]) -> Recipe:
    """Substitute recipes into a recipe.

    Args:
        outer: over `len(inner)` sources (the parents).
        inner: what each of those sources is, all over the same K seeds and the same axis.

    Returns:
        A recipe over the K seeds.
    """
    if outer.sources != len(inner):
        raise InputError(f"expected {outer.sources} recipes to substitute; got {len(inner)}")
    if len({(part.size, part.sources) for part in inner} | {(outer.size, inner[0].sources)}) > 1:
        raise InputError(
            "recipes to be composed must share one parameter axis and one list of seeds"
        )
    edges = np.unique(np.concatenate([outer.bounds, *(part.bounds for part in inner)]))
    starts = edges[:-1]
    weights = outer.coefs[np.searchsorted(outer.bounds, starts, side="right") - 1]
    rows = np.zeros((starts.size, inner[0].sources))
    for index, part in enumerate(inner):
        at = np.searchsorted(part.bounds, starts, side="right") - 1
        rows += weights[:, index, None] * part.coefs[at]
    return canonical(edges, rows)


def express(outer: Recipe, sources: Sequence[Float32]) -> Float32:
    """Compute a recipe densely: the weights, in float32 (see the module's note on arithmetic).

    Args:
        outer: a recipe over `len(sources)` sources.
        sources: float32[D] each.

    Returns:
        float32[D].
    """
    if outer.sources != len(sources) or any(s.shape != (outer.size,) for s in sources):
        raise InputError(
            f"expected {outer.sources} vectors of {outer.size} values; "
            f"got shapes {[s.shape for s in sources]}"
        )
    out = np.zeros(outer.size, dtype=np.float32)
    coefs = outer.coefs.astype(np.float32)
    for segment, (start, stop) in enumerate(
        zip(outer.bounds[:-1].tolist(), outer.bounds[1:].tolist(), strict=True)
    ):
        first = True
        for index, source in enumerate(sources):
            coef = coefs[segment, index]
            if coef == 0:
                continue
            if first:
                np.multiply(source[start:stop], coef, out=out[start:stop])
                first = False
            else:
                out[start:stop] += source[start:stop] * coef
    return out


def breed(
    merge: Recipe, parents: Sequence[Genome], mutation: float, seed: int, step: int
) -> Genome:
    """Make a child from its parents; exact, so that it can be made again at any time.

    Args:
        merge: a recipe over the parents.
        parents: their genomes, all recipes or all vectors.
        mutation: standard deviation of the noise; 0 for recipes.
        seed, step: where the noise comes from.
    """
    recipes = [genome for genome in parents if isinstance(genome, Recipe)]
    if recipes:
        return compose(merge, recipes)
    dense = tuple(genome for genome in parents if isinstance(genome, Vector))
    return Vector(Origin(merge, dense, mutation, seed, step))


_MAGIC = {b"GPR1": Recipe, b"GPV1": Vector}


def encode(genome: Genome) -> bytes:
    """Serialise to bytes: little-endian, self-describing, no pickle; equal genomes, equal bytes."""
    if isinstance(genome, Recipe):
        head = struct.pack("<4sqq", b"GPR1", genome.coefs.shape[0], genome.coefs.shape[1])
        return head + genome.bounds.astype("<i8").tobytes() + genome.coefs.astype("<f8").tobytes()
    return struct.pack("<4sqq", b"GPV1", genome.size, 0) + genome.values.astype("<f4").tobytes()


def decode(data: bytes) -> Genome:
    """Inverse of `encode`.

    Raises:
        InputError: the bytes are not a genome, or are cut short.
    """
    head = struct.calcsize("<4sqq")
    if len(data) < head or data[:4] not in _MAGIC:
        raise InputError("these bytes are not a genome (unknown magic number)")
    _, first, second = struct.unpack_from("<4sqq", data)
    if data[:4] == b"GPV1":
        expected = head + 4 * first
    else:
        expected = head + 8 * (first + 1) + 8 * first * second
    if first < 1 or (second != 0 if data[:4] == b"GPV1" else second < 1):
        raise InputError(f"genome is damaged: its header gives the sizes {first} and {second}")
    if len(data) != expected:
        raise InputError(f"genome is damaged: expected {expected} bytes, got {len(data)}")
    if data[:4] == b"GPV1":
        return Vector(np.frombuffer(data, dtype="<f4", offset=head).astype(np.float32))
    edges = np.frombuffer(data, dtype="<i8", count=first + 1, offset=head)
    rows = np.frombuffer(data, dtype="<f8", offset=head + 8 * (first + 1))
    return recipe(edges, rows.reshape(first, second))


def digest(genome: Genome) -> str:
    """Hex digest of the content, 32 characters; equal models made equally have equal digests."""
    return hashlib.blake2b(encode(genome), digest_size=16).hexdigest()
