"""What the report draws: curves, bars, strips and stripes, as pieces of HTML and inline SVG.

Lines and areas stretch with the page; all words stay HTML, so that they keep their size on a phone.
Every graphic that tells something has its text; those beside the same number are hidden from
readers of the screen.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from genepool.ui.colours import COLOURS
from genepool.ui.terminal.console import number, plain

# Stands out from white and from the dark page alike.
_SOLVED = (0x2A, 0x85, 0xC4)


def text(value: object) -> str:
    """As it may stand in HTML, in text and in attributes; control characters are shown escaped."""
    return html.escape(plain(value), quote=True)


def colour(seed: int) -> str:
    """The class that paints in the colour of a seed."""
    return f"s{seed % len(COLOURS)}"


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: its name, its values (None where not known), and how it is drawn.

    Attributes:
        label: as the legend calls it.
        values: as many as the chart has points, or one for a level line.
        style: class in the style sheet; each has a pattern of dashes of its own.
    """

    label: str
    values: Sequence[float | None]
    style: str


def chart(title: str, x: Sequence[float], lines: Sequence[Line], *, percent: bool) -> str:
    """Curves over one axis, with a legend that gives the last values.

    Args:
        title: what a reader of the screen hears first.
        x: T positions, increasing from 0.
        lines: at least one.
        percent: the values are shares, to be written in per cent; else as they are.
    """
    known = [v for line in lines for v in line.values if v is not None]
    low, high, step = _scale(min(known), max(known)) if percent else (0.0, 1.0, 0.25)
    end = max(float(x[-1]), 1.0)

    def word(value: float) -> str:
        return f"{100 * value:.0f} %" if percent else f"{value:.2f}"

    marks = [low + i * step for i in range(round((high - low) / step) + 1)]
    grid = "".join(
        f'<line class="grid" x1="0" x2="1000" y1="{_y(m, low, high)}" y2="{_y(m, low, high)}"/>'
        for m in marks
    )
    paths = "".join(_path(x, line, end, low, high) for line in lines)
    ticks = "".join(
        f'<span style="bottom:{100 * (m - low) / (high - low):.2f}%">{word(m)}</span>'
        for m in marks
    )
    summary: list[str] = []
    legend: list[str] = []
    for line in lines:
        last = next((v for v in reversed(line.values) if v is not None), None)
        shown = "not measured" if last is None else _exact(last, percent)
        key = f'<svg viewBox="0 0 32 8" aria-hidden="true"><path class="{line.style}" d="M0 4H32"/>'
        legend.append(f"<li>{key}</svg>{text(line.label)} <b>{shown}</b></li>")
        summary.append(f"{line.label}: {shown}")
    heard = f"{title}, over {number(end)} children. In the end {'; '.join(summary)}."
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<div class="plot"><div class="ticks" aria-hidden="true">{ticks}</div>'
        f'<svg role="img" aria-label="{text(heard)}" viewBox="0 0 1000 300" '
        f'preserveAspectRatio="none">{grid}{paths}</svg></div>'
        f'<div class="along" aria-hidden="true"><span>0</span><span>{number(end / 2)}</span>'
        f"<span>{number(end)}</span></div>"
        f'<p class="axis" aria-hidden="true">children scored</p>'
        f'<ul class="legend">{"".join(legend)}</ul></figure>'
    )


def _exact(value: float, percent: bool) -> str:
    return f"{100 * value:.1f} %" if percent else f"{value:.2f}"


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round limits around values in [0, 1], and the step between marks."""
    span = max(high - low, 0.02)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if span / s <= 5 or s == 0.25)
    start = np.floor(low / step + 1e-9) * step
    stop = np.ceil(high / step - 1e-9) * step
    return float(start), float(max(stop, start + step)), step


def _y(value: float, low: float, high: float) -> str:
    return f"{300 - 300 * (value - low) / (high - low):.1f}"


def _path(x: Sequence[float], line: Line, end: float, low: float, high: float) -> str:
    if len(line.values) == 1:
        level = line.values[0]
        points = [] if level is None else [("M", 0.0, level), ("L", end, level)]
    else:
        points: list[tuple[str, float, float]] = []
        pen = "M"
        for at, value in zip(x, line.values, strict=True):
            if value is None:
                pen = "M"
                continue
            points.append((pen, at, value))
            pen = "L"
    d = "".join(f"{pen}{1000 * at / end:.1f} {_y(v, low, high)}" for pen, at, v in points)
    return f'<path class="{line.style}" d="{d}"/>'


def bar(value: float | None, style: str) -> str:
    """A bar from 0 to 1 beside the number that says the same."""
    width = 0.0 if value is None else 100 * min(max(value, 0.0), 1.0)
    return (
        f'<span class="bar" aria-hidden="true"><i class="{style}" '
        f'style="width:{width:.2f}%"></i></span>'
    )


def mix(shares: Sequence[float]) -> str:
    """Shares of the seeds, side by side, beside the numbers that say the same."""
    parts = "".join(
        f'<i class="{colour(seed)}" style="width:{100 * share:.2f}%"></i>'
        for seed, share in enumerate(shares)
    )
    return f'<span class="shares" aria-hidden="true">{parts}</span>'


def strip(scores: NDArray[np.float32], alternative: str) -> str:
    """One model's scores side by side, dark where it solves them.

    Args:
        scores: float32[C], in [0, 1].
        alternative: what the picture says, in words.
    """
    levels = np.rint(np.clip(scores, 0, 1) * 255).astype(np.uint8)
    coarse = ' class="coarse"' if levels.size < 400 else ""
    data = base64.b64encode(_png(levels)).decode("ascii")
    return f'<img{coarse} alt="{text(alternative)}" src="data:image/png;base64,{data}">'


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
            chunk(b"PLTE", bytes(_SOLVED) * 256),
            chunk(b"tRNS", bytes(range(256))),
            chunk(b"IDAT", zlib.compress(b"\0" + levels.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )


def stripes(shares: Sequence[Sequence[float]], label: str | None) -> str:
    """A genome along the axis, the shares of the seeds stacked from the first at the bottom.

    Args:
        shares: B rows of K shares.
        label: what the picture says, in words; None where the words stand beside it.
    """
    table = np.asarray(shares, dtype=np.float64)
    bins = table.shape[0]
    tops = np.minimum(np.cumsum(table, axis=1), 1.0)
    below = np.zeros(bins)
    parts: list[str] = []
    for seed in range(table.shape[1]):
        parts.append(_area(below, tops[:, seed], colour(seed)))
        below = tops[:, seed]
    heard = 'aria-hidden="true"' if label is None else f'role="img" aria-label="{text(label)}"'
    return (
        f'<svg class="stripes" {heard} viewBox="0 0 {bins} 100" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg>'
    )


def _area(below: NDArray[np.float64], above: NDArray[np.float64], style: str) -> str:
    """The steps between two heights; stretches without any are left out."""
    low, high = np.rint(100 - 100 * below).astype(int), np.rint(100 - 100 * above).astype(int)
    changes = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0)) + 1
    edges = [0, *changes.tolist(), len(low)]
    d = "".join(
        f"M{start} {low[start]}V{high[start]}H{stop}V{low[start]}z"
        for start, stop in pairwise(edges)
        if low[start] != high[start]
    )
    return f'<path class="{style}" d="{d}"/>' if d else ""
