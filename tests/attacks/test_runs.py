"""Abuses of run files, pools and directories: each ends with exit code 1 or 2 and one clear line.

A pool that exists when the abuse happens still opens afterwards, with all that it held.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from genepool.errors import PoolError
from genepool.pool.database import DATABASE
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from tests.cli import run_cli
from tests.runs import contents, opened_database, write_run


def _expect(arguments: list[str], *words: str, code: int = 1) -> None:
    """The command fails with `code`, saying these words in one line and nothing more."""
    found, _, error = run_cli(arguments)
    assert found == code, error
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1 or code == 2, error
    assert "Traceback" not in error
    for word in words:
        assert word in error, f"{word!r} is not in {error!r}"


def _edit(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        config.update(changes)

    return edit


def _task(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        config["tasks"][0].update(changes)

    return edit


def _strategy(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        config["strategy"].update(changes)

    return edit


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        del config[key]

    return edit


def _guard(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(config: dict[str, Any]) -> None:
        config["tasks"].append({**config["tasks"][0], "name": "kept", "guard": True, **changes})

    return edit


RUN_FILES: dict[str, tuple[Callable[[dict[str, Any]], None], tuple[str, ...]]] = {
    "budget is negative": (_edit(budget=-1), ("line", "budget", "-1")),
    "budget is text": (_edit(budget="many"), ("line", "budget", "many")),
    "budget is a float": (_edit(budget=1.5), ("line", "budget")),
    "budget is a truth value": (_edit(budget=True), ("line", "budget")),
    "unknown key": (_edit(bugdet=5), ("line", "bugdet", "did you mean 'budget'")),
    "unknown strategy": (_edit(strategy={"name": "m3n3"}), ("line", "strategy", "m3n3")),
    "unknown key of the strategy": (_strategy(aplha=1.0), ("line", "aplha", "alpha")),
    "alpha is negative": (_strategy(alpha=-1.0), ("line", "strategy.alpha")),
    "alpha is not a number": (_strategy(alpha=float("nan")), ("line", "strategy.alpha")),
    "unknown baseline": (_strategy(baseline="mean"), ("line", "strategy.baseline", "mean")),
    "an archive of one": (_strategy(archive=1), ("line", "strategy.archive")),
    "unknown angle": (_strategy(angle="acute"), ("line", "strategy.angle", "acute")),
    "no seeds": (_edit(seeds=[]), ("line", "seeds")),
    "seeds are no list": (_edit(seeds="seed1.safetensors"), ("line", "seeds")),
    "seed does not exist": (_edit(seeds=["nowhere.safetensors"]), ("line", "nowhere")),
    "seed is a pickle": (_edit(seeds=["model.bin"]), ("line", "model.bin")),
    "no tasks": (_edit(tasks=[]), ("line", "tasks")),
    "tasks missing": (_without("tasks"), ("tasks", "required")),
    "pool missing": (_without("pool"), ("pool", "required")),
    "unknown evaluator": (_task(evaluator="oracle"), ("line", "oracle", "classifier")),
    "unknown option of a task": (_task(dta="x"), ("line", "dta", "data")),
    "unknown key that all tasks have": (_task(tolerence=0.1), ("line", "mean 'tolerance'?")),
    "unknown key like none": (_task(colour=1), ("line", "known here: name, evaluator,", "data")),
    "data missing": (_task(data="nowhere.npz"), ("line", "clouds", "nowhere.npz")),
    "weight is zero": (_task(weight=0.0), ("line", "weight")),
    "weight is infinite": (_task(weight=float("inf")), ("line", "weight")),
    "two tasks of one name": (
        lambda config: config["tasks"].append(config["tasks"][0]),
        ("line", "used twice"),
    ),
    "a tolerance without a guard": (_task(tolerance=0.1), ("line 9", "tolerance", "not a guard")),
    "a negative tolerance": (_guard(tolerance=-0.1), ("line", "tolerance", "-0.1")),
    "a tolerance above all scores": (_guard(tolerance=1.5), ("line", "tolerance", "1.5")),
    "a tolerance that is no number": (_guard(tolerance=float("nan")), ("line", "tolerance")),
    "a tolerance in words": (_guard(tolerance="2 %"), ("line", "tolerance", "2 %")),
    "a guard in words": (_guard(guard="yes please"), ("line", "guard", "yes please")),
    "a guard with a weight": (_guard(weight=2.0), ("line", "weight", "nobody competes")),
    "a guard of no known task": (
        _guard(evaluator="lm-eval", task="no such task", data=None),
        ("line", "tasks.1"),
    ),
    "a guard without data": (_guard(data="nowhere.npz"), ("line", "'kept'", "nowhere.npz")),
    "a guard named like a task": (_guard(name="clouds"), ("line", "used twice")),
    "nothing but guards": (_task(guard=True), ("line", "tasks", "all 1 are guards")),
    "chromosome matches nothing": (_edit(chromosomes={"x": ["nothing*"]}), ("x",)),
    "no proposals in flight": (_edit(in_flight=0), ("line", "in_flight")),
    "pool is a file": (_edit(pool="data.npz"), ("data.npz", "directory")),
}


@pytest.mark.parametrize("case", RUN_FILES)
def test_run_files(tmp_path: Path, case: str) -> None:
    edit, words = RUN_FILES[case]
    file = write_run(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\x80\x04\x95pickle")
    config = yaml.safe_load(file.read_text())
    edit(config)
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    _expect(["evolve", str(file)], *words)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("mapping",)),
        ("- a\n- b\n", ("mapping",)),
        ("pool: [unclosed\n", ("line", "not valid YAML")),
        ("pool: x\npool: y\n", ("line 2", "given twice")),
        ("pool: !!python/object:os.system x\n", ("not valid YAML",)),
        ("a: &a [*a]\n", ("",)),
        ("pool: " + "[" * 200 + "]" * 200 + "\n", ("",)),
        ("1: x\n", ("line 1", "key must be text")),
        ("pool: \x00\n", ("not valid YAML",)),
    ],
)
def test_texts_that_are_no_run_file(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    _expect(["evolve", str(file)], "run.yaml", *words)


def test_a_run_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"\xff\xfe\x00pool")
    _expect(["evolve", str(file)], "UTF-8")


def test_a_run_file_that_is_missing(tmp_path: Path) -> None:
    found, _, error = run_cli(["evolve", str(tmp_path / "none.yaml")])
    assert found in (1, 2)
    assert "none.yaml" in error


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool with a finished run in it."""
    file = write_run(tmp_path, budget=10)
    assert run_cli(["evolve", str(file)])[0] == 0
    return tmp_path / "pool"


def test_another_schema(pool: Path) -> None:
    with opened_database(pool) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for command in (["status", str(pool)], ["evolve", str(pool.parent / "run.yaml")]):
        _expect(command, "schema version 99")


def test_a_database_that_is_none(pool: Path) -> None:
    for name in (f"{DATABASE}-wal", f"{DATABASE}-shm"):
        (pool / name).unlink(missing_ok=True)
    (pool / DATABASE).write_bytes(b"not a database" * 1000)
    for command in (["status", str(pool)], ["evolve", str(pool.parent / "run.yaml")]):
        _expect(command, "pool")


def test_a_database_cut_short(pool: Path) -> None:
    with opened_database(pool) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = (pool / DATABASE).read_bytes()
    (pool / DATABASE).write_bytes(data[: len(data) // 2])
    found, _, error = run_cli(["status", str(pool)])
    assert found == 1
    assert "Traceback" not in error


def test_no_pool(tmp_path: Path) -> None:
    for command in ("status", "export"):
        more = ["-o", str(tmp_path / "out")] if command == "export" else []
        _expect([command, str(tmp_path / "nowhere"), *more], "no pool here")


def test_no_such_member(pool: Path) -> None:
    _expect(["show", str(pool), "999"], "no member 999", "0 to 11")
    _expect(["export", str(pool), "999", "-o", str(pool / "out")], "no member 999")


def test_a_second_writer_in_the_same_process(pool: Path) -> None:
    """A thread, or a cell that was interrupted badly: there is no other process to wait for."""
    with closing(PoolWriter(pool)), pytest.raises(PoolError, match="another call in this process"):
        PoolWriter(pool)
    PoolWriter(pool).close()


def test_a_second_writer(pool: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from genepool.pool.writer import PoolWriter; "
            "writer = PoolWriter(sys.argv[1]); print('held', flush=True); time.sleep(60)",
            str(pool),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        before = contents(pool)
        _expect(
            ["evolve", str(pool.parent / "run.yaml"), "--budget", "20"],
            "another genepool process",
            f"pid {holder.pid}",
        )
        assert run_cli(["status", str(pool)])[0] == 0
        assert contents(pool) == before
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_seeds_in_another_order(pool: Path) -> None:
    run = pool.parent / "run.yaml"
    config = yaml.safe_load(run.read_text())
    run.write_text(yaml.safe_dump({**config, "seeds": config["seeds"][::-1]}))
    _expect(["evolve", str(run), "--budget", "20"], "the seeds in another order: seed1, seed2")


def test_a_seed_that_changed(pool: Path) -> None:
    file = pool.parent / "seed2.safetensors"
    arrays = load_file(file)
    arrays["output.bias"] = arrays["output.bias"] + np.float32(1)
    save_file(arrays, file)
    before = contents(pool)
    _expect(["evolve", str(pool.parent / "run.yaml"), "--budget", "20"], "another seed 'seed2'")
    _expect(["export", str(pool), "-o", str(pool.parent / "out")], "seed 'seed2'", "other tensors")
    assert contents(pool) == before


def test_a_seed_that_vanished(pool: Path) -> None:
    (pool.parent / "seed1.safetensors").unlink()
    before = contents(pool)
    _expect(["evolve", str(pool.parent / "run.yaml"), "--budget", "20"], "seed1.safetensors")
    _expect(["export", str(pool), "-o", str(pool.parent / "out")], "seed1", "--moved")
    assert contents(pool) == before
    assert not (pool.parent / "out").exists()


def test_a_seed_with_nan(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    arrays = load_file(tmp_path / "seed2.safetensors")
    arrays["hidden.weight"][3, 4] = np.nan
    save_file(arrays, tmp_path / "seed2.safetensors")
    _expect(["evolve", str(file)], "seed2", "hidden.weight")


def test_seeds_of_another_shape(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    arrays = load_file(tmp_path / "seed2.safetensors")
    arrays["output.bias"] = np.zeros(4, dtype=np.float32)
    save_file(arrays, tmp_path / "seed2.safetensors")
    _expect(["evolve", str(file)], "output.bias", "4")


def test_an_export_onto_something(pool: Path) -> None:
    out = pool.parent / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep")
    _expect(["export", str(pool), "-o", str(out)], "out")
    assert (out / "precious.txt").read_text() == "keep"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = write_run(tmp_path, pool="locked/pool")
    (tmp_path / "locked").mkdir(mode=0o500)
    _expect(["evolve", str(file)], "locked")


def test_reading_a_pool_that_cannot_be_written(pool: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pool, copy)
    for file in copy.iterdir():
        file.chmod(0o400)
    copy.chmod(0o500)
    try:
        assert run_cli(["status", str(copy), "--json"])[0] == 0
    finally:
        copy.chmod(0o700)


def _limited(arguments: list[str], size: int) -> subprocess.CompletedProcess[str]:
    """A command that may write no file larger than `size` bytes: what a full disk does."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "genepool", *arguments],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Where the last write of all failed, too, the pool says that children may be missing.
@pytest.mark.filterwarnings("ignore::genepool.errors.PoolWarning")
@pytest.mark.slow
def test_a_full_disk_while_evolving(tmp_path: Path) -> None:
    file = write_run(tmp_path, budget=400, strategy={"name": "m2n2", "archive": 6})
    done = _limited(["evolve", str(file)], 150_000)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot write to the pool" in done.stderr.strip().splitlines()[-1]
    kept = contents(tmp_path / "pool")
    assert len(kept) > 10
    assert run_cli(["evolve", str(file)])[0] == 0
    assert contents(tmp_path / "pool")[: len(kept) - 2] == kept[:-2]
    with Pool(tmp_path / "pool") as opened:
        assert opened.evaluations == 400


@pytest.mark.slow
def test_a_full_disk_while_exporting(pool: Path) -> None:
    out = pool.parent / "out"
    done = _limited(["export", str(pool), "-o", str(out)], 500)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert not list(pool.parent.glob(".out*"))
    assert run_cli(["status", str(pool)])[0] == 0


def test_wrong_usage() -> None:
    for arguments in (["evolve"], ["status"], ["merge", "a"], ["fly"], ["show"]):
        found, _, error = run_cli(arguments)
        assert found == 2
        assert "Traceback" not in error


def test_merges_by_hand_that_make_no_sense(tmp_path: Path) -> None:
    write_run(tmp_path)
    one, two = (str(tmp_path / f"seed{n}.safetensors") for n in (1, 2))
    out = ["-o", str(tmp_path / "out")]
    for options in (
        ["--ratio", "1.5", "--split", "0.5"],
        ["--ratio", "nan", "--split", "0.5"],
        ["--ratio", "0.5", "--split", "2"],
        ["--ratio", "0.5", "--split", "no.such.tensor"],
        ["--ratio", "0.5", "--split", "0.5", "--angle", "acute"],
        ["--ratio", "half", "--split", "0.5"],
    ):
        found, _, error = run_cli(["merge", one, two, *out, *options])
        assert found in (1, 2), options
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()
    found, _, error = run_cli(["merge", one, "none", *out, "--ratio", "0.5", "--split", "0.5"])
    assert found == 1
    assert "none" in error


def test_json_of_an_abused_pool_is_still_json(pool: Path) -> None:
    code, out, _ = run_cli(["status", str(pool), "--json"])
    assert code == 0
    assert json.loads(out)["evaluations"] == 10


HOSTILE = [
    "x`touch pwned`$(touch pwned)<img src=http://e.x/a.png>![a](http://e.x/b.png)",
    "right to left \u202e and \u2028 a line \x85 and ```\n```sh\n---\n# title",
    "{{7*7}} {% for x in [] %} [bold red]x[/] \x1b[31m </style><script>alert(1)</script>",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_would_be_more_than_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    seeds = [{"path": "seed1.safetensors", "name": name}, "seed2.safetensors"]
    task = {"name": name[::-1], "evaluator": "classifier", "data": "data.npz"}
    file = write_run(tmp_path, seeds=seeds, tasks=[task], budget=6)
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    for command in (
        ["evolve", str(file)],
        ["status", "pool"],
        ["show", "pool", "0"],
        ["show", "pool", "best"],
        ["report", "pool", "-o", "page.html"],
        ["export", "pool", "0", "-o", "out"],
    ):
        code, out, error = run_cli(command)
        assert code == 0, error
        shown += [out, error]
    card, page = (tmp_path / "out/README.md").read_text(), (tmp_path / "page.html").read_text()
    for text in (*shown, card, page):
        assert not {"\x1b", "\u202e", "\u2028", "\x85"} & set(text)
    assert "<script" not in page and "<img src=http" not in page
    assert ("{{7*7}}" in name) == ("{{7*7}}" in page)
    front, body = card.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["base_model"][0] == name
    # One block of code, for the command, whatever is quoted in it.
    assert body.count("\n```") == 2 and "\n# title" not in body
    plain = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", body.replace("\\`", ""), flags=re.DOTALL)
    assert "<img" not in plain and "![a](" not in plain
    assert not (tmp_path / "pwned").exists()
