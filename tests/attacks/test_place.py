"""Commands in places that others have spoilt: streams, folders, memory and names.

Each ends as it would elsewhere, or with one line that says what is wrong with the place.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genepool.pool.reader import Pool
from tests.cli import run_cli
from tests.runs import contents, write_run

SLOW = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "from genepool.ui.cli.main import script; script()"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file whose pool has its ten children."""
    file = write_run(tmp_path_factory.mktemp("place"), budget=10)
    assert run_cli(["evolve", str(file)])[0] == 0
    return file


def closing(*numbers: int) -> Any:
    """For a process about to start: close these descriptors."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def genepool(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as the console script does."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    words = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(words, text=True, timeout=120, errors="backslashreplace", **options)


def one_line(done: subprocess.CompletedProcess[str], *words: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["status"], pytest.param(["status", "--json"], marks=SLOW), ["show"]]
)
def test_standard_output_is_full(run: Path, command: list[str]) -> None:
    member = ["3"] if command == ["show"] else []
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = genepool(command[0], run.parent / "pool", *member, *command[1:], stdout=full)
    one_line(done, "cannot write to standard output", "No space left")


@pytest.mark.parametrize("command", ["status", pytest.param("show", marks=SLOW)])
def test_standard_output_is_closed(run: Path, command: str) -> None:
    member = ["3"] if command == "show" else []
    done = genepool(command, run.parent / "pool", *member, stdout=None, preexec_fn=closing(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["status", "/nowhere"], ["status"], pytest.param(["nonsense"], marks=SLOW)]
)
def test_errors_cannot_be_told(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        for options in ({"stderr": full}, {"stderr": None, "preexec_fn": closing(2)}):
            done = genepool(*arguments, **options)
            assert done.returncode == (1 if len(arguments) == 2 else 2)
            assert done.stdout == ""


@pytest.mark.slow
def test_a_run_whose_progress_nobody_can_see(tmp_path: Path) -> None:
    expected = None
    for name in ("seen", "full", "closed"):
        file = write_run(tmp_path / name, budget=10)
        options: dict[str, Any] = {}
        if name == "closed":
            # Files that are opened must not take these numbers: the pool would be printed into.
            options = {"stdout": None, "stderr": None, "preexec_fn": closing(0, 1, 2)}
        with open("/dev/full", "w") as full:  # noqa: PTH123
            if name == "full":
                options = {"stderr": full}
            assert genepool("evolve", file, **options).returncode == 0
        found = contents(file.parent / "pool")
        assert expected is None or found == expected
        expected = found


@pytest.mark.slow
def test_the_current_folder_is_gone(run: Path, tmp_path: Path) -> None:
    pool = run.parent / "pool"
    gone = tmp_path / "gone"

    def leave() -> None:
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    assert genepool("status", pool, preexec_fn=leave).returncode == 0
    one_line(genepool("status", "pool", preexec_fn=leave), "there is no pool here")
    one_line(genepool("evolve", "run.yaml", preexec_fn=leave), "the current folder is gone")
    words = ["merge", "a", "b", "--ratio", "0.5", "-o", "c"]
    one_line(genepool(*words, preexec_fn=leave), "the current folder is gone")


@pytest.mark.slow
@pytest.mark.parametrize(
    "megabytes", [pytest.param(170, marks=SLOW), 200, pytest.param(300, marks=SLOW)]
)
def test_an_address_space_that_is_too_small(tmp_path: Path, megabytes: int) -> None:
    size = megabytes * 2**20
    done = genepool(
        *("evolve", write_run(tmp_path, budget=10)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )
    one_line(done, "not enough memory", f"ulimit -v allows {megabytes} MB")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["evolve", pytest.param("merge", marks=SLOW), pytest.param("export", marks=SLOW)]
)
def test_numba_that_is_told_not_to_compile(run: Path, tmp_path: Path, command: str) -> None:
    seeds = [str(run.parent / f"seed{number}.safetensors") for number in (1, 2)]
    words = {
        "evolve": [str(write_run(tmp_path / "new"))],
        "merge": [*seeds, "--ratio", "0.5", "--split", "0.5", "-o", str(tmp_path / "out")],
        "export": [str(run.parent / "pool"), "5", "-o", str(tmp_path / "out")],
    }
    done = genepool(command, *words[command], env={**os.environ, "NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "NUMBA_DISABLE_JIT is set" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_names_that_are_not_utf_8(run: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    one_line(genepool("evolve", write_run(folder)), "not UTF-8", "rename the folder")
    assert not (folder / "pool").exists()
    moved = folder / "moved"
    moved.symlink_to(run.parent)
    assert genepool("status", moved / "pool").returncode == 0
    one_line(genepool("status", folder), "there is no pool here")
    seeds = [folder / f"seed{number}.safetensors" for number in (1, 2)]
    words = ["merge", *seeds, "--ratio", "0.5", "--split", "0.5", "-o", tmp_path / "out"]
    assert "Traceback" not in genepool(*words).stderr
    with Pool(run.parent / "pool") as pool:
        assert pool.evaluations == 10


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "-3"])
def test_numba_that_is_told_what_it_cannot_do(tmp_path: Path, value: str) -> None:
    done = genepool(
        *("evolve", str(write_run(tmp_path, budget=2))),
        env={**os.environ, "NUMBA_NUM_THREADS": value},
    )
    one_line(done, "numba cannot be used", "unset 'NUMBA_NUM_THREADS'")


def _like_others() -> None:
    """For a process about to start: permissions hold for it, even if it is root's."""
    import ctypes

    for capability in (1, 2):  # to read, write and search whatever the permissions say
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@SLOW
@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "locked/pool"),
        ("evolve", "other.yaml"),
        ("pack", "pool", "-o", "locked/packed"),
        ("export", "locked/pool", "-o", "out"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_folders_that_may_not_be_entered(
    run: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (tmp_path / "pool").symlink_to(run.parent / "pool")
    (tmp_path / "other.yaml").write_text(
        run.read_text()
        .replace("seed1.safetensors", str(locked))
        .replace(": seed", f": {run.parent}/seed")
    )
    locked.chmod(0)
    try:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            preexec_fn=_like_others,
            check=False,
        )
    finally:
        locked.chmod(0o700)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "ermission" in done.stderr.splitlines()[-1]
