"""What a user names for output replaces only what genepool wrote of that kind, in every command."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

import genepool
from genepool.errors import GenepoolError, InputError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.study.compare import compare
from genepool.ui.figures import run_figure
from genepool.ui.report.report import write_report
from tests.cli import run_cli
from tests.runs import seed_file, write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("outputs")
    evolve(write_run(directory, budget=12))
    (directory / "notes.md").write_text("# My notes, which nobody else has\n")
    (directory / "page.html").write_text("<!DOCTYPE html>\n<title>about genepool</title>\n")
    (directory / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    (directory / "models").mkdir()
    (directory / "models/only").mkdir()
    (directory / "models/only/model.safetensors").write_bytes(
        (directory / "seed1.safetensors").read_bytes()
    )
    for number, link in enumerate((os.symlink, os.link)):
        link(directory / "seed1.safetensors", directory / f"link{number}.html")
        link(directory / "pool/pool.sqlite", directory / f"pool{number}.html")
    (directory / "dangling.html").symlink_to(directory / "nowhere")
    os.mkfifo(directory / "pipe.html")
    return directory


def digests(directory: Path) -> dict[str, str]:
    """All that lies in a directory, links by what they lead to."""
    found: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif name.endswith(("-wal", "-shm")):
            continue  # SQLite makes and removes them for readers
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = oct(path.stat().st_mode)
    return found


TAKEN = [
    "pool/pool.sqlite",
    "pool/../pool/pool.sqlite",
    "pool/pool.sqlite-wal",
    "pool/pool.sqlite-shm",
    "pool/pool.sqlite-journal",
    "pool/writer.pid",
    "pool",
    "seed1.safetensors",
    "models/only",
    "models/only/model.safetensors",
    "run.yaml",
    "data.npz",
    "notes.md",
    "page.html",
    "link0.html",
    "link1.html",
    "pool0.html",
    "pool1.html",
    "dangling.html",
    "pipe.html",
    "picture.png",
]

COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "report": lambda d: ["report", str(d / "pool")],
    "export": lambda d: ["export", str(d / "pool"), "best"],
    "merge": lambda d: ["merge", seed_file(d, 1), seed_file(d, 2), "--ratio", "0.5"],
    "rebuild": lambda d: [
        "rebuild",
        str(d.parent / "recipe" / "genepool.json"),
        *(f"seed{n}={seed_file(d, n)}" for n in (1, 2)),
    ],
}


@pytest.fixture(scope="module")
def recipe(finished: Path) -> Path:
    out = finished.parent / "recipe"
    return genepool.merge(seed_file(finished, 1), seed_file(finished, 2), out, ratio=0.5).directory


# Each name with some of the commands; all of them in `make test-all`.
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] if number % 3 else [])
    for number, case in enumerate(itertools.product(TAKEN, COMMANDS))
]


@pytest.mark.parametrize("more", [[], pytest.param(["--overwrite"], marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "command"), CASES)
def test_nothing_of_the_users_is_replaced(
    finished: Path, recipe: Path, command: str, name: str, more: list[str]
) -> None:
    before = digests(finished)
    if command != "report" and name == "dangling.html":
        return  # a directory that is made through a link destroys nothing
    code, out, error = run_cli([*COMMANDS[command](finished), "-o", str(finished / name), *more])
    assert code == 1, out
    assert error.count("\n") == 1, error
    assert Path(name).name in error
    assert digests(finished) == before
    with Pool(finished / "pool") as pool:
        assert pool.evaluations == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
def test_python_functions_that_write_files(finished: Path, name: str) -> None:
    before = digests(finished)
    with Pool(finished / "pool") as pool:
        for write in (write_report, run_figure):
            with pytest.raises(InputError):
                write(pool, finished / name)
    assert digests(finished) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("curves.csv", "day,money\n1,2\n"),
        ("summary.csv", "strategy;money\n"),
        ("table.md", "# What I think\n"),
        ("comparison.png", "\x89PNG mine"),
        ("comparison.svg", "<?xml version='1.0'?><svg>mine</svg>"),
    ],
)
def test_a_comparison_among_ones_own_files(tmp_path: Path, file: str, text: str) -> None:
    run = write_run(tmp_path / "run", budget=8)
    out = tmp_path / "out"
    out.mkdir()
    (out / file).write_bytes(text.encode("latin-1"))
    given = ["compare", str(run), "--strategies", "m2n2", "--runs", "1", "-o", str(out)]
    code, _, error = run_cli(given)
    assert (code, error.count("\n")) == (1, 1), error
    assert file in error
    assert [entry.name for entry in out.iterdir()] == [file], "and nothing has been begun"
    assert (out / file).read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("place", ["pool", "link"])
def test_a_comparison_in_a_pool(finished: Path, tmp_path: Path, place: str) -> None:
    before = digests(finished)
    out = finished / "pool"
    if place == "link":
        (tmp_path / "link").symlink_to(out)
        out = tmp_path / "link"
    with pytest.raises(InputError, match="is a pool"):
        compare(finished / "run.yaml", out, strategies=["m2n2"], runs=1)
    assert digests(finished) == before


def test_a_demo_among_ones_own_files(tmp_path: Path) -> None:
    run = write_run(tmp_path, budget=8)
    before = digests(tmp_path)
    code, _, error = run_cli(["demo", "digits", "--budget", "5", "--pool", str(run.parent)])
    assert code == 1
    assert "another" in error
    assert digests(tmp_path) == before


@pytest.mark.slow
def test_what_genepool_wrote_is_replaced(finished: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "run.png"
    empty = tmp_path / "empty.html"
    empty.touch()
    with Pool(finished / "pool") as pool:
        for _ in range(2):
            write_report(pool, page)
            run_figure(pool, picture)
        write_report(pool, empty)
    (tmp_path / "link.html").symlink_to(page)
    code, _, error = run_cli(["report", str(finished / "pool"), "-o", str(tmp_path / "link.html")])
    assert code == 0, error
    assert b"genepool" in page.read_bytes() and b"genepool" in empty.read_bytes()
    # Of another kind it is not.
    with Pool(finished / "pool") as pool, pytest.raises(InputError, match="is not a report"):
        write_report(pool, picture)
    with Pool(finished / "pool") as pool, pytest.raises(InputError, match="is not a figure"):
        run_figure(pool, page)


@pytest.mark.slow
def test_a_comparison_goes_on_where_its_files_are(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", budget=8), tmp_path / "out"
    given = ["compare", str(run), "--strategies", "m2n2", "--runs", "2", "-o", str(out)]
    for _ in range(2):
        code, _, error = run_cli(given)
        assert code == 0, error
    names = {entry.name for entry in out.iterdir()}
    assert {"curves.csv", "summary.csv", "table.md", "comparison.png", "comparison.svg"} <= names


@pytest.mark.parametrize("command", COMMANDS)
def test_what_genepool_wrote_is_replaced_where_that_is_said(
    finished: Path, recipe: Path, tmp_path: Path, command: str
) -> None:
    given = [*COMMANDS[command](finished), "-o", str(tmp_path / "out.html")]
    pieces = [] if command == "report" else ["--shard-size", "200"]
    assert run_cli([*given, *pieces])[0] == 0
    first = digests(tmp_path)
    refused = [*given, "--no-overwrite"] if command == "report" else given
    code, _, error = run_cli(refused)
    assert (code, error.count("\n")) == (1, 1)
    assert "already" in error
    assert digests(tmp_path) == first
    assert run_cli([*given, "--overwrite"])[0] == 0
    second = digests(tmp_path)
    assert (len(second) < len(first)) == bool(pieces)
    assert not any("-of-" in name or name.endswith(".tmp") for name in second)
    assert run_cli([*given, "--overwrite"])[0] == 0
    # A report says when it was made.
    third = digests(tmp_path)
    assert third.keys() == second.keys() and (command == "report" or third == second)


def _trained(out: Path) -> None:
    """As a trainer does that saves where it has loaded from."""
    save_file(load_file(out / "model.safetensors"), out / "model.safetensors")


NOT_OWN: dict[str, tuple[Callable[[Path], object], str]] = {
    "results beside it": (lambda out: (out / "results.json").write_text("{}"), "results.json"),
    "a licence of one's own": (lambda out: (out / "LICENSE").write_text("mine"), "'LICENSE'"),
    "notices of one's own": (
        lambda out: (out / "NOTICE-customers.txt").write_text("mine"),
        "NOTICE-customers.txt",
    ),
    "a licence that a recipe does not say": (
        lambda out: (
            (out / "genepool.json").write_text('{"genome": "0", "licences": ["config.json", 1]}'),
            (out / "LICENSE-a").write_text("mine"),
        ),
        "LICENSE-a",
    ),
    "a folder of git": (lambda out: (out / ".git/HEAD").write_text("ref"), ".git/HEAD"),
    "trained further": (_trained, "model.safetensors"),
    "no recipe": (lambda out: (out / "genepool.json").unlink(), "genepool.json"),
    "another's recipe": (lambda out: (out / "genepool.json").write_text("[]"), "genepool.json"),
    "a recipe that never ends": (
        lambda out: ((out / "genepool.json").unlink(), os.mkfifo(out / "genepool.json")),
        "genepool.json",
    ),
    "a link for weights": (
        lambda out: (
            (out / "model.safetensors").rename(out.parent / "kept.safetensors"),
            (out / "model.safetensors").symlink_to(out.parent / "kept.safetensors"),
        ),
        "model.safetensors",
    ),
    "damaged weights": (
        lambda out: (out / "model.safetensors").write_bytes(b"my only copy"),
        "model.safetensors",
    ),
}


@pytest.mark.parametrize("case", NOT_OWN)
def test_what_became_of_a_checkpoint_since_is_not_replaced(
    finished: Path, tmp_path: Path, case: str
) -> None:
    out, (change, named) = tmp_path / "out", NOT_OWN[case]
    models = [seed_file(finished, 1), seed_file(finished, 2)]
    genepool.merge(models[0], models[1], out, ratio=0.5)
    (out / ".git").mkdir()
    change(out)
    before = digests(tmp_path)
    for overwrite in (True, False):
        with pytest.raises(InputError) as caught:
            genepool.merge(models[0], models[1], out, ratio=0.4, overwrite=overwrite)
        assert "\n" not in str(caught.value)
        assert (named in str(caught.value)) == overwrite
        assert digests(tmp_path) == before


def test_a_seed_is_not_replaced_by_its_child(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    genepool.merge(seed_file(finished, 1), seed_file(finished, 2), out, ratio=0.5)
    (tmp_path / "link").symlink_to(out)
    seeds = [str(out), str(seed_file(finished, 2))]
    evolve(write_run(tmp_path / "run", seeds=seeds, budget=3))
    before = digests(out)
    with Pool(tmp_path / "run/pool") as pool:
        for place in (out, tmp_path / "link", out / "../out"):
            with pytest.raises(InputError, match="is among what is merged"):
                genepool.export(pool, "best", place, overwrite=True)
    with pytest.raises(InputError, match="is among what is merged"):
        genepool.blend([seed_file(finished, 1), out], out, overwrite=True)
    assert digests(out) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_finished_leaves_what_was_there(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    late: bool,
) -> None:
    out = tmp_path / "out"
    genepool.merge(seed_file(finished, 1), seed_file(finished, 2), out, ratio=0.5)
    before = digests(tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        begins = target == out if late else self == out
        if begins and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            if not late:  # as Ctrl-C comes right after a call
                rename(self, target)
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((GenepoolError, KeyboardInterrupt)):
        genepool.merge(
            seed_file(finished, 1), seed_file(finished, 2), out, ratio=0.4, overwrite=True
        )
    (tmp_path / "once").unlink()
    assert digests(tmp_path) == before


def test_a_page_in_python(finished: Path, tmp_path: Path) -> None:
    page = genepool.report(finished / "pool", tmp_path / "page.html")
    assert genepool.report(finished / "pool", page) == page
    with pytest.raises(InputError, match="is there already"):
        genepool.report(finished / "pool", page, overwrite=False)


@pytest.mark.slow
@pytest.mark.parametrize("text", ['{"mine": 1}', "[1, 2]", "not JSON at all", '{"a": null}'])
def test_a_file_of_the_users_with_the_name_of_a_cache(tmp_path: Path, text: str) -> None:
    """As where the pool is the folder of the seeds."""
    file = write_run(tmp_path, pool=".", budget=3)
    (tmp_path / "digests.json").write_text(text)
    evolve(file)
    evolve(file, budget=5)
    assert (tmp_path / "digests.json").read_text() == text
    with Pool(tmp_path) as pool:
        genepool.export(pool, "best", tmp_path / "out")
    assert (tmp_path / "digests.json").read_text() == text
    assert not (tmp_path / "out/digests.json").exists()
