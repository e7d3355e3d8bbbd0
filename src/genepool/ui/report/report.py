"""The report of a pool: what is known about it, and the page that shows it.

Everything on the page comes from one JSON document, which the page carries for download.
"""

from __future__ import annotations

import json
import platform
import re
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from genepool.core.genome import Genome, Recipe, decode
from genepool.core.shares import seed_shares, shares_between
from genepool.output.own_files import REPORT, require_replaceable, write_own
from genepool.pool.history import History, history
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.pool.records import Record
from genepool.pool.score_matrix import ScoreMatrix, score_matrix
from genepool.ui.report.page import page

# Merges that are followed back from the champion.
_GENERATIONS = 3
# Stripes of the champion's genome, and parts of layers, at most.
_STRIPES, _PARTS = 240, 600
# Parts of a layer, and what stands in the names of their tensors.
_WORDS = (
    ("embeddings", r"(?i)embed|\bw[tp]e\b|lm_head"),
    ("attention", r"(?i)attn|attention"),
    ("MLP", r"(?i)mlp|ffn|feed_?forward|experts|\bmoe\b|intermediate|\bfc\d|dense_h"),
)
# Members of the archive whose genomes are shown, stripes of each, and areas of all of them.
_MEMBERS, _LEAST_STRIPES, _MOST_STRIPES, _AREAS = 30, 24, 120, 24_000
# A part of the document that is larger than this is left out of it, and named.
_PART_BYTES = 350_000


def write_report(pool: Pool, file: Path, *, overwrite: bool = True) -> None:
    """Write a pool's report as one page of HTML that needs nothing else.

    The page holds no script and asks for nothing from the network.

    Args:
        pool: with at least one seed scored.
        file: where to; its directory is there.
        overwrite: whether a report that is there is replaced.

    Raises:
        InputError: nothing has been scored yet, or the file is no report of genepool's.
        GenepoolError: the file cannot be written.
    """
    require_replaceable(file, REPORT, overwrite=overwrite)
    with pool.snapshot():
        past = history(pool)
        scores = score_matrix(pool)
        made = page(facts(pool, past, scores), scores, pool.pictures(), pool.transcripts())
    write_own(file, made.encode("utf-8"), REPORT)


def facts(pool: Pool, past: History, scores: ScoreMatrix) -> dict[str, Any]:
    """What the page shows, and what it offers for download (see docs/cli.md).

    Args:
        pool: with at least one seed scored.
        past: of `history`.
        scores: of `score_matrix`.
    """
    status, meta = pool.status(), pool.meta()
    champion = pool.champion()
    found: dict[str, Any] = {
        "name": pool.path.absolute().name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": {
            "genepool": version("genepool"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "system": platform.system(),
            "machine": platform.machine(),
        },
        "status": status,
        "seeds": [
            {"name": seed.name, "path": seed.path, "digest": seed.digest} for seed in pool.seeds()
        ],
        "tasks": [
            {
                "name": task.name,
                "examples": task.examples,
                "held_out": task.held_out,
                "weight": task.weight,
                "binary": task.binary,
                "digest": task.digest,
            }
            for task in pool.tasks()
        ],
        "models": _models(status, champion),
        "history": _history(past),
        "champion": None if champion is None else describe(pool, champion),
        "tree": None if champion is None else _tree(pool, champion),
        "genomes": _genomes(pool, champion, scores),
        "config": meta["config"],
    }
    recipe: dict[str, Any] | str | None = None
    if champion is not None:
        genome = pool.genome(champion)
        recipe = "dense"
        if isinstance(genome, Recipe):
            recipe = {"bounds": genome.bounds.tolist(), "coefs": genome.coefs.tolist()}
    for key, value in (("scores", _scores(scores)), ("recipe", recipe)):
        found[key] = value if len(json.dumps(value)) <= _PART_BYTES else None
    found["left_out"] = [key for key in ("scores", "recipe") if found[key] is None]
    return found


def _models(status: dict[str, Any], champion: int | None) -> list[dict[str, Any]]:
    """Seeds and champion, task by task."""
    rows: list[dict[str, Any]] = []
    for number, seed in enumerate(status["seeds"]):
        if seed["train"] is not None:
            rows.append({"kind": "seed", "member": number, **seed})
    if champion is not None:
        best = status["champion"]
        rows.append(
            {
                "kind": "champion",
                "member": champion,
                "name": "champion",
                "train": best["train"],
                "held_out": best["held_out"],
                "tasks": best["tasks"],
                "measures": best["measures"],
            }
        )
    return rows


def _history(past: History) -> dict[str, list[Any]]:
    known = [None if np.isnan(value) else round(value, 6) for value in past.held_out.tolist()]
    return {
        "evaluations": past.evaluations.tolist(),
        "accepted": past.accepted.tolist(),
        "train": past.train.round(6).tolist(),
        "held_out": known,
        "coverage": past.coverage.round(6).tolist(),
        "entropy": past.entropy.round(6).tolist(),
    }


def _tree(pool: Pool, champion: int) -> dict[str, Any]:
    """The champion, its parents, theirs, and so on for `_GENERATIONS`; each merge is told once."""
    names = [seed.name for seed in pool.seeds()]
    held_out = pool.held_out()
    told: set[int] = set()

    def node(member: int, left: int) -> dict[str, Any]:
        record = pool.record(member)
        again, seed = member in told, record.step == 0
        told.add(member)
        out: dict[str, Any] = {
            "member": member,
            "name": names[member] if seed else None,
            "train": record.train,
            "held_out": held_out.get(member),
            "told_before": again and not seed,
            "goes_on": left == 0 and not seed,
        }
        if not (seed or again or left == 0):
            out |= _merge(record)
            out["parents"] = [node(parent, left - 1) for parent in dict.fromkeys(record.parents)]
        return out

    return node(champion, _GENERATIONS)


def _merge(record: Record) -> dict[str, Any]:
    """How a child was made: what came of which parent, and where along the parameter axis."""
    merge = None if record.merge is None else decode(record.merge)
    out: dict[str, Any] = {"mutation": record.mutation, "took": None, "pieces": None}
    if isinstance(merge, Recipe):
        shares = seed_shares(merge)[0].tolist()
        took: dict[int, float] = {}
        for parent, share in zip(record.parents, shares, strict=True):
            took[parent] = took.get(parent, 0.0) + share
        out["took"] = [{"member": parent, "share": share} for parent, share in took.items()]
        # Where the coefficients change, as fractions of the axis.
        out["pieces"] = [bound / merge.size for bound in merge.bounds[1:-1][:20].tolist()]
    return out


def _genomes(pool: Pool, champion: int | None, scores: ScoreMatrix) -> dict[str, Any]:
    """What champion and archive are made of."""
    genome = None if champion is None else pool.genome(champion)
    out: dict[str, Any] = {
        "kind": pool.meta()["kind"],
        "champion": None,
        "members": [],
        "layers": [],
    }
    if genome is None:
        return out
    out["layers"] = _layers(pool, genome)
    if isinstance(genome, Recipe):
        out["champion"] = seed_shares(genome, _STRIPES).round(4).tolist()
        shown = scores.members[:_MEMBERS]
        bins = _AREAS // max(1, len(shown) * genome.sources)
        bins = min(max(bins, _LEAST_STRIPES), _MOST_STRIPES)
        for member, one in pool.genomes(shown).items():
            if isinstance(one, Recipe):
                stripes = seed_shares(one, bins).round(3).tolist()
                total = seed_shares(one)[0].tolist()
                out["members"].append(
                    {
                        "member": member,
                        "segments": len(one.coefs),
                        "shares": total,
                        "stripes": stripes,
                    }
                )
    return out


def _layers(pool: Pool, genome: Genome) -> list[dict[str, Any]]:
    """What each part of each layer is made of: shares of the seeds, or the mean size of weights."""
    tensors = pool.header.tensors or (("all weights", 0),)
    edges = np.array([*(start for _, start in tensors), genome.size], dtype=np.int64)
    sizes = np.diff(edges)
    if isinstance(genome, Recipe):
        values = shares_between(genome, edges) * sizes[:, None]
    else:
        values = np.add.reduceat(np.abs(genome.values, dtype=np.float64), edges[:-1])
    found: dict[tuple[str, str], list[int]] = {}
    for index, (name, _) in enumerate(tensors):
        found.setdefault(place(name), []).append(index)
    out: list[dict[str, Any]] = []
    for (layer, part), indices in list(found.items())[:_PARTS]:
        weights = int(sizes[indices].sum())
        value = (values[indices].sum(axis=0) / weights).round(6).tolist()
        out.append({"name": layer, "part": part, "weights": weights, "value": value})
    return out


def place(tensor: str) -> tuple[str, str]:
    """The layer of a tensor and the part of it, by its name; outside of layers, itself."""
    layer = re.match(r"(?:[^.]+\.)*?\d+(?=\.)", tensor)
    inside = tensor if layer is None else tensor[layer.end() :]
    part = next((name for name, words in _WORDS if re.search(words, inside)), "other")
    return (tensor if layer is None else layer[0]), part


def _scores(scores: ScoreMatrix) -> dict[str, Any]:
    def row(values: np.ndarray[Any, np.dtype[np.float32]]) -> list[float | int]:
        plain: list[float] = values.round(4).astype(np.float64).round(4).tolist()
        return [int(value) if value == int(value) else value for value in plain]

    return {
        "seeds": [row(values) for values in scores.seeds],
        "members": list(scores.members),
        "archive": [row(values) for values in scores.archive],
    }
