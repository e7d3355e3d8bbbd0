"""TIES and DARE: merges of task vectors that no linear recipe can say.

A task vector is what training changed: model - base (Ilharco et al. 2023). TIES (Yadav et al. 2023)
keeps the largest changes of each, elects a sign for every parameter by the larger total mass, and
averages the changes that agree with it. DARE (Yu et al. 2024) keeps changes at random and divides
what it keeps by the share that it keeps. Tensor by tensor, streamed: memory is a few megabytes per
thread, whatever the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from threading import Lock
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.family import Family
from genepool.checkpoints.files.dtypes import DTYPES, FLOATING
from genepool.checkpoints.layout import Slot
from genepool.checkpoints.naming import experts_within
from genepool.core.rng import generator
from genepool.errors import InputError
from genepool.materialise.cpu import Destination
from genepool.materialise.tensor_table import Sources, address_of, prepare_sources, require_finite
from genepool.output.methods.specification import Combined, Method, Options, weights_of
from genepool.output.write.weights import require_range

Int64 = NDArray[np.int64]
Name = Literal["ties", "dare-ties", "dare-linear"]
Equals = Literal["mixed", "first"]
NAMES: tuple[Name, ...] = get_args(Name)

_PER_STEP = 8  # 32-bit words that one step of the counter-based generator gives


@dataclass(frozen=True, slots=True)
class TaskVectors:
    """How K task vectors are merged.

    Attributes:
        method: "ties", "dare-ties", "dare-linear".
        weights: K numbers, one for each model.
        density: share of the elements of each task vector that is kept, in (0, 1]; one for all, or
            K of them.
        seed: the random seed of what DARE keeps, and of which of equal changes TIES keeps.
        normalise: divide by the sum of the weights (of those that agree, where signs are elected).
        scale: factor of the merged task vector (lambda in the papers).
        equals: which of changes of equal size TIES keeps where it cannot keep all: "mixed" chooses
            without regard to their place; "first", the first ones of the tensor, is what recipes
            say that were written before there was a choice.
    """

    method: Name
    weights: tuple[float, ...]
    density: float | tuple[float, ...]
    seed: int = 0
    normalise: bool = False
    scale: float = 1.0
    equals: Equals = "mixed"

    def __post_init__(self) -> None:
        if self.equals not in get_args(Equals):
            raise InputError(f"equals: expected mixed or first; got {self.equals!r}")
        several = self.density if isinstance(self.density, tuple) else (self.density,)
        for density in several:
            if not 0 < density <= 1:
                raise InputError(
                    f"density: expected a share of the parameters, above 0 and at most 1; "
                    f"got {density}"
                )
        if isinstance(self.density, tuple) and len(self.density) != len(self.weights):
            raise InputError(
                f"density: expected one for all models or {len(self.weights)}, one for each; "
                f"got {len(self.density)}"
            )
        if not self.weights or not all(map(math.isfinite, (*self.weights, self.scale))):
            raise InputError(
                f"weights and scale: expected finite numbers; got {self.weights}, {self.scale}"
            )

    @property
    def densities(self) -> tuple[float, ...]:
        """K numbers, one for each model."""
        density = self.density
        return density if isinstance(density, tuple) else (density,) * len(self.weights)

    @property
    def settings(self) -> dict[str, Any]:
        """For `genepool.json`; what was not written earlier stands there only where it decides."""
        out = {**asdict(self), "weights": [*self.weights]}
        if isinstance(self.density, tuple):
            out["density"] = [*self.density]
        if self.random or self.equals == "first":
            del out["equals"]
        return out

    @property
    def digest(self) -> str:
        """What stands for a genome, which there is none of; 32 hex digits."""
        text = json.dumps(self.settings, sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    def combine(self, family: Family, names: Sequence[str]) -> Combined:
        """As `Specification` says."""
        several = self.densities if isinstance(self.density, tuple) else (self.density,)
        shown = ", ".join(f"{weight:g}" for weight in self.weights)
        densities = ", ".join(f"{density:g}" for density in several)
        return Combined(
            _Merger(prepare_sources(family.checkpoints, family.layout), self).produce,
            self.settings,
            f"{self.method} with weights {shown}, density {densities}, relative to {names[-1]}",
            self.digest,
        )

    @property
    def elects(self) -> bool:
        """Whether a sign is elected for every parameter."""
        return self.method != "dare-linear"

    @property
    def random(self) -> bool:
        """Whether what is kept is drawn at random."""
        return self.method != "ties"


def _specify(name: Name, options: Options, models: int) -> TaskVectors:
    weights = weights_of(options, models)
    return TaskVectors(
        name,
        weights,
        _densities(options.density, models),
        0 if options.seed is None else options.seed,
        name == "ties" if options.normalise is None else options.normalise,
        1.0 if options.scale is None else options.scale,
    )


def _densities(given: float | Sequence[float] | None, models: int) -> float | tuple[float, ...]:
    """One number where all models have the same, so that equal merges have equal recipes."""
    if given is None:
        return 0.5
    several = tuple(float(density) for density in np.atleast_1d(given))
    same = len(several) == 1 or (len(several) == models and len(set(several)) == 1)
    return several[0] if same else several


def _read(content: Mapping[str, Any], seeds: int) -> TaskVectors:
    density: Any = content["density"]
    how = TaskVectors(
        content["method"],
        tuple(float(weight) for weight in content["weights"]),
        tuple(float(each) for each in cast("list[Any]", density))
        if isinstance(density, list)
        else float(density),
        int(content.get("seed", 0)),
        content["normalise"] is True,
        float(content["scale"]),
        content.get("equals", "first") if content["method"] == "ties" else "mixed",
    )
    if len(how.weights) != seeds - 1:
        raise ValueError(f"{len(how.weights)} weights for {seeds - 1} models and a base")
    if how.digest != content["genome"]:
        raise ValueError("its digest is another")
    return how


_TAKES = ("base", "weights", "density", "normalise", "scale", "seed")

METHODS = tuple(Method(name, _TAKES, partial(_specify, name), _read) for name in NAMES)


def kept(total: int, density: float) -> int:
    """Number of elements that TIES keeps of `total`; at least one."""
    return max(1, int(density * total))


def words(seed: int, tensor: int, model: int, start: int, count: int) -> NDArray[np.uint32]:
    """What DARE decides by: word i keeps element start + i where it is below density * 2**32.

    Word j of a tensor is word j of the counter-based generator for (seed, tensor, model), so that
    any piece can be drawn on its own.
    """
    skipped = start % _PER_STEP
    bits = cast(np.random.Philox, generator(seed, tensor, model).bit_generator)
    bits.advance(start // _PER_STEP)
    raw = bits.random_raw((skipped + count + 1) // 2).astype("<u8", copy=False)
    return raw.view("<u4")[skipped : skipped + count]


@dataclass(frozen=True, slots=True)
class _Trim:
    """What TIES keeps of one unit of one model.

    Attributes:
        threshold: the k-th largest magnitude as the 31 bits of a float32.
        last: the highest rank of elements of that magnitude that are kept.
        key: of the ranks.
    """

    threshold: int
    last: int
    key: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """Elements of a tensor that are trimmed together: all of them, or those of one expert."""

    tensor: int
    start: int
    size: int

    @property
    def width(self) -> int:
        """Bits that number the elements."""
        return max(2, (self.size - 1).bit_length())


class _Merger:
    """Computes pieces; thresholds are found once per unit and model, when first needed."""

    def __init__(self, sources: Sources, settings: TaskVectors) -> None:
        self._sources = sources
        self._settings = settings
        # A model of density 1 keeps everything, whatever the others do.
        self._trimmed = [k for k, density in enumerate(settings.densities) if density < 1]
        self._sizes = [self._unit_size(slot) for slot in sources.layout.slots]
        self._locks: dict[tuple[_Unit, int], Lock] = {}
        self._trims: dict[tuple[_Unit, int], _Trim] = {}
        self._weights = np.array(settings.weights, dtype=np.float64)

    def produce(self, tensor: int, start: int, stop: int, out: Destination) -> None:
        """Elements start..stop of a tensor into the beginning of `out`."""
        size = self._sizes[tensor]
        for first in range(start - start % size, stop, size):
            begin, end = max(start, first), min(stop, first + size)
            piece = Destination(out.dtype, out.raw[begin - start : end - start])
            self._produce(_Unit(tensor, first, size), begin - first, end - first, piece)

    def _unit_size(self, slot: Slot) -> int:
        """Elements that are trimmed together."""
        size = slot.stop - slot.start
        whole = self._settings.random or self._settings.equals == "first"
        return size if whole else size // experts_within(slot.name, slot.shape)

    def _produce(self, unit: _Unit, start: int, stop: int, out: Destination) -> None:
        from genepool.output.methods import task_vector_kernels as kernels

        settings, tensor = self._settings, unit.tensor
        codes = self._sources.codes[tensor]
        addresses = self._addresses(unit)
        models = len(settings.weights)
        thresholds = np.full(models, -1, dtype=np.int64)
        last = np.zeros(models, dtype=np.int64)
        keys = np.zeros(models, dtype=np.uint64)
        drawn = np.empty((models, 0), dtype=np.uint32)
        limits = np.full(models, 2**32, dtype=np.int64)
        rescales = np.ones(models, dtype=np.float64)
        trim = kernels.EVERYTHING
        if self._trimmed and settings.random:
            trim = kernels.RANDOM
            drawn = np.zeros((models, stop - start), dtype=np.uint32)
            for k in self._trimmed:
                rescales[k] = 1.0 / settings.densities[k]
                limits[k] = round(settings.densities[k] * 2**32)
                drawn[k] = words(settings.seed, tensor, k, start, stop - start)
        elif self._trimmed:
            trim = kernels.LARGEST
            self._prepare(unit)
            for k in self._trimmed:
                found = self._trims[unit, k]
                thresholds[k], last[k], keys[k] = found.threshold, found.last, found.key
        broken = kernels.combine(
            int(addresses[-1]),
            int(codes[-1]),
            np.ascontiguousarray(addresses[:-1]),
            np.ascontiguousarray(codes[:-1]),
            start,
            stop,
            self._weights,
            trim,
            thresholds,
            last,
            unit.width,
            keys,
            settings.equals == "mixed",
            drawn,
            limits,
            rescales,
            settings.elects,
            settings.normalise,
            settings.scale,
            address_of(out.raw),
            FLOATING.index(out.dtype),
        )
        name = self._sources.layout.slots[tensor].name
        if broken:
            begin = unit.start + start
            require_finite(self._sources.checkpoints, name, begin, begin + stop - start)
        require_range(name, out)

    def _prepare(self, unit: _Unit) -> None:
        """Find the thresholds of a unit; threads share the models among them."""
        pending = [key for k in self._trimmed if (key := (unit, k)) not in self._trims]
        for blocking in (False, True):
            for key in pending:
                lock = self._locks.setdefault(key, Lock())
                if key not in self._trims and lock.acquire(blocking):
                    try:
                        if key not in self._trims:
                            self._trims[key] = self._find(*key)
                    finally:
                        lock.release()

    def _find(self, unit: _Unit, model: int) -> _Trim:
        from genepool.output.methods import task_vector_kernels as kernels

        addresses, codes = self._addresses(unit), self._sources.codes[unit.tensor]
        where = int(addresses[-1]), int(codes[-1]), int(addresses[model]), int(codes[model])
        counts = np.zeros(2**16, dtype=np.int64)
        content = kernels.count_magnitudes(*where, 0, unit.size, -1, counts)
        high, wanted = _from_above(counts, kept(unit.size, self._settings.densities[model]))
        counts[:] = 0
        kernels.count_magnitudes(*where, 0, unit.size, high, counts)
        low, wanted = _from_above(counts, wanted)
        threshold = high << 15 | low
        if wanted == counts[low]:
            return _Trim(threshold, 2**63 - 1, 0)
        # From what is merged, and not from its name and place: the same however it is stored.
        text = f"{self._settings.seed} {int(content)}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        shift = max(0, unit.width - 16)
        ranks = (unit.size, threshold, unit.width, np.uint64(key), self._settings.equals == "mixed")
        counts[:] = 0
        kernels.rank_equals(*where, *ranks, shift, -1, counts)
        below = np.cumsum(counts)
        part = int(np.searchsorted(below, wanted))
        wanted -= int(below[part - 1]) if part else 0
        equals = np.empty(counts[part], dtype=np.int64)
        kernels.rank_equals(*where, *ranks, shift, part, equals)
        return _Trim(threshold, int(np.partition(equals, wanted - 1)[wanted - 1]), key)

    def _addresses(self, unit: _Unit) -> Int64:
        """Of the unit's first element in each source, int64[K+1]."""
        sizes = np.array([DTYPES[FLOATING[code]].size for code in self._sources.codes[unit.tensor]])
        return self._sources.addresses[unit.tensor] + unit.start * sizes


def _from_above(counts: Int64, wanted: int) -> tuple[int, int]:
    """The bin that holds the wanted-th element from above, and how many it must give."""
    above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(above, wanted))
    return counts.size - 1 - index, wanted - (int(above[index - 1]) if index else 0)
