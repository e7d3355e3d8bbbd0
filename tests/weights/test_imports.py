"""Reading commands must start at once: numba and torch are imported late."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import genepool.weights

MODULES = (
    *("adapters", "atomic", "cache", "checkpoint", "companions", "depth", "dtypes", "family"),
    *(
        "gguf",
        "gram",
        "hub",
        "layout",
        "lora",
        "mapped",
        "materialise",
        "native",
        "pickles",
        "sources",
    ),
    *("threads", "tokens", "wording", "writer"),
)


@pytest.mark.parametrize("name", MODULES)
def test_neither_numba_nor_torch_comes_with_an_import(name: str) -> None:
    code = (
        f"import sys, genepool.weights.{name}\n"
        "heavy = {'numba', 'llvmlite', 'torch'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_work_where_no_cache_can_be_kept(tmp_path: Path) -> None:
    # A copy of the package in which files stand where numba would make its cache directories:
    # beside the module, and in a home that is none.
    package = Path(genepool.weights.__file__).parents[1]
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, tmp_path / "genepool", ignore=skipped)
    (tmp_path / "genepool" / "weights" / "__pycache__").write_text("in the way")
    code = (
        "import numpy as np\n"
        "from genepool.weights import kernels\n"
        "out = np.empty((2, 1, 2))\n"
        "kernels.running_sums(np.ones((1, 1, 2)), out)\n"
        "print(kernels.__file__, out[1, 0].tolist())\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    expected = tmp_path / "genepool" / "weights" / "kernels.py"
    assert done.stdout == f"{expected} [2.0, 0.0]\n", done.stderr
