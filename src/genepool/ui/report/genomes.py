"""The section of a report that shows what champion and archive are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genepool.ui.report.graphics import bar, mix, stripes, text
from genepool.ui.report.parts import swatch, table
from genepool.ui.terminal.console import count, number, percent

# Seeds that get a column of their own.
_SEED_COLUMNS = 4


def made_of(facts: dict[str, Any]) -> str:
    champion, genomes = facts["champion"], facts["genomes"]
    if champion is None:
        return "<p>There is no champion yet.</p>"
    if genomes["champion"] is None:
        return _dense(genomes, champion["genome"]["size"])
    names = [seed["name"] for seed in facts["seeds"]]
    shares: list[float] = list(champion["genome"]["shares"].values())
    said = ", ".join(f"{name} {percent(share)}" for name, share in zip(names, shares, strict=True))
    legend = "".join(
        f"<li>{swatch(facts, index)} <b>{percent(share)}</b></li>"
        for index, share in enumerate(shares)
    )
    segments = count(champion["genome"]["segments"], "segment")
    size = number(champion["genome"]["size"])
    drawn = stripes(genomes["champion"], f"Genome of the champion along the axis: {said}")
    out = (
        f"<p>The champion is a recipe of {segments} over {size} parameters. Its stripes run from "
        "the first layer, at the left, to the last; their heights are the shares of the seeds, "
        "by the size of their coefficients, stacked in the order of the legend from below.</p>"
        f'<figure class="made">{drawn}<div class="along" aria-hidden="true">'
        "<span>first layer</span><span>last layer</span></div>"
        f'<ul class="legend">{legend}</ul></figure>'
    )
    return out + _by_tensor(facts) + _archive_genomes(facts)


def _dense(genomes: dict[str, Any], size: int) -> str:
    top = max((tensor["value"] for tensor in genomes["tensors"]), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row" class="path">{text(tensor["name"])}</th>'
        f'<td class="n">{number(tensor["stop"] - tensor["start"])}</td>'
        f'<td class="n">{bar(tensor["value"] / top, "s0")}<span>{tensor["value"]:.4g}</span></td>'
        "</tr>"
        for tensor in genomes["tensors"]
    )
    return (
        f"<p>The genomes are dense, {number(size)} weights each: mutation has added noise, so that "
        "no stretch of them comes from one seed, and there are no stripes to draw.</p>"
        + table(
            "Mean size of the champion’s weights",
            ("tensor", "#weights", "#mean |weight|"),
            f"<tbody>{rows}</tbody>",
            "sizes",
        )
    )


def _by_tensor(facts: dict[str, Any]) -> str:
    rows: list[str] = []
    for tensor in facts["genomes"]["tensors"]:
        cells = _share_cells(facts, tensor["value"])
        picture = mix(tensor["value"])
        rows.append(
            f'<tr><th scope="row" class="path">{text(tensor["name"])}</th>'
            f'<td class="n">{number(tensor["stop"] - tensor["start"])}</td>{cells}'
            f'<td class="mix">{picture}</td></tr>'
        )
    columns = ("tensor", "#weights", *_share_columns(facts), "mix")
    return table(
        "The champion, layer by layer", columns, f"<tbody>{''.join(rows)}</tbody>", "mixes"
    )


def _archive_genomes(facts: dict[str, Any]) -> str:
    rows = [
        f'<tr><th scope="row">{entry["member"]}</th>'
        f'<td class="n">{number(entry["segments"])}</td>'
        f"{_share_cells(facts, entry['shares'])}"
        f'<td class="mix">{stripes(entry["stripes"], None)}</td></tr>'
        for entry in facts["genomes"]["members"]
    ]
    columns = ("member", "#segments", *_share_columns(facts), "along the axis")
    total, shown = len(facts["status"]["archive"]), len(rows)
    some = "" if shown == total else f" (the best {shown} of {number(total)})"
    caption = f"Genomes of the archive, best first{some}"
    return table(caption, columns, f"<tbody>{''.join(rows)}</tbody>", "mixes")


def _share_columns(facts: dict[str, Any]) -> list[str]:
    if len(facts["seeds"]) > _SEED_COLUMNS:
        return ["mostly"]
    return [f"#{swatch(facts, index)}" for index in range(len(facts["seeds"]))]


def _share_cells(facts: dict[str, Any], shares: Sequence[float]) -> str:
    if len(shares) > _SEED_COLUMNS:
        most = int(np.argmax(shares))
        return f"<td>{swatch(facts, most)} {percent(shares[most])}</td>"
    return "".join(f'<td class="n">{percent(share)}</td>' for share in shares)
