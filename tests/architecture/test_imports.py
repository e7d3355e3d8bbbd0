"""Imports point one way, heavy packages stay where they are needed, and reading starts at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import genepool
from tests.architecture.source import PACKAGE, all_files, called, nodes

# A room may use itself and every room above it in this list.
ROOMS = [
    "core", "strategies", "checkpoints", "materialise", "models", "tasks", "pool", "governance",
    "output", "run", "study", "ui",
]  # fmt: skip

# Loose modules that every room may use.
COMMON = {"documents", "errors", "faults", "messages", "settings", "threads", "yaml_documents"}

# The shipped contract tests of extensions, used by none of the rooms, and the package's faces.
BESIDE = {"testing": ROOMS[: ROOMS.index("ui")], "__main__": ROOMS, "__init__": [*ROOMS, "testing"]}

# Where torch is needed. Everything else imports these files late, when a model is a torch one.
TORCH = {
    "materialise/chunks.py", "materialise/device.py", "materialise/device_memory.py",
    "materialise/device_gram.py",
    "materialise/torch.py", "materialise/triton_kernel.py", "models/diffusers.py",
    "models/filled.py", "models/network.py",
    "tasks/agent/decoding.py", "tasks/agent/likelihoods.py",
    "models/transformers.py", "study/generators.py", "tasks/classifier/network_scorer.py",
    "tasks/images/tower.py",
}  # fmt: skip

# Each of these in one file at most, the one that needs it.
ALONE = [
    "transformers", "lm_eval", "datasets", "huggingface_hub", "gguf", "diffusers", "ray", "peft",
    "sklearn", "matplotlib", "cma", "ribs", "gymnasium", "textworld", "websockets", "triton",
    "fsspec",
]  # fmt: skip

# Core and strategies read and write nothing, ask no clock and roll no dice but their own.
PURE = {
    "__future__", "abc", "collections", "copy", "dataclasses", "difflib", "enum", "fnmatch",
    "fractions",
    "functools", "hashlib", "itertools", "json", "math", "numpy", "operator", "re", "statistics",
    "struct", "typing", "warnings", "weakref",
}  # fmt: skip
IMPURE = {"open", "print", "input", "eval", "exec", "np.load", "np.save", "np.savez", "np.memmap"}
# Of numpy's randomness these alone: they take words that were hashed from seed and step.
RANDOM = {"np.random.Generator", "np.random.Philox", "np.random.SeedSequence"}

# What strategies need besides: their options are checked by pydantic, those of other packages are
# found by their entry points, and what one package is for is imported late.
STRATEGIES_MAY = {
    "strategies/base.py": {"pydantic", "importlib.util"},
    "strategies/cma_es.py": {"pydantic", "cma"},
    "strategies/ga.py": {"pydantic"},
    "strategies/m2n2.py": {"pydantic"},
    "strategies/map_elites.py": {"pydantic"},
    "strategies/random.py": {"pydantic"},
    "strategies/by_name.py": {"importlib.metadata"},
    "strategies/sweep.py": {"pydantic"},
}

# What is compiled by numba, and so loads it when imported: nothing else does.
COMPILED = {
    "materialise/intrinsics.py", "materialise/kernels.py", "output/methods/task_vector_kernels.py",
    "tasks/classifier/mlp.py", "tasks/classifier/mlp_kernels.py",
}  # fmt: skip

# Base names that two files may have, and why.
SAME_NAME = {
    "checks.py": "the checks of core's arrays, and the checks that tasks are made of",
    "evaluator.py": "each kind of task has its evaluator",
    "options.py": "of strategies, and of the commands",
    "progress.py": "what is told, and how it is shown",
    "subsets.py": "the rule, and what the driver does by it",
}

LINES, FILES = 500, 12


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


def importing(node: ast.AST, file: str, package: list[str], at_once: bool) -> Iterator[Import]:
    """Every import in a node, also those in functions and for type checkers only."""
    late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    if late or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
        at_once = False
    elif isinstance(node, ast.Import):
        for name in node.names:
            yield Import(file, node.lineno, name.name, at_once)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module) if part)
        for name in node.names:
            yield Import(file, node.lineno, f"{module}.{name.name}", at_once)
    elif (
        isinstance(node, ast.Call)
        and called(node).endswith("import_module")
        and isinstance(node.args[0], ast.Constant)
    ):
        yield Import(file, node.lineno, str(node.args[0].value), at_once)
    for inner in ast.iter_child_nodes(node):
        yield from importing(inner, file, package, at_once)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def imports() -> list[Import]:
    found: list[Import] = []
    for path in all_files():
        package = ["genepool", *path.relative_to(PACKAGE).parent.parts]
        found += importing(nodes(path)[0], relative(path), package, True)
    return found


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


@pytest.mark.slow
def test_every_import_is_seen() -> None:
    files = {one.file for one in imports()}
    assert {"core/competition.py", "checkpoints/layout.py", "tasks/task.py"} <= files
    assert any(not one.at_once for one in imports())
    assert {room_of(relative(path)) for path in all_files()} <= {*ROOMS, *BESIDE, *COMMON}


def test_imports_point_one_way() -> None:
    wrong: list[str] = []
    for one in imports():
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


@pytest.mark.parametrize("room", ["core", "strategies"])
def test_core_and_strategies_are_pure(room: str) -> None:
    ours = ("genepool.core", "genepool.strategies", *(f"genepool.{name}" for name in COMMON))
    wrong: list[str] = []
    for one in imports():
        also = STRATEGIES_MAY.get(one.file, set[str]())
        wanted = one.top in also or any(one.module.startswith(name) for name in also)
        # A package that not everyone has is imported late.
        if wanted and not (one.at_once and one.top in ALONE):
            continue
        if room_of(one.file) == room and one.top not in PURE and not one.module.startswith(ours):
            wrong.append(str(one))
    for path in (PACKAGE / room).rglob("*.py"):
        for node in nodes(path):
            if isinstance(node, ast.Call):
                name = called(node).replace("numpy.", "np.")
                if name in IMPURE or (name.startswith("np.random.") and name not in RANDOM):
                    wrong.append(f"{relative(path)}:{node.lineno} calls {name}")
    assert not wrong


def file_of(module: str) -> str | None:
    """The file of genepool that a name is imported from, if any."""
    parts = module.split(".")
    if parts[0] != "genepool":
        return None
    while parts:
        path = PACKAGE.joinpath(*parts[1:])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if len(parts) > 1 and file.is_file():
                return relative(file)
        parts.pop()
    return "__init__.py"


def graph(at_once: bool) -> dict[str, set[str]]:
    """What each file imports of the others."""
    edges: dict[str, set[str]] = {relative(path): set() for path in all_files()}
    for one in imports():
        target = file_of(one.module)
        if (one.at_once or not at_once) and target is not None and target != one.file:
            edges[one.file].add(target)
    return edges


def test_no_imports_go_in_circles() -> None:
    # Late ones are counted too, and those for type checkers.
    try:
        order = list(TopologicalSorter(graph(at_once=False)).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
    assert order.index("core/competition.py") < order.index("run/driver.py")


def test_torch_stays_where_it_is_needed() -> None:
    assert {one.file for one in imports() if one.top == "torch"} <= TORCH


@pytest.mark.parametrize("package", ALONE)
def test_other_heavy_packages_have_one_file_each(package: str) -> None:
    files = {one.file for one in imports() if one.top == package}
    # In `checkpoints`, which builds no live models, transformers unpacks GGUF files and says what
    # a configuration stands for. The pictures demo trains its seeds, which nothing else does.
    early = {"checkpoints/files/gguf.py", "checkpoints/model_files/built.py"}
    assert len(files - early - {"study/generators.py"}) <= 1


def test_numba_is_loaded_by_compiled_code_alone() -> None:
    loading = {one.file for one in imports() if one.at_once and one.top in {"numba", "llvmlite"}}
    edges = graph(at_once=True)
    while more := {file for file, targets in edges.items() if targets & loading} - loading:
        loading |= more
    assert loading <= COMPILED


@cache
def heavy_files() -> set[str]:
    """Files that load something heavy as they are imported."""
    return {one.file for one in imports() if one.at_once and one.top in {"torch", *ALONE}}


def test_heavy_files_are_imported_late() -> None:
    modules = ["genepool." + file[:-3].replace("/", ".") for file in heavy_files()]
    loud = [
        str(one)
        for one in imports()
        if one.at_once
        and one.file not in heavy_files()
        and any((one.module + ".").startswith(module + ".") for module in modules)
    ]
    assert not loud


def test_nothing_is_pickled() -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    wrong = [str(one) for one in imports() if one.top in banned]
    for path in all_files():
        for node in nodes(path):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                value = node.value
                if not (isinstance(value, ast.Constant) and value.value is False):
                    wrong.append(f"{relative(path)}:{value.lineno} allows pickle")
    assert not wrong


def test_house_rules_that_can_be_read_off_the_code() -> None:
    wrong: list[str] = []
    for path in all_files():
        text = path.read_text("utf-8")
        if text.count("\n") > LINES:
            wrong.append(f"{relative(path)} has {text.count(chr(10))} lines")
        for node in nodes(path):
            # Asking whether the platform has something is not guessing at interfaces.
            if isinstance(node, ast.Call) and (
                called(node) == "hasattr" and ast.unparse(node.args[0]) != "os"
            ):
                wrong.append(f"{relative(path)}:{node.lineno} calls hasattr")
            if isinstance(node, ast.Assert) and room_of(relative(path)) != "testing":
                wrong.append(f"{relative(path)}:{node.lineno} asserts")
    assert not wrong


def test_folders_are_small_and_names_tell_files_apart() -> None:
    files = [path for path in all_files() if path.name != "__init__.py"]
    folders = Counter(path.parent for path in files)
    wrong = [f"{relative(path)}/ has {n} files" for path, n in folders.items() if n > FILES]
    names = Counter(path.name for path in files)
    wrong += [f"{name}: {n} files" for name, n in names.items() if n > 1 and name not in SAME_NAME]
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


@pytest.mark.slow
def test_all_other_files_load_nothing_heavy() -> None:
    quiet = [
        "genepool." + relative(path)[:-3].replace("/", ".").removesuffix(".__init__")
        for path in all_files()
        if relative(path) not in heavy_files() | COMPILED | {"__init__.py", "__main__.py"}
    ]
    assert len(quiet) > 30
    heavy = {"torch", "numba", "llvmlite", *ALONE}
    assert not loaded_after("import " + ", ".join(quiet)) & heavy


def test_type_checkers_know_each_public_name_and_no_other() -> None:
    """A `__getattr__` that they see makes every name that is not there a fine one, of any type."""
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    shown, hidden = (node for node in body if isinstance(node, ast.If))
    imports = [node for node in shown.body if isinstance(node, ast.ImportFrom)]
    named = [alias.name for node in imports for alias in node.names]
    assert sorted(named) == sorted([*genepool.__all__, "core", "errors", "testing"])
    assert ast.unparse(hidden.test) == "not TYPE_CHECKING"
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    assert functions == ["__dir__"]
