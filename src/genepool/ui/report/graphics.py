"""What the report draws: the geometry of curves, strips and stripes; the templates write the SVG.

Lines and areas stretch with the page; all words stay HTML, so that they keep their size on a phone.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.messages import children
from genepool.messages import percent as in_percent
from genepool.ui.terminal.console import number

# The colours of the seeds, the same in every picture, and of nothing else. Okabe, Ito 2008: told
# apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
# Of examples that are solved: no seed's colour, and visible on the light and on the dark page.
SOLVED = (0x6E, 0x78, 0x84)
# Numbers of children beside an axis, at most, apart from the first and the last.
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Line:
    """A curve of values in [0, 1], to be drawn.

    Attributes:
        label: as the legend calls it.
        values: as many as the chart has points, None where not known, or one for a level line.
        style: class in the style sheet.
    """

    label: str
    values: Sequence[float | None]
    style: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A curve as the template draws it: `d` is a path, or with `dot` a single point of it."""

    label: str
    last: str
    style: str
    d: str
    dot: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over the number of children; places are in per cent of the width or height.

    Attributes:
        title, heard: above it, and what a reader of the screen hears.
        marks: place and word beside the axis of values.
        grid: height of each mark in the drawing.
        children: place and word below the axis of children.
        lines: the curves.
    """

    title: str
    heard: str
    marks: tuple[tuple[str, str], ...]
    grid: tuple[str, ...]
    children: tuple[tuple[str, str], ...]
    lines: tuple[Drawn, ...]


def chart(title: str, x: Sequence[int], lines: Sequence[Line], *, percent: bool) -> Chart:
    """Place curves over one axis.

    Between two points a value is that of the earlier one: what a child changes is changed when the
    child is scored. A curve that is not known everywhere is drawn as its last known point alone.

    Args:
        title: what a reader of the screen hears first.
        x: T numbers of children, increasing from 0.
        lines: at least one.
        percent: the values are shares, to be written in per cent; else as they are.
    """
    known = [v for line in lines for v in line.values if v is not None]
    low, high, step = _scale(min(known), max(known)) if percent else (0.0, 1.0, 0.25)
    end = max(int(x[-1]), 1)

    def place(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}"

    def height(value: float) -> str:
        return f"{300 - 300 * (value - low) / (high - low):.1f}"

    def drawn(line: Line) -> Drawn:
        points = [(at, value) for at, value in zip(x, line.values, strict=False)]
        if len(line.values) == 1:
            points = [(0, line.values[0])]
        there = [(at, value) for at, value in points if value is not None]
        if not there:
            return Drawn(line.label, "not measured", line.style, "", False)
        last = in_percent(there[-1][1]) if percent else f"{there[-1][1]:.2f}"
        if len(there) < len(points):
            at, value = there[-1]
            d = f"M{1000 * at / end:.1f} {height(value)}h.01"
            return Drawn(line.label, last, line.style, d, True)
        d = f"M0 {height(there[0][1])}"
        for (_, before), (at, value) in pairwise(there):
            if value != before:
                d += f"H{1000 * at / end:.1f}V{height(value)}"
        return Drawn(line.label, last, line.style, f"{d}H1000", False)

    marks = [low + i * step for i in range(round((high - low) / step) + 1)]
    found = tuple(drawn(line) for line in lines)
    summary = "; ".join(f"{line.label}: {line.last}" for line in found)
    return Chart(
        title,
        f"{title}, over {children(end)}. In the end {summary}.",
        tuple((place(m), f"{100 * m:.0f} %" if percent else f"{m:.2f}") for m in marks),
        tuple(height(m) for m in marks),
        tuple((f"{100 * tick / end:.2f}", number(tick)) for tick in _whole(end)),
        found,
    )


def _whole(end: int) -> list[int]:
    """Round numbers of children from 0 to `end`, which is the last of them."""
    sizes = (size * 10**power for power in range(19) for size in (1, 2, 5))
    step = next(size for size in sizes if end / size <= _TICKS)
    return [tick for tick in range(0, end, step) if end - tick > 0.12 * end] + [end]


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round limits around values in [0, 1], and the step between marks."""
    span = max(high - low, 0.02)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if span / s <= 5 or s == 0.25)
    start = np.floor(low / step + 1e-9) * step
    stop = np.ceil(high / step - 1e-9) * step
    return float(start), float(max(stop, start + step)), step


@dataclass(frozen=True, slots=True)
class Strip:
    """One model's scores side by side, dark where it solves them.

    Attributes:
        examples: how many there are.
        said: what the picture says, in words.
        source: of the picture, as a data URI.
        coarse: so few examples that the browser must not smooth the picture.
    """

    examples: int
    said: str
    source: str
    coarse: bool


def strip(scores: NDArray[np.float32], examples: int, said: str) -> Strip:
    """Draw float32[C] scores in [0, 1], one pixel each."""
    levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    data = base64.b64encode(_png(levels)).decode("ascii")
    return Strip(examples, said, f"data:image/png;base64,{data}", levels.size < 400)


def _png(levels: NDArray[np.uint8]) -> bytes:
    """One row of pixels of one colour, as opaque as the levels say."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", levels.size, 1, 8, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", bytes(SOLVED) * 256),
            chunk(b"tRNS", bytes(range(256))),
            chunk(b"IDAT", zlib.compress(b"\0" + levels.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )


@dataclass(frozen=True, slots=True)
class Stripes:
    """A genome along the parameter axis: `areas` are a seed's number and the path of its area."""

    bins: int
    areas: tuple[tuple[int, str], ...]


def stripes(shares: Sequence[Sequence[float]]) -> Stripes:
    """Stack the shares of the seeds, the first at the bottom: B rows of K shares."""
    table = np.asarray(shares, dtype=np.float64)
    tops = np.minimum(np.cumsum(table, axis=1), 1.0)
    below = np.concatenate([np.zeros((len(table), 1)), tops[:, :-1]], axis=1)
    areas = [(seed, _area(below[:, seed], tops[:, seed])) for seed in range(table.shape[1])]
    return Stripes(len(table), tuple((seed, d) for seed, d in areas if d))


def _area(below: NDArray[np.float64], above: NDArray[np.float64]) -> str:
    """The steps between two heights; stretches without any are left out."""
    low, high = np.rint(100 - 100 * below).astype(int), np.rint(100 - 100 * above).astype(int)
    changes = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0)) + 1
    edges = [0, *changes.tolist(), len(low)]
    return "".join(
        f"M{start} {low[start]}V{high[start]}H{stop}V{low[start]}z"
        for start, stop in pairwise(edges)
        if low[start] != high[start]
    )
