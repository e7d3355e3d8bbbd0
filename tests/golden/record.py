"""What the golden runs compute, as read from their pools, and the recording of it.

    python -m tests.golden.record              all runs, into golden.json
    python -m tests.golden.record pools        the old pools anew (by the old genepool)
    python -m tests.golden.record specialists  the seeds in seeds/ anew

Recorded by genepool at 21445ff; "cma-es" and "cma-es-weights" anew when equal scores came to be
ordered by step, and the step size to adapt in 300 dimensions and more; one mean of the archive of
"rounds-rich" when a small task no longer weighed more as more of it was known. A pool is read as a
plain SQLite file of schema version 1, so that nothing here depends on how genepool is built inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tests.golden import runs

FILE = Path(__file__).parent / "golden.json"

# Mean scores may be added up in another way; everything else is the same to the last bit.
TOLERANCE = 1e-12


def load() -> dict[str, Any]:
    """What was recorded."""
    return json.loads(FILE.read_text())


def observe(pool: Path, status: dict[str, Any]) -> dict[str, Any]:
    """Everything that a run computed, in JSON's types.

    `records` has a line for every member, to be read: initial of the verdict, slot, evicted
    member, parents, number of examples asked, and the first digits of the genome's digest, of its
    scores' hash and of the hash over how it was made. `exact` is a hash over these, id and step,
    the digests in full.
    """
    with contextlib.closing(sqlite3.connect(pool / "pool.sqlite")) as db:
        tasks = db.execute("SELECT examples, held_out FROM tasks").fetchall()
        size, held_size = (sum(row[k] for row in tasks) for k in (0, 1))
        members = db.execute(
            "SELECT id, step, verdict, slot, evicted, parents, asked, digest, scores, merge, "
            "mutation, plan, genome, error, train, fitness FROM members ORDER BY id"
        ).fetchall()
        lines, exact, plans = [], hashlib.sha256(), hashlib.sha256()
        for row in members:
            short, whole = _lines(row, size)
            lines.append(short)
            exact.update(f"{whole}\n".encode())
            plans.update(f"{row[11]}\n".encode())
        held_out = db.execute("SELECT member, scores, mean FROM held_out ORDER BY member")
        guards = db.execute("SELECT member, guard, mean FROM guards ORDER BY member, guard")
        rounds = db.execute("SELECT number, examples FROM rounds ORDER BY number")
        answers = db.execute(
            "SELECT member, round, asked, error, scores FROM answers ORDER BY round, member"
        )
        return {
            **{key: status[key] for key in ("evaluations", "accepted", "examples_evaluated")},
            "archive": {
                str(entry["slot"]): [entry["member"], entry["genome"][:16]]
                for entry in status["archive"]
            },
            "champion": [status["champion"]["member"], status["champion"]["genome"]],
            "champion_means": [status["champion"][key] for key in ("train", "held_out")],
            "archive_means": [entry["train"] for entry in status["archive"]],
            "exact": exact.hexdigest(),
            "plans": plans.hexdigest(),
            "records": lines,
            "train": [row[14] for row in members],
            "fitness": [row[15] for row in members],
            "rounds": [[number, _of(packed, size)] for number, packed in rounds],
            "answers": [[*row[:4], _of(row[4], size)] for row in answers],
            **_measured(held_out.fetchall(), guards.fetchall(), held_size),
        }


def _measured(
    held_out: Sequence[Sequence[Any]], guards: Sequence[Sequence[Any]], size: int
) -> dict[str, Any]:
    return {
        "held_out": [[row[0], _of(row[1], size)] for row in held_out],
        "held_out_means": [row[2] for row in held_out],
        "guards": [list(row[:2]) for row in guards],
        "guard_means": [row[2] for row in guards],
    }


def _lines(row: Sequence[Any], size: int) -> tuple[str, str]:
    """A member for people, and to be hashed."""
    number, step, verdict, slot, evicted, parents, asked, digest, scores = row[:9]
    merge, mutation, _, genome, error = row[9:14]
    if error is not None:
        # Where a user's function failed is told since; it is the path of this very run.
        error = re.sub(r" \(in [^()]+, line \d+\)", "", error)
    made = hashlib.sha256()
    for part in (merge, repr(mutation).encode(), genome, None if error is None else error.encode()):
        made.update(b"-" if part is None else b"%d:" % len(part) + part)
    parents = ",".join(map(str, json.loads(parents)))
    places = ["-" if place is None else str(place) for place in (slot, evicted)]
    start = [verdict[0], *places, parents or "-", str(asked)]
    digests = [digest or "-", _hash(scores, size) or "-", made.hexdigest()]
    short = [*start, *(text[:6] for text in digests)]
    return " ".join(short), " ".join([str(number), str(step), *start, *digests])


def _hash(packed: bytes | None, size: int) -> str | None:
    """A hash over scores."""
    return None if packed is None else hashlib.sha256(unpack(packed, size).tobytes()).hexdigest()


def _of(packed: bytes | None, size: int) -> str | None:
    """The first digits of a hash over scores."""
    found = _hash(packed, size)
    return None if found is None else found[:16]


def unpack(packed: bytes, size: int) -> NDArray[np.float32]:
    """Scores as a pool keeps them, NaN where not asked: a letter; which examples are known, unless
    all are (small letters); a bit each (b) or float32 each (f)."""
    kind, body = packed[:1], packed[1:]
    known = np.ones(size, dtype=bool)
    if kind.isupper():
        width = -(-size // 8)
        known = np.unpackbits(np.frombuffer(body[:width], np.uint8), count=size).astype(bool)
        body = body[width:]
    out = np.full(size, np.nan, dtype="<f4")
    if kind in b"bB":
        out[known] = np.unpackbits(np.frombuffer(body, np.uint8), count=int(known.sum()))
    else:
        out[known] = np.frombuffer(body, dtype="<f4")
    return out


def differences(found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What is not as recorded, the first record that differs first; empty if nothing."""
    out: list[str] = []
    lines = zip(found["records"], recorded["records"], strict=False)
    for number, (mine, theirs) in enumerate(lines):
        if mine != theirs:
            what = "verdict slot evicted parents asked digest scores made"
            out.append(f"member {number} is the first that differs ({what}): {mine} was {theirs}")
            break
    counts = [len(one["records"]) for one in (found, recorded)]
    if counts[0] != counts[1]:
        out.append(f"{counts[0]} records, recorded were {counts[1]}")
    for key, value in recorded.items():
        if key == "records":
            continue
        mine = found[key]
        if key in ("train", "fitness") or key.endswith("_means"):
            out += _apart(key, mine, value)
        elif mine != value:
            out.append(f"{key}: {mine!r:.300} was {value!r:.300}")
    return out


def _apart(key: str, found: Sequence[Any], recorded: Sequence[Any]) -> list[str]:
    """The first mean that is not the recorded one."""
    if len(found) != len(recorded):
        return [f"{key}: {len(found)} values, recorded were {len(recorded)}"]
    for place, (mine, theirs) in enumerate(zip(found, recorded, strict=True)):
        same = mine is None and theirs is None
        if mine is not None and theirs is not None:
            same = math.isclose(mine, theirs, rel_tol=TOLERANCE)
        if not same:
            return [f"{key}, number {place} from 0: {mine!r} was {theirs!r}"]
    return []


def fingerprint() -> str:
    """Of how this machine adds and takes matrices apart, to the last bit."""
    out = hashlib.sha256()
    draws = np.random.default_rng(41)
    for size in (1, 2, 3, 4, 8, 600):
        row = draws.standard_normal(size)
        out.update(np.array([row @ row, row.sum(), np.linalg.norm(row)]).tobytes())
    for _ in range(20):
        for size in (2, 4):
            square = draws.standard_normal((size, size))
            for part in np.linalg.eigh(square @ square.T + 1e-3 * np.eye(size)):
                out.update(np.ascontiguousarray(part).tobytes())
    values = draws.standard_normal(64)
    for function in (np.exp, np.log1p, np.sqrt, np.square):
        out.update(function(np.abs(values)).tobytes())
    return out.hexdigest()


def _record() -> None:
    out: dict[str, Any] = {"fingerprint": fingerprint(), "runs": {}, "pools": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in runs.RUNS:
            started = time.perf_counter()
            out["runs"][name] = observe(*runs.run(name, Path(folder) / name))
            _tell(name, started, out["runs"][name])
        for name in runs.POOLS:
            started = time.perf_counter()
            out["pools"][name] = observe(*runs.go_on(name, Path(folder)))
            _tell(f"pool {name}", started, out["pools"][name])
    FILE.write_text(_as_text(out))


def _tell(name: str, started: float, found: dict[str, Any]) -> None:
    verdicts = [line[0] for line in found["records"]]
    counts = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    print(f"{name}: {time.perf_counter() - started:.1f} s, {counts}, {found['champion_means']}")


def _as_text(out: dict[str, Any]) -> str:
    """JSON with a line for every key of a run."""
    text = [f'{{"fingerprint": {json.dumps(out["fingerprint"])}']
    for group in ("runs", "pools"):
        text.append(f',\n"{group}": {{')
        for number, (name, found) in enumerate(out[group].items()):
            rows = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
            text.append(("," if number else "") + f'\n "{name}": {{\n' + ",\n".join(rows) + "}")
        text.append("}")
    return "".join(text) + "}\n"


def _write_pools() -> None:
    import genepool

    root = runs.HERE / "pool-21445ff"
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(runs.SPECIALISTS, Path(folder) / "seeds")
        for name, config in runs.POOLS.items():
            directory = Path(folder) / "pools" / name
            directory.mkdir(parents=True)
            file = directory / "run.yaml"
            file.write_text(yaml.safe_dump({"pool": "pool", **config}, sort_keys=False))
            genepool.evolve(file)
            target = root / name / "pool"
            target.mkdir(parents=True)
            shutil.copyfile(file, root / name / "run.yaml")
            with contextlib.closing(sqlite3.connect(directory / "pool" / "pool.sqlite")) as db:
                # One file without a log, as small as it gets.
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                db.execute("PRAGMA journal_mode = DELETE")
                db.execute("VACUUM")
            shutil.copyfile(directory / "pool" / "pool.sqlite", target / "pool.sqlite")
            print(f"pool {name}: {(target / 'pool.sqlite').stat().st_size} bytes")


def _write_specialists() -> None:
    """64-32-10 networks, each trained on half of the classes: full-batch steps of Adam."""
    from safetensors.numpy import save_file
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    count = int(len(found.data) * 0.8)
    x, y = found.data[:count].astype(np.float64), found.target[:count]
    groups = {"low": range(5), "high": range(5, 10), "even": range(0, 10, 2)}
    runs.SPECIALISTS.mkdir(exist_ok=True)
    for number, (name, classes) in enumerate(groups.items()):
        chosen = np.isin(y, list(classes))
        arrays = _trained(x[chosen], y[chosen], np.random.default_rng([number, 51]))
        save_file(arrays, runs.SPECIALISTS / f"{name}.safetensors")


def _trained(
    x: NDArray[np.float64], y: NDArray[np.int64], draws: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    shapes = {
        "hidden.weight": (64, 32),
        "hidden.bias": (32,),
        "output.weight": (32, 10),
        "output.bias": (10,),
    }
    values = {name: draws.standard_normal(shape) * 0.03 for name, shape in shapes.items()}
    first = {name: np.zeros(shape) for name, shape in shapes.items()}
    second = {name: np.zeros(shape) for name, shape in shapes.items()}
    for step in range(1, 31):
        hidden = np.maximum(x @ values["hidden.weight"] + values["hidden.bias"], 0)
        logits = hidden @ values["output.weight"] + values["output.bias"]
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        chance[np.arange(y.size), y] -= 1
        chance /= y.size
        back = (chance @ values["output.weight"].T) * (hidden > 0)
        slopes = {
            "hidden.weight": x.T @ back,
            "hidden.bias": back.sum(axis=0),
            "output.weight": hidden.T @ chance,
            "output.bias": chance.sum(axis=0),
        }
        for name, slope in slopes.items():
            first[name] = 0.9 * first[name] + 0.1 * slope
            second[name] = 0.999 * second[name] + 0.001 * slope * slope
            mean, spread = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            values[name] = values[name] - 0.005 * mean / (np.sqrt(spread) + 1e-8)
    return {name: value.astype(np.float32) for name, value in values.items()}


if __name__ == "__main__":
    {"pools": _write_pools, "specialists": _write_specialists}.get(
        sys.argv[1] if len(sys.argv) > 1 else "", _record
    )()
