"""The commands, over real pools: what they print, what they write, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import genepool
from genepool.core.genome import express
from genepool.core.slerp import ANGLES
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.file.run_settings import RunConfig
from genepool.ui.cli.main import cli
from tests.cli import run_cli
from tests.runs import contents, write_run

HEAVY = ("torch", "numba", "transformers", "sklearn", "scipy", "matplotlib", "pydantic", "yaml")


@pytest.fixture(autouse=True)
def _no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no run takes so long that it tells how far it is."""
    monkeypatch.setattr("genepool.ui.terminal.progress._FIRST_LINE", 1e9)


def ok(*arguments: str) -> str:
    """Standard output of a command that must succeed and leave standard error empty."""
    code, out, error = run_cli(list(arguments))
    assert (code, error) == (0, ""), error
    return out


def ok_json(*arguments: str) -> dict[str, object]:
    found = json.loads(ok(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def refused(*arguments: str) -> tuple[int, str]:
    """Exit code and the one line of a command that must fail."""
    code, out, error = run_cli(list(arguments))
    assert out == ""
    assert error.startswith("genepool: ")
    assert error.count("\n") == 1, error
    return code, error


# status and show


def test_status_prints_what_the_pool_says(recipes: Path) -> None:
    with Pool(recipes) as pool:
        expected = pool.status()
    assert ok_json("status", str(recipes)) == expected
    text = ok("status", str(recipes))
    assert "children  60 of 60 (" in text
    for seed in expected["seeds"]:
        assert re.search(rf"^{seed['name']} .* {100 * seed['train']:.1f} %", text, re.MULTILINE)
    champion = expected["champion"]
    pattern = rf"^champion +{champion['member']} +{100 * champion['train']:.1f} %"
    assert re.search(pattern, text, re.MULTILINE)
    assert "archive, 6 members, best first" in text


def test_status_has_the_keys_that_scripts_rely_on(recipes: Path) -> None:
    status = ok_json("status", str(recipes))
    fixed = "evaluations budget accepted examples_evaluated examples_total archive champion seeds"
    assert set(fixed.split()) <= set(status)
    archive, champion, seeds = status["archive"], status["champion"], status["seeds"]
    assert isinstance(archive, list)
    assert isinstance(champion, dict)
    assert isinstance(seeds, list)
    assert all({"member", "slot", "train", "genome"} <= set(entry) for entry in archive)
    assert {"member", "train", "held_out", "genome"} <= set(champion)
    assert all({"name", "train", "held_out"} <= set(seed) for seed in seeds)


def test_show_prints_what_the_pool_knows(recipes: Path, vectors: Path, two_tasks: Path) -> None:
    for path in (recipes, vectors, two_tasks):
        with Pool(path) as pool:
            champion = pool.champion()
            assert champion is not None
            expected = describe(pool, champion)
            stopped = next(r.id for r in pool.records() if r.verdict == "stopped")
        assert ok_json("show", str(path), "best") == expected
        text = ok("show", str(path), "best")
        first, second = expected["parents"]
        assert f"parents    {first}, {second}" in text
        assert f"{expected['generation']} generations" in text
        assert str(expected["digest"]) in text
        assert "certain to be the least fit" in ok("show", str(path), str(stopped))
        assert "member 1, seed seed2" in ok("show", str(path), "seed2")
    assert "dense, 195 values" in ok("show", str(vectors), "best")
    assert re.search(
        r"^clouds +120 +120 .*\nsmooth +32 +32 ", ok("show", str(two_tasks), "0"), re.M
    )


def test_a_failed_child_says_why(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(
        "examples = [1, 2, 3]\n"
        "def score(model, chosen):\n"
        "    if model['hidden.weight'][0, 0] not in (WHOLE, OTHER):\n"
        "        raise ValueError('merged [red]badly[/red]\\x1b[31m')\n"
        "    return [0.5 for _ in chosen]\n"
    )
    run = write_run(
        tmp_path,
        tasks=[{"name": "fragile", "evaluator": "function", "function": "fragile:score"}],
        budget=3,
    )
    whole, other = (load_file(tmp_path / f"seed{k}.safetensors") for k in (1, 2))
    with (tmp_path / "fragile.py").open("a") as file:
        for name, arrays in (("WHOLE", whole), ("OTHER", other)):
            file.write(f"{name} = {float(arrays['hidden.weight'][0, 0])!r}\n")
    ok("evolve", str(run))
    status = ok_json("status", str(tmp_path / "pool"))
    assert status["failed"] == 3
    assert status["last_failure"]["member"] == 4
    assert "merged [red]badly[/red]" in status["last_failure"]["error"]
    told = " ".join(ok("status", str(tmp_path / "pool")).split())
    assert "failed last member 4: " in told
    assert "merged [red]badly[/red]" in told
    assert "\x1b" not in told
    text = ok("show", str(tmp_path / "pool"), "2")
    assert "failed: could not be scored" in text
    assert "merged [red]badly[/red]" in text
    assert "\x1b" not in text


def test_what_a_guard_turned_away_is_told(guarded: Path) -> None:
    status = ok_json("status", str(guarded))
    (guard,) = status["guards"]
    with Pool(guarded) as pool:
        turned = [record.id for record in pool.records() if record.verdict == "guarded"]
    assert len(turned) == status["guarded"] == guard["broken"] > 0
    text = ok("status", str(guarded))
    assert f", {len(turned)} guarded" in text
    assert (
        f"guards; {len(turned)} of the {guard['checked']} children that were asked broke one"
        in text
    )
    best, bound = guard["best_seed"]["score"], guard["bound"]
    pattern = rf"^others +{100 * best:.1f} % +{100 * bound:.1f} % .* {len(turned)}\s*$"
    assert re.search(pattern, text, re.MULTILINE)
    text = ok("show", str(guarded), str(turned[0]))
    assert "guarded: it fell too far below the best seed" in text
    assert "reason     guard 'others': scores 0." in text
    assert re.search(rf"^others .* {100 * bound:.1f} %", text, re.MULTILINE)


# evolve


def test_evolve_goes_on_and_then_does_nothing(tmp_path: Path) -> None:
    run = str(write_run(tmp_path, budget=20))
    first = ok_json("evolve", run, "--budget", "8")
    assert (first["session"], first["evaluations"], first["budget"]) == (8, 8, 8)
    second = ok_json("evolve", run)
    assert (second["session"], second["evaluations"], second["budget"]) == (12, 20, 20)
    before = contents(tmp_path / "pool")
    third = ok_json("evolve", run)
    assert (third["session"], third["evaluations"]) == (0, 20)
    assert contents(tmp_path / "pool") == before
    assert "nothing to do: 20 children are already scored" in ok("evolve", run)
    assert "5 children in" in ok("evolve", run, "--budget", "25")


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["serial", "process"])
def test_what_a_function_prints_is_no_part_of_the_result(tmp_path: Path, executor: str) -> None:
    (tmp_path / "talks.py").write_text(
        "import os\n"
        "print('loading')\n"
        "examples = [1, 2, 3]\n"
        "def score(model, chosen):\n"
        "    print('scoring')\n"
        "    os.write(1, b'from below\\n')\n"
        "    return [0.5 for _ in chosen]\n"
    )
    tasks = [{"name": "talks", "evaluator": "function", "function": "talks:score"}]
    run = write_run(tmp_path, tasks=tasks, budget=3, executor=executor)
    command = [sys.executable, "-m", "genepool", "evolve", str(run), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["evaluations"] == 3
    for words in ("loading", "scoring", "from below"):
        assert words in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_keeps_everything(tmp_path: Path, told: signal.Signals) -> None:
    evolve = [sys.executable, "-m", "genepool", "evolve"]
    run = write_run(tmp_path / "stopped", budget=10**6)
    process = subprocess.Popen(
        [*evolve, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(1200):
            if done(tmp_path / "stopped/pool") >= 20 or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(told)
        out, error = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, error
    assert out == ""
    assert error.splitlines()[-1].startswith("genepool: interrupted; what was scored is kept")
    assert "Traceback" not in error
    reached = done(tmp_path / "stopped/pool")
    assert reached >= 20
    ok("evolve", str(run), "--budget", str(reached + 10))
    ok("evolve", str(write_run(tmp_path / "whole", budget=reached + 10)))
    stopped, whole = contents(tmp_path / "stopped/pool"), contents(tmp_path / "whole/pool")
    assert stopped[:-2] == whole[:-2]
    assert stopped[-1] == whole[-1]


def done(pool: Path) -> int:
    try:
        with Pool(pool) as opened:
            return opened.evaluations
    except genepool.GenepoolError:
        return 0


# demo


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        pytest.param([], id="specialists"),
        pytest.param(["--from-scratch"], id="from scratch"),
    ],
)
def test_the_demo_ends_with_a_model_better_than_its_seeds(tmp_path: Path, start: list[str]) -> None:
    pool = tmp_path / "pool"
    common = ["demo", "digits", *start, "--pool", str(pool), "--seed", "4"]
    found = json.loads(ok(*common, "--budget", "150", "--json"))
    assert (found["session"], found["evaluations"]) == (150, 150)
    champion, seeds, single = found["champion"], found["seeds"], found["brute_force"]
    assert all(champion["train"] > seed["train"] for seed in seeds)
    assert all(champion["held_out"] > seed["held_out"] for seed in seeds)
    assert single["train"] >= max(seed["train"] for seed in seeds)
    assert Path(found["figure"]).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((Path(found["checkpoint"]) / "genepool.json").read_text())
    assert stored["genome"] == champion["genome"]
    assert {key: found[key] for key in ok_json("status", str(pool))} == ok_json("status", str(pool))
    text = ok(*common, "--budget", "160")
    assert re.search(rf"^best single merge +{100 * single['train']:.1f} %", text, re.MULTILINE)
    assert "10 children in" in text
    for name in (f"{pool}/member-", f"{pool}/run.png"):
        assert name in text
    code, error = refused(*common[:-1], "5")
    assert code == 1
    assert "another demo or run was begun here" in error
    assert ok_json("status", str(pool))["evaluations"] == 160


# export and merge


def test_export_writes_the_champion_and_says_what_it_is(recipes: Path, tmp_path: Path) -> None:
    found = ok_json("export", str(recipes), "-o", str(tmp_path / "best"))
    with Pool(recipes) as pool:
        champion = pool.champion()
        assert champion is not None
        record, genome = pool.record(champion), pool.genome(champion)
    assert found["directory"] == str(tmp_path / "best")
    assert (found["member"], found["genome"]) == (champion, record.digest)
    stored = json.loads((tmp_path / "best/genepool.json").read_text())
    # All 120 selection and 30 held-out examples were asked of what was written.
    told = {"directory": str(tmp_path / "best"), "verified": 150, "unverified": ""}
    assert {**stored, **told} == found
    ours = load_file(tmp_path / "best/model.safetensors")
    seeds = [load_file(recipes.parent / f"seed{k}.safetensors") for k in (1, 2)]
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    assert set(ours) == set(names)
    assert isinstance(genome, genepool.core.genome.Recipe)
    flat = [np.concatenate([arrays[name].ravel() for name in names]) for arrays in seeds]
    assert np.array_equal(
        np.concatenate([ours[name].ravel() for name in names]), express(genome, flat)
    )
    out = ok("export", str(recipes), "seed1", "-o", str(tmp_path / "first"), "--dtype", "F16")
    wrote, unscored = out.splitlines()
    assert wrote == f"wrote {tmp_path / 'first'} (genome {record_of(recipes, 0)})"
    assert "this file is written as F16 and was not scored" in unscored
    halves = load_file(tmp_path / "first/model.safetensors")
    for name in names:
        assert np.array_equal(halves[name], seeds[0][name].astype(np.float16))


def record_of(path: Path, member: int) -> str | None:
    with Pool(path) as pool:
        return pool.record(member).digest


def test_export_finds_seeds_that_have_moved(recipes: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(recipes, pool)
    moved = write_run(tmp_path / "elsewhere").parent / "seed2.safetensors"
    with Pool(pool) as opened:
        names = [seed.name for seed in opened.seeds()]
    assert names == ["seed1", "seed2"]
    target = str(tmp_path / "out")
    ok("export", str(pool), "-o", target, "--moved", f"seed2={moved}")
    code, error = refused("export", str(pool), "-o", target)
    assert code == 1
    assert "not an empty directory" in error
    target = str(tmp_path / "out2")
    wrong = moved.with_name("seed3.safetensors")
    for given, words in (
        (f"seed2={wrong}", "holds other tensors"),
        (f"seed9={moved}", "no seed named 'seed9'"),
        (f"seed2={tmp_path / 'gone'}", "--moved seed2=PATH"),
    ):
        code, error = refused("export", str(pool), "-o", target, "--moved", given)
        assert code == 1
        assert words in error
    code, error = refused("export", str(pool), "-o", target, "--moved", "seed2")
    assert (code, "expected NAME=PATH; got 'seed2'" in error) == (2, True)
    assert not Path(target).exists()


@pytest.mark.parametrize("angle", ANGLES)
def test_merge_is_the_merge_of_the_core(tmp_path: Path, angle: str) -> None:
    folder = write_run(tmp_path).parent
    a, b = folder / "seed1.safetensors", folder / "seed2.safetensors"
    out = tmp_path / "merged"
    common = ("merge", str(a), str(b), "-o", str(out), "--ratio", "0.3", "--angle", angle)
    found = ok_json(*common, "--split", "output.weight")
    assert found["split"] == 8 * 16 + 16
    assert found["angle"] == angle
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    flat = [np.concatenate([load_file(file)[name].ravel() for name in names]) for file in (a, b)]
    ours = np.concatenate([load_file(out / "model.safetensors")[name].ravel() for name in names])
    if angle != "tensor":
        expected = genepool.merge_vectors(*flat, 0.3, 144, angle)  # type: ignore[arg-type]
    else:
        edges = [0, 128, 144, 192, 195]
        expected = np.concatenate(
            [
                genepool.merge_vectors(
                    flat[0][i:j], flat[1][i:j], 0.3 if i < 144 else 0.7, j - i, "global"
                )
                for i, j in pairwise(edges)
            ]
        )
    assert np.allclose(ours, expected, rtol=1e-6, atol=1e-7)


# Help, usage, errors


def test_flags_agree_with_the_run_file_and_the_core() -> None:
    """The command line repeats these, because importing where they are defined takes time."""
    options = {
        (command, parameter.name): parameter
        for command in ("evolve", "merge")
        for parameter in cli.commands[command].params
    }
    assert tuple(options["merge", "angle"].type.choices) == ANGLES  # type: ignore[attr-defined]
    limits = {type(m).__name__: m for m in RunConfig.model_fields["budget"].metadata}
    kind = options["evolve", "budget"].type
    assert (kind.min, kind.max) == (limits["Ge"].ge, limits["Le"].le)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["status"], 2, "Missing argument 'POOL' (see `genepool status --help`)"),
        (["stats", "x"], 2, "No such command 'stats'"),
        (["status", "x", "--jsno"], 2, "No such option"),
        (["evolve", "x.yaml", "--budget", "-1"], 2, "-1 is not in the range"),
        (["evolve", "x.yaml", "--budget", "many"], 2, "'many' is not a valid whole number"),
        (["merge", "a", "b", "-o", "c"], 2, "issing option '--ratio'"),
        (
            ["merge", "a", "b", "-o", "c", "--ratio", "2"],
            2,
            "expected numbers from 0 (all of the first",
        ),
        (["merge", "a", "b", "-o", "c", "--ratio", "1", "--angle", "x"], 2, "'x' is not one of"),
        (
            ["merge", "a", "b", "--ratio", "1", "--split", "7", "-o", "c"],
            2,
            "--split: expected a f",
        ),
        (
            ["merge", "a", "b", "--method", "linear", "--weight", "1", "-o", "c"],
            2,
            "weights: expected 2",
        ),
        (["show", "a", "--moved", "b"], 2, "--moved: expected NAME=PATH; got"),
        (["rebuild", "a", "b", "-o", "c"], 2, "--moved: expected NAME=PATH; got 'b'"),
        (["export", "a", "-o", "c", "--moved", "b=1", "--moved", "b=2"], 2, "'b' is given twice"),
        (["merge", "a", "b", "-o", "c", "--ratio", "1", "--rename", "x"], 2, "expected OLD=NEW"),
        (["status", "nowhere"], 1, "nowhere: there is no pool here"),
        (["show", "nowhere", "best"], 1, "nowhere: there is no pool here"),
        (["evolve", "nowhere.yaml"], 1, "nowhere.yaml: cannot read the run file"),
        (["merge", "nowhere", "b", "-o", "c", "--ratio", "0.5"], 1, "nowhere"),
        (["status", "no\x1b[31m\nwhere"], 1, r"no\x1b[31m where: there is no pool here"),
    ],
)
def test_a_refusal_is_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, error = refused(*arguments)
    assert found == code
    assert words in error


def test_no_command_prints_the_help_and_is_wrong_usage() -> None:
    code, out, error = run_cli([])
    assert code == 2
    assert "Usage: genepool" in out + error


def test_version() -> None:
    assert ok("--version") == f"genepool {genepool.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--json"], []])
def test_a_reader_that_has_left_gets_no_traceback(recipes: Path, flags: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = subprocess.run(
            [sys.executable, "-m", "genepool", "status", str(recipes), *flags],
            stdout=writer,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writer)
    assert (found.returncode, found.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["--help", "--version", "status", "show", "evolve --help"])
def test_commands_that_only_read_import_little(recipes: Path, command: str) -> None:
    arguments = command.split()
    if command in ("status", "show"):
        arguments += [str(recipes)] + (["best"] if command == "show" else [])
    script = (
        "import sys\n"
        "from genepool.ui.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0
    assert found.stderr.strip() == "[]"
    assert found.stdout


def test_the_console_script_runs(recipes: Path) -> None:
    script = Path(sys.executable).with_name("genepool")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "COLUMNS": "20"}
    for arguments in (["--help"], ["status", str(recipes), "--json"]):
        subprocess.run([script, *arguments], check=True, capture_output=True, env=environment)
    failed = subprocess.run([script, "status", "nowhere"], capture_output=True, text=True)
    assert failed.returncode == 1


# Scores task by task, and a champion that is a seed


def test_scores_are_told_task_by_task(two_tasks: Path) -> None:
    status = genepool.status(two_tasks)
    with Pool(two_tasks) as pool:
        sizes = [task.examples for task in pool.tasks()]
        for member, model in [
            *enumerate(status["seeds"]),
            (status["champion"]["member"], status["champion"]),
        ]:
            scores, held_out = pool.record(member).scores, pool.held_out_scores(member)
            assert scores is not None
            means = [part.mean(dtype=float) for part in np.split(scores, [sizes[0]])]
            assert [task["train"] for task in model["tasks"]] == pytest.approx(means)
            assert [task["name"] for task in model["tasks"]] == ["clouds", "smooth"]
            assert held_out is not None
            held = np.split(held_out, [pool.tasks()[0].held_out])
            expected = [part.mean(dtype=float) for part in held]
            assert [task["held_out"] for task in model["tasks"]] == pytest.approx(expected)
    text = ok("status", str(two_tasks))
    assert re.search(r"^ +member +selection +held-out +clouds +smooth$", text, re.MULTILINE)
    first = status["seeds"][0]["tasks"][0]
    both = f"{100 * first['train']:.1f} % / {100 * first['held_out']:.1f} %"
    assert re.search(rf"^seed1 .* {both} ", text, re.MULTILINE)
    assert "task by task: selection / held-out" in text


def test_it_is_told_that_no_child_has_beaten_the_best_seed(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=0)
    text = ok("evolve", str(run))
    best = max(genepool.status(tmp_path / "pool")["seeds"], key=lambda seed: seed["train"])["name"]
    told = f"no child has beaten the best seed, {best}"
    assert told in text
    assert told in ok("status", str(tmp_path / "pool"))
    assert f"next: genepool export {tmp_path / 'pool'} -o champion" in text.replace(
        f"{sys.executable} -m genepool", "genepool"
    ).replace(str(Path(sys.executable).with_name("genepool")), "genepool")
    code, _, error = run_cli(["export", str(tmp_path / "pool"), "-o", str(tmp_path / "out")])
    assert code == 0
    assert f"the champion is a seed: this is {best} as it is" in error


def test_what_is_not_there_has_its_neighbours_named(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(recipes.parent, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    assert "did you mean 'pool'?" in refused("status", "pool/pool.sqlite")[1]
    assert "did you mean '../runs/pool'?" in refused("status", "../runs")[1]
    assert "did you mean" not in refused("status", "pool/nothing")[1]
    assert "directory that stands behind 'pool' in it" in refused("status", "run.yaml")[1]
    assert "did you mean 'run.yaml'?" in refused("evolve", "run.yml")[1]
    assert "did you mean 'run.yaml'?" in refused("evolve", ".")[1]
    assert "this is a pool" in refused("evolve", "pool")[1]
    assert "did you mean" not in refused("evolve", "nothing-like-it.txt")[1]


def test_the_champion_is_shown_and_the_next_command_fits_the_folder(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ok("show", str(recipes)) == ok("show", str(recipes), "best")
    shutil.copytree(recipes.parent, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: "genepool")
    text = ok("evolve", "runs/run.yaml")
    assert "nothing to do: 60 children are already scored\n" in text
    assert "\npool      runs/pool\n" in text
    assert text.endswith("\nnext: genepool export runs/pool -o champion\n")
    assert ok("evolve", "runs/run.yaml", "--budget", "61").startswith("1 child in ")
    ok("export", "runs/pool", "-o", "champion", "--no-verify")
    assert "overwrite it (--overwrite)" in refused("export", "runs/pool", "-o", "champion")[1]
    ok("export", "runs/pool", "-o", "champion", "--no-verify", "--overwrite")


def test_a_pool_and_a_run_file_are_no_models(recipes: Path, tmp_path: Path) -> None:
    seed, out = str(recipes.parent / "seed1.safetensors"), str(tmp_path / "out")
    merged = ("-o", out, "--ratio", "0.5")
    assert f"genepool export {recipes} -o DIR" in refused("merge", seed, str(recipes), *merged)[1]
    run = str(recipes.parent / "run.yaml")
    assert "is a run file, and no model" in refused("merge", run, seed, *merged)[1]
    file = write_run(tmp_path, seeds=["seed1.safetensors", str(recipes)])
    assert f"{recipes}: is a pool" in refused("evolve", str(file))[1]


def test_the_list_of_commands_is_in_whole_sentences() -> None:
    listed = ok("--help").partition("Commands:")[2].splitlines()
    assert len(listed) > 9
    assert [line for line in listed if line and not line.endswith(".")] == []
    assert [line for line in listed if line.endswith("..")] == []
