"""Imports point one way, heavy packages stay where they are needed, and reading starts at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import genepool

PACKAGE = Path(genepool.__file__).parent

# A room may use itself and every room above it in this list.
ROOMS = [
    "core", "strategies", "checkpoints", "materialise", "models", "tasks", "pool", "governance",
    "output", "run", "study", "ui",
]  # fmt: skip

# Loose modules that every room may use.
COMMON = {"errors", "messages", "settings", "threads"}

# The shipped contract tests of extensions, used by none of the rooms, and the package's faces.
BESIDE = {"testing": ROOMS[: ROOMS.index("ui")], "__main__": ROOMS, "__init__": ROOMS}

# Where torch is needed. Everything else imports these files late, when a model is a torch one.
TORCH = {
    "materialise/torch.py", "models/network.py", "models/transformers.py",
    "tasks/classifier/network_scorer.py",
}  # fmt: skip

# Each of these in one file at most, the one that needs it.
ALONE = [
    "transformers", "lm_eval", "datasets", "huggingface_hub", "gguf", "diffusers", "ray", "peft",
    "sklearn", "matplotlib", "cma", "ribs",
]  # fmt: skip

# Core reads and writes nothing, asks no clock and rolls no dice but its own.
CORE_MAY = {
    "__future__", "collections", "dataclasses", "fractions", "functools", "hashlib", "itertools",
    "json", "math", "numpy", "operator", "statistics", "struct", "typing", "weakref",
}  # fmt: skip
IMPURE = {
    "open", "print", "input", "np.load", "np.save", "np.random.seed", "np.random.default_rng",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported module: where, what, and whether it happens as the file is imported."""

    file: str
    line: int
    module: str
    at_once: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    @property
    def room(self) -> str | None:
        """The room or loose module of genepool that is meant, if any."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "genepool" and len(parts) > 1 else None


def importing(tree: ast.AST, file: str, package: list[str], at_once: bool) -> Iterator[Import]:
    """Every import below a node, also those in functions and for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        inside = at_once and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inside = False
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name, inside)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for name in node.names:
                yield Import(file, node.lineno, f"{module}.{name.name}", inside)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(file, node.lineno, str(node.args[0].value), inside)
        yield from importing(node, file, package, inside)


def all_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports() -> list[Import]:
    found: list[Import] = []
    for path in all_files():
        package = ["genepool", *path.relative_to(PACKAGE).parent.parts]
        found += importing(ast.parse(path.read_text("utf-8")), relative(path), package, True)
    return found


IMPORTS = imports()


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_every_import_is_seen() -> None:
    files = {one.file for one in IMPORTS}
    assert {"core/competition.py", "checkpoints/layout.py", "tasks/task.py"} <= files
    assert any(not one.at_once for one in IMPORTS)
    assert {room_of(relative(path)) for path in all_files()} <= {*ROOMS, *BESIDE, *COMMON}


def test_imports_point_one_way() -> None:
    wrong: list[str] = []
    for one in IMPORTS:
        here, target = room_of(one.file), one.room
        if here in COMMON:
            allowed = COMMON - {here} if here != "errors" else set[str]()
        elif here in BESIDE:
            allowed = {here, *BESIDE[here], *COMMON}
        else:
            allowed = {*ROOMS[: ROOMS.index(here) + 1], *COMMON}
        known = target in ROOMS or target in BESIDE or target in COMMON
        if known and target not in allowed:
            wrong.append(str(one))
    assert not wrong


def test_core_is_pure() -> None:
    wrong = [
        str(one)
        for one in IMPORTS
        if room_of(one.file) == "core"
        and one.top not in CORE_MAY
        and not one.module.startswith(("genepool.core", "genepool.errors"))
    ]
    wrong += [
        f"{relative(path)}:{node.lineno} calls {ast.unparse(node.func)}"
        for path in (PACKAGE / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in IMPURE
    ]
    assert not wrong


def test_torch_stays_where_it_is_needed() -> None:
    assert {one.file for one in IMPORTS if one.top == "torch"} <= TORCH


@pytest.mark.parametrize("package", ALONE)
def test_other_heavy_packages_have_one_file_each(package: str) -> None:
    files = {one.file for one in IMPORTS if one.top == package}
    # Transformers unpacks GGUF files in `checkpoints`, which builds no live models.
    assert len(files - {"checkpoints/files/gguf.py"}) <= 1


# Files that load something heavy as they are imported.
HEAVY = {one.file for one in IMPORTS if one.at_once and one.top in {"torch", *ALONE}}


def test_heavy_files_are_imported_late() -> None:
    modules = ["genepool." + file[:-3].replace("/", ".") for file in HEAVY]
    loud = [
        str(one)
        for one in IMPORTS
        if one.at_once
        and one.file not in HEAVY
        and any((one.module + ".").startswith(module + ".") for module in modules)
    ]
    assert not loud


def test_nothing_is_pickled() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    wrong = [str(one) for one in IMPORTS if one.top in banned]
    for path in all_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                value = node.value
                if not (isinstance(value, ast.Constant) and value.value is False):
                    wrong.append(f"{relative(path)}:{value.lineno} allows pickle")
    assert not wrong


def test_house_rules_that_can_be_read_off_the_code() -> None:
    wrong: list[str] = []
    for path in all_files():
        text = path.read_text("utf-8")
        # "Under about 500 lines".
        if text.count("\n") > 550:
            wrong.append(f"{relative(path)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            # Asking whether the platform has something is not guessing at interfaces.
            if isinstance(node, ast.Call) and (
                ast.unparse(node.func) == "hasattr" and ast.unparse(node.args[0]) != "os"
            ):
                wrong.append(f"{relative(path)}:{node.lineno} calls hasattr")
            if isinstance(node, ast.Assert) and room_of(relative(path)) != "testing":
                wrong.append(f"{relative(path)}:{node.lineno} asserts")
    assert not wrong


def loaded_after(code: str) -> set[str]:
    """Names of the top-level packages that a fresh interpreter has loaded after running code."""
    listing = "; import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV_")}
    done = subprocess.run(
        [sys.executable, "-c", code + listing],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *sys.path[1:]])},
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["genepool", "genepool.pool.reader", "genepool.core"])
def test_reading_a_pool_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "numba", "pydantic", "yaml", "scipy", "safetensors", *ALONE}
    assert not loaded_after(f"import {module}") & heavy


def test_all_other_files_load_nothing_heavy() -> None:
    quiet = [
        "genepool." + relative(path)[:-3].replace("/", ".").removesuffix(".__init__")
        for path in all_files()
        if relative(path) not in HEAVY | {"__init__.py", "__main__.py"}
    ]
    assert len(quiet) > 30
    assert not loaded_after("import " + ", ".join(quiet)) & {"torch", *ALONE}
