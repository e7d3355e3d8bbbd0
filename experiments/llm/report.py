"""Table, figure and results.json of the experiment, from the pools (and the base's scores)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data
import numpy as np
from scoring import in_blocks

LABELS = {
    "slerp": "best single SLERP",
    "ga": "genetic algorithm",
    "no-attraction": "M2N2 without attraction",
    "no-split": "M2N2 without split point",
    "m2n2": "M2N2",
}
TASKS = ("maths", "shopping")


def write_report(work: Path, out: Path) -> None:
    """OUT/results.json, OUT/table.md and OUT/champions.png, from the runs that are finished.

    What OUT/results.json says of runs that are not in WORK stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    recorded = out / "results.json"
    found: dict[str, Any] = json.loads(recorded.read_text()) if recorded.exists() else {}
    if (work / "pools").exists():
        found["smollm2"] = one_run(work)
    if (work / "miniature/compare/runs").exists():
        found["miniature"] = many_runs(work / "miniature")
    for name in ("verify", "breakdown"):
        file = work / f"{name}.json"
        if file.exists():
            found[name] = json.loads(file.read_text())
    lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in found.items()]
    recorded.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    table = "\n".join(
        f"**{title}**\n\n{markdown(found[key])}\n"
        for key, title in (("smollm2", "SmolLM2-135M"), ("miniature", "Miniature"))
        if key in found
    )
    (out / "table.md").write_text(table)
    plot(found, out / "champions.png")
    print(table)


def one_run(work: Path) -> dict[str, Any]:
    """Scores on held-out examples of base, seeds and champions; errors are over examples."""
    from genepool import Pool

    rows: dict[str, Any] = {"base": of_base(work, batch=8)}
    curves: dict[str, Any] = {}
    for label in LABELS:
        if not (work / "pools" / label).exists():
            continue
        with Pool(work / "pools" / label) as pool:
            if "maths" not in rows:
                for member, seed in enumerate(pool.seeds()):
                    rows[seed.name] = over_examples(pool, member)
            curves[label] = curve(pool)
            champion = pool.champion()
            if champion is not None and pool.held_out_scores(champion) is not None:
                rows[label] = over_examples(pool, champion)
    return {"rows": rows, "curves": curves, "runs": 1, "errors": "standard error over examples"}


def many_runs(work: Path) -> dict[str, Any]:
    """The same with the mean over runs, whose errors are over runs."""
    from genepool import Pool

    rows: dict[str, Any] = {"base": of_base(work, batch=100)}
    curves: dict[str, Any] = {}
    runs = 0
    # Only seeds that all strategies have finished, so that the rows can be compared.
    done = [
        {folder.name for folder in (work / "compare/runs" / label).iterdir() if finished(folder)}
        for label in LABELS
    ]
    for label in LABELS:
        champions: list[dict[str, Any]] = []
        for seed_of_run in sorted(set.intersection(*done)):
            with Pool(work / "compare/runs" / label / seed_of_run) as pool:
                if "maths" not in rows:
                    for member, seed in enumerate(pool.seeds()):
                        if pool.held_out_scores(member) is not None:
                            rows[seed.name] = over_examples(pool, member)
                champion = pool.champion()
                if champion is not None:
                    champions.append(over_examples(pool, champion))
                curves.setdefault(label, []).append(curve(pool))
        runs = len(champions)
        rows[label] = {"children": champions[0]["children"]}
        for key in (*TASKS, "average", "train"):
            values = [champion[key][0] for champion in champions]
            error = float(np.std(values, ddof=1)) / runs**0.5 if runs > 1 else 0.0
            rows[label][key] = [float(np.mean(values)), error]
            rows[label][f"{key} of each run"] = values
    return {
        "rows": rows,
        "curves": curves,
        "runs": runs,
        "errors": "standard error over runs",
        "m2n2 minus": {label: lead(rows, label) for label in LABELS if label != "m2n2"},
    }


def lead(rows: dict[str, Any], label: str) -> dict[str, float]:
    """By how many points M2N2 is ahead on held-out examples, in pairs of runs with one seed."""
    from genepool.study.significance import sign_flip_test

    ours, theirs = (np.array(rows[name]["average of each run"]) for name in ("m2n2", label))
    points = 100 * (ours - theirs)
    return {
        "points": round(float(points.mean()), 2),
        "standard error": round(float(points.std(ddof=1)) / len(points) ** 0.5, 2),
        "p": round(sign_flip_test(points), 6),
    }


def finished(folder: Path) -> bool:
    """Whether a run has come to its end, its champion's held-out score included."""
    from genepool import Pool
    from genepool.errors import PoolError

    try:
        with Pool(folder) as pool:
            champion = pool.champion()
            budget = pool.meta()["config"]["budget"]
            return (
                pool.evaluations >= budget
                and champion is not None
                and pool.held_out_scores(champion) is not None
            )
    except PoolError:
        return False


def over_examples(pool: Any, member: int) -> dict[str, Any]:
    """Mean and standard error over examples of a member's held-out scores, by task."""
    scores = pool.held_out_scores(member)
    record = pool.record(member)
    parts = np.split(scores, np.cumsum([task.held_out for task in pool.tasks()])[:-1])
    out = summary({task.name: part for task, part in zip(pool.tasks(), parts, strict=True)})
    out |= {"train": [record.train, 0.0], "member": member, "digest": record.digest}
    out["children"] = pool.evaluations
    start = 0
    for task in pool.tasks():
        out[f"{task.name} train"] = float(record.scores[start : start + task.examples].mean())
        start += task.examples
    return out


def summary(scores: dict[str, Any]) -> dict[str, Any]:
    """[mean, standard error] of each task and of their average."""
    out: dict[str, Any] = {}
    variance = 0.0
    for task, values in scores.items():
        error = float(np.std(values, ddof=1)) / len(values) ** 0.5
        out[task] = [float(np.mean(values)), error]
        variance += error**2 / len(scores) ** 2
    out["average"] = [float(np.mean([out[task][0] for task in scores])), variance**0.5]
    return out


def of_base(work: Path, batch: int) -> dict[str, Any]:
    """The base's scores on the same held-out examples; it is no seed of the runs."""
    file = work / "base-scores.json"
    if not file.exists():
        from specialists import opened

        model, tokenizer = opened(work / "models/base")
        scores = {
            task: in_blocks(model, tokenizer, data.read(work / "evolve", task, "test"), batch)
            for task in TASKS
        }
        file.write_text(json.dumps(summary(scores)))
    return json.loads(file.read_text())


def curve(pool: Any) -> dict[str, Any]:
    """Training score of the champion so far, and what a child's evaluation took."""
    from genepool.pool.history import history

    past = history(pool)
    seconds = [record.seconds for record in pool.records() if record.step]
    return {
        "evaluations": past.evaluations.tolist(),
        "train": [round(value, 5) for value in past.train.tolist()],
        "seconds per child, median": round(float(np.median(seconds)), 3) if seconds else None,
    }


def markdown(part: dict[str, Any]) -> str:
    """The rows as a table in percent."""
    lines = [
        "| model | maths | shopping | average | average on selection examples |",
        "|---|---|---|---|---|",
    ]
    names = {"base": "base", "maths": "specialist maths", "shopping": "specialist shopping"}
    for label, row in part["rows"].items():
        cells = [
            f"{100 * row[key][0]:.1f} ± {100 * row[key][1]:.1f}" for key in (*TASKS, "average")
        ]
        train = f"{100 * row['train'][0]:.1f}" if "train" in row else "–"
        lines.append(f"| {({**names, **LABELS})[label]} | {' | '.join(cells)} | {train} |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], file: Path) -> None:
    """The champions' selection scores over evaluations, and at the right end the held-out ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Okabe and Ito's palette, which colour-blind readers can tell apart.
    colours = ("#56B4E9", "#CC79A7", "#D55E00", "#009E73", "#0072B2")
    titles = {"smollm2": "SmolLM2-135M, one run each", "miniature": "miniature, mean of {} runs"}
    panels = [key for key in titles if key in found]
    figure, axes = pyplot.subplots(
        1,
        max(1, len(panels)),
        figsize=(5.6 * max(1, len(panels)), 4.2),
        layout="constrained",
        squeeze=False,
    )
    for panel, key in zip(axes[0], panels, strict=False):
        part = found[key]
        for colour, (label, name) in zip(colours, LABELS.items(), strict=True):
            if label not in part["curves"]:
                continue
            runs = part["curves"][label]
            runs = runs if isinstance(runs, list) else [runs]
            length = min(len(run["train"]) for run in runs)
            steps = runs[0]["evaluations"][:length]
            values = 100 * np.array([run["train"][:length] for run in runs])
            mean = values.mean(axis=0)
            panel.plot(steps, mean, color=colour, label=name)
            if len(runs) > 1:
                error = values.std(axis=0, ddof=1) / len(runs) ** 0.5
                panel.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
            row = part["rows"].get(label)
            if row is not None:
                end, spread = (100 * value for value in row["average"])
                panel.errorbar(
                    steps[-1] * (1.03 + 0.025 * list(LABELS).index(label)),
                    end,
                    yerr=spread,
                    color=colour,
                    marker="o",
                    ms=4,
                    capsize=2,
                )
        panel.set_title(titles[key].format(part["runs"]), fontsize=10)
        panel.set_xlabel("children scored (dots at the right: held-out average)")
        panel.set_ylabel("average of maths and shopping (%)")
        panel.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=130)
