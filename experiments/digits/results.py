"""What came of the runs, beside the reference's numbers and the paper's: as data and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from genepool.errors import GenepoolError
from genepool.pool.reader import Pool
from genepool.study.compare import read_curve
from genepool.study.comparison import Curve
from genepool.study.significance import evaluations_to_reach, holm, sign_flip_test

Curves = dict[str, dict[str, dict[int, Curve]]]
# Of the 201 evenly spaced points of a curve, those that are kept: roughly even on a log scale.
KEPT = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 40, 50, 64, 80, 100, 125, 160, 200)
SCORES = {"train": "train", "test": "held_out"}
RIVALS = ("cma-es", "cma-es-by-tensor", "map-elites", "ga", "m2n2-without-attraction")
# The fewest runs that a test of significance is made with.
FEWEST = 6


def curve_file(pool: Path, budget: int) -> Curve | None:
    """The curve of a run, kept beside its pool once it is complete; None until then."""
    names = list(Curve.__dataclass_fields__)
    file = pool.with_name(f"{pool.name}-{budget}.npz")
    if file.exists():
        with np.load(file) as data:
            values = [data[name] for name in names]
        return Curve(*(value.item() if value.ndim == 0 else value for value in values))
    try:
        with Pool(pool) as opened:
            if opened.evaluations < budget:
                return None
            curve = read_curve(opened, pool.parent.name, int(pool.name), budget)
    except GenepoolError:
        return None
    # A run whose champion has not been scored on the test images has not ended.
    if np.isnan(curve.held_out[-1]):
        return None
    np.savez(file, **{name: getattr(curve, name) for name in names})
    return curve


def summarise(found: Curves, reference: dict[str, Any]) -> dict[str, Any]:
    """Everything that tables and plots show."""
    runs: dict[str, dict[str, Any]] = {}
    for start, labels in found.items():
        runs[start] = {
            label: entry(label, list(curves.values()), labels.get("m2n2", {}))
            for label, curves in labels.items()
            if curves
        }
        correct(runs[start])
    return {
        "runs": runs,
        "checks": checks(found, reference) if reference else [],
        "races": [
            race
            for label in RIVALS
            if (race := races(found["pre_trained"], label, "train")) is not None
        ],
        "published": reference.get("published_test_accuracy_percent", {}),
        "reference": {
            start: {
                label: {
                    kind: {at: [v["mean"], v["std"]] for at, v in known[label][kind].items()}
                    for kind in SCORES
                }
                for label in known
            }
            for start in found
            if (known := {k.replace(" ", "-"): v for k, v in reference.get(start, {}).items()})
        },
    }


def entry(label: str, curves: list[Curve], base: dict[int, Curve]) -> dict[str, Any]:
    """One strategy: curves over seeds, final scores, and the test against M2N2, seed by seed."""
    steps = curves[0].evaluations
    kept = [index for index in KEPT if index < steps.size]
    out: dict[str, Any] = {
        "seeds": [curve.seed for curve in curves],
        "budget": int(steps[-1]),
        "evaluations": steps[kept].tolist(),
        "share_of_examples": round(
            sum(int(c.examples_evaluated[-1]) for c in curves)
            / sum(int(c.evaluations[-1]) * c.examples for c in curves),
            3,
        ),
    }
    for name, field in {**SCORES, "coverage": "coverage", "entropy": "entropy"}.items():
        values = np.stack([getattr(curve, field)[kept] for curve in curves])
        out[name] = {
            "mean": values.mean(axis=0).round(4).tolist(),
            "sd": values.std(axis=0, ddof=1).round(4).tolist() if len(curves) > 1 else None,
        }
    out["final"] = {
        k: [round(float(getattr(c, f)[-1]), 5) for c in curves] for k, f in SCORES.items()
    }
    both = [(c, base[c.seed]) for c in curves if c.seed in base and label != "m2n2"]
    same = [c.held_out[-1] - b.held_out[at(b, c.evaluations[-1])] for c, b in both]
    out["test_less_m2n2"] = round(float(np.mean(same)), 4) if same else None
    out["p"] = sign_flip_test(same) if len(same) >= FEWEST else None
    out["p_corrected"] = None
    return out


def pool_rows(results: dict[str, Any], more: dict[str, Any]) -> None:
    """Put recorded runs of other seeds, or of other strategies, beside the recorded ones.

    Means and standard deviations along a curve are known to four digits and pooled; final scores
    are those of every run, from which differences and tests are made anew.
    """
    for start, rows in more["runs"].items():
        held = results["runs"].setdefault(start, {})
        for label, row in rows.items():
            held[label] = _pooled(held[label], row) if label in held else row
        base = held.get("m2n2")
        for label, row in held.items():
            if base is None or label == "m2n2" or row["budget"] != base["budget"]:
                continue
            of_seed = dict(zip(base["seeds"], base["final"]["test"], strict=True))
            finals = zip(row["seeds"], row["final"]["test"], strict=True)
            same = [value - of_seed[seed] for seed, value in finals if seed in of_seed]
            row["test_less_m2n2"] = round(float(np.mean(same)), 4) if same else None
            row["p"] = sign_flip_test(same) if len(same) >= FEWEST else None
        correct(held)


def _pooled(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    if set(one["seeds"]) & set(two["seeds"]) or one["evaluations"] != two["evaluations"]:
        raise ValueError("runs of the same seeds, or of other lengths, cannot be pooled")
    m, n = len(one["seeds"]), len(two["seeds"])
    out = {**one, "seeds": one["seeds"] + two["seeds"]}
    share = (m * one["share_of_examples"] + n * two["share_of_examples"]) / (m + n)
    out["share_of_examples"] = round(share, 3)
    for name in (*SCORES, "coverage", "entropy"):
        (a, s), (b, t) = (
            (np.array(row[name]["mean"]), np.array(row[name]["sd"])) for row in (one, two)
        )
        squares = (m - 1) * s**2 + (n - 1) * t**2 + m * n / (m + n) * (a - b) ** 2
        out[name] = {
            "mean": ((m * a + n * b) / (m + n)).round(4).tolist(),
            "sd": np.sqrt(squares / (m + n - 1)).round(4).tolist(),
        }
    out["final"] = {kind: one["final"][kind] + two["final"][kind] for kind in SCORES}
    return out


def correct(rows: dict[str, dict[str, Any]]) -> None:
    """Correct the tests of one start for their number (Holm)."""
    tested = [row for row in rows.values() if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_corrected"] = round(float(corrected), 5)


def at(curve: Curve, count: int) -> int:
    """Index of the last point of a curve that is not after `count` evaluations."""
    return int(np.searchsorted(curve.evaluations, count, side="right")) - 1


def add_runs(reference: dict[str, Any], file: Path) -> None:
    """Put the runs of reference.py beside those that the reference's file has.

    From scratch and at their last evaluation only.
    """
    for line in file.read_text().splitlines():
        row = json.loads(line)
        known = reference["from_scratch"][reference_label(row["strategy"])]
        for kind in SCORES:
            runs: list[float] = known[kind][str(row["evaluations"])]["per_seed"]
            if row["seed"] != len(runs):
                raise ValueError(f"{file}: seed {row['seed']} of {row['strategy']} is out of turn")
            runs.append(row[kind])


def reference_label(label: str) -> str:
    """The reference's name of one of our labels."""
    return label.replace("-without-", " without ").replace("split-point", "split point")


def checks(found: Curves, reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Each strategy beside the reference, at the last number of evaluations that both have.

    `z` is the difference of the means over its standard error, sqrt(s^2 / n + S^2 / N): within two
    of them is agreement. `at_least` is the stricter mark of the reference alone: its mean less two
    of its own standard errors.
    """
    out: list[dict[str, Any]] = []
    for start, labels in found.items():
        for label, curves in labels.items():
            known = reference[start].get(reference_label(label))
            counts = [int(c) for c in known["train"]] if known and curves else []
            counts = [c for c in counts if c <= min(k.evaluations[-1] for k in curves.values())]
            if not counts or len(curves) < 2:
                continue
            row: dict[str, Any] = {"start": start, "variant": label, "evaluations": max(counts)}
            for kind, field in SCORES.items():
                there = np.array(known[kind][str(max(counts))]["per_seed"])
                here = np.array([getattr(c, field)[at(c, max(counts))] for c in curves.values()])
                error = float(there.std(ddof=1)) / there.size**0.5
                both = (error**2 + float(here.var(ddof=1)) / here.size) ** 0.5
                difference = float(here.mean() - there.mean())
                row[kind] = {
                    "genepool": round(float(here.mean()), 4),
                    "sd": round(float(here.std(ddof=1)), 4),
                    "seeds": here.size,
                    "reference": round(float(there.mean()), 4),
                    "reference_sd": round(float(there.std(ddof=1)), 4),
                    "reference_seeds": there.size,
                    # Where nothing varies on either side only equality agrees.
                    "z": round(difference / max(both, 1e-9), 2) if abs(difference) > 5e-5 else 0.0,
                    "at_least": round(float(there.mean()) - 2 * error, 4),
                    "ok": bool(here.mean() >= there.mean() - 2 * error - 5e-5),
                }
            out.append(row)
    return out


def races(labels: dict[str, dict[int, Curve]], rival: str, kind: str) -> dict[str, Any] | None:
    """How long M2N2 and a rival take to reach each other's final score, seed by seed."""
    first, second = labels.get("m2n2", {}), labels.get(rival, {})
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    out: dict[str, Any] = {"rival": rival, "score": kind, "seeds": len(seeds)}
    out["budget"] = int(first[seeds[0]].evaluations[-1])
    pairs = {"m2n2": (first, second), "rival": (second, first)}
    needed: dict[str, list[float]] = {}
    for name, (mine, theirs) in pairs.items():
        found = [reach(mine[s], float(theirs[s].champion_train[-1])) for s in seeds]
        needed[name] = [float("inf") if value is None else float(value) for value in found]
        out[f"{name}_needed"] = [None if value is None else int(value) for value in found]
        own = [reach(mine[s], float(mine[s].champion_train[-1])) or 0 for s in seeds]
        out[f"{name}_own"] = own
        out[f"{name}_median"] = finite(np.median(needed[name]))
        out[f"{name}_own_median"] = float(np.median(own))
        out[f"{name}_reached"] = int(np.isfinite(needed[name]).sum())
    # A start that is already there counts as one evaluation.
    quotients = [
        max(b, 1) / max(a, 1)
        for a, b in zip(needed["m2n2"], needed["rival"], strict=True)
        if np.isfinite(a) or np.isfinite(b)
    ]
    out["ratio_median"] = finite(np.median(quotients)) if quotients else None
    return out


def reach(curve: Curve, level: float) -> int | None:
    """Evaluations until the champion's training score is at a level."""
    return evaluations_to_reach(curve.champion_evaluations, curve.champion_train, level)


def finite(value: Any) -> float | None:
    """A number, or None where it is infinite."""
    return float(value) if np.isfinite(value) else None


# Tables


def tables(results: dict[str, Any]) -> str:
    """All tables as Markdown."""
    parts: list[str] = []
    for start, rows in results["runs"].items():
        if rows:
            parts += [f"## {start.replace('_', '-').capitalize()}", strategies(results, start)]
    if results["checks"]:
        parts += ["## Beside the reference implementation", beside(results["checks"])]
    if results["races"]:
        parts += ["## Evaluations that each needs to reach the other's final score", raced(results)]
    return "\n\n".join(parts) + "\n"


def strategies(results: dict[str, Any], start: str) -> str:
    """Every strategy at the end of its budget."""
    published = results["published"].get(start, {})
    lines = [
        "| strategy | seeds | evaluations | train | test | test, less M2N2's | p (Holm) "
        "| paper, test | coverage | entropy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label, row in results["runs"][start].items():
        known = published.get(name(label), None)
        paper = "–"
        if isinstance(known, list) and row["budget"] in published["evaluations"]:
            paper = f"{known[published['evaluations'].index(row['budget'])]:.1f}"
        less = row["test_less_m2n2"]
        p = row["p_corrected"]
        lines.append(
            f"| {name(label)} | {len(row['seeds'])} | {row['budget']:,} | {spread(row, 'train')} "
            f"| {spread(row, 'test')} | {'–' if less is None else f'{100 * less:+.1f}'} "
            f"| {'–' if p is None else f'{p:.2g}'} | {paper} "
            f"| {row['coverage']['mean'][-1]:.3f} | {row['entropy']['mean'][-1]:.3f} |"
        )
    return "\n".join(lines)


def beside(rows: list[dict[str, Any]]) -> str:
    """The reference's runs and ours."""
    lines = [
        "| start | strategy | evaluations | seeds, reference's | train | reference | z | test "
        "| reference | z | the reference's mean less two of its errors is reached "
        "| within two errors of the difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        train, test = row["train"], row["test"]
        missed = [kind for kind in ("train", "test") if not row[kind]["ok"]]
        fine = train["z"] >= -2 and test["z"] >= -2
        lines.append(
            f"| {row['start'].replace('_', '-')} | {name(row['variant'])} "
            f"| {row['evaluations']:,} | {train['seeds']}, {train['reference_seeds']} "
            f"| {there(train, '')} | {there(train, 'reference')} | {train['z']:+.1f} "
            f"| {there(test, '')} | {there(test, 'reference')} | {test['z']:+.1f} "
            f"| {'NO: ' + ', '.join(missed) if missed else 'yes'} "
            f"| {'yes' if fine else 'NO'} |"
        )
    return "\n".join(lines)


def raced(results: dict[str, Any]) -> str:
    """Who reaches whom, and when."""
    lines = [
        "| rival | M2N2 reaches the rival's final training score after | the rival itself after "
        "| the rival reaches M2N2's after | M2N2 itself after | rival's need / M2N2's |",
        "|---|---|---|---|---|---|",
    ]
    for race in results["races"]:
        cells = [
            f"{when(race[f'{who}_median'])} ({race[f'{who}_reached']} of {race['seeds']} seeds)"
            for who in ("m2n2", "rival")
        ]
        ratio = race["ratio_median"]
        lines.append(
            f"| {name(race['rival'])} | {cells[0]} | {when(race['rival_own_median'])} | {cells[1]} "
            f"| {when(race['m2n2_own_median'])} "
            f"| {f'{ratio:.1f}' if ratio is not None else 'infinite: never'} |"
        )
    return "\n".join(lines)


def name(label: str) -> str:
    """A label as people write it; also the key of the reference's and the paper's numbers."""
    if "-without-" in label:
        first, _, rest = label.partition("-without-")
        return f"{first} without {rest.replace('-', ' ')}"
    for word in ("-archive-", "-alpha-", "-by-"):
        label = label.replace(word, word.replace("-", ", ", 1).replace("-", " "))
    return label


def when(value: float | None) -> str:
    """A number of evaluations."""
    return "never" if value is None else f"{value:,.0f}"


def spread(row: dict[str, Any], kind: str) -> str:
    """Mean and standard deviation of the final scores, in percent."""
    values = 100 * np.array(row["final"][kind])
    if values.size < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def there(entry: dict[str, Any], whose: str) -> str:
    """Mean and standard deviation in percent."""
    mean = entry["reference" if whose else "genepool"]
    return f"{100 * mean:.1f} ± {100 * entry['reference_sd' if whose else 'sd']:.1f}"
