"""Pieces of HTML that several sections of a report are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from genepool.ui.report.graphics import colour, text


def table(caption: str, columns: Sequence[str], body: str, style: str = "") -> str:
    """Columns whose name starts with `#` hold numbers."""
    heads = "".join(
        f'<th scope="col" class="n">{name[1:]}</th>'
        if name.startswith("#")
        else f'<th scope="col">{name}</th>'
        for name in columns
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{caption}">'
        f'<table class="{style}"><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead>{body}</table></div>"
    )


def pairs(caption: str, rows: Iterable[tuple[str, object]], style: str = "pairs") -> str:
    body = "".join(
        f'<tr><th scope="row">{text(key)}</th><td>{text(value)}</td></tr>' for key, value in rows
    )
    heads = ("what", "#value" if "counts" in style else "value")
    return table(caption, heads, f"<tbody>{body}</tbody>", style)


def swatch(facts: dict[str, Any], seed: int) -> str:
    name = text(facts["seeds"][seed]["name"])
    return f'<span class="name"><i class="swatch {colour(seed)}"></i>{name}</span>'
