"""Kernels work wherever the package is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import genepool


@pytest.mark.slow
def test_kernels_work_where_no_cache_can_be_kept(tmp_path: Path) -> None:
    # A copy of the package in which files stand where numba would make its cache directories:
    # beside the module, and in a home that is none.
    package = Path(genepool.__file__).parent
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, tmp_path / "genepool", ignore=skipped)
    (tmp_path / "genepool" / "materialise" / "__pycache__").write_text("in the way")
    code = (
        "import numpy as np\n"
        "from genepool.materialise import kernels\n"
        "out = np.empty((2, 1, 2))\n"
        "kernels.running_sums(np.ones((1, 1, 2)), out)\n"
        "print(kernels.__file__, out[1, 0].tolist())\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "HOME": "/dev/null", "PATH": ""}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    expected = tmp_path / "genepool" / "materialise" / "kernels.py"
    assert done.stdout == f"{expected} [2.0, 0.0]\n", done.stderr
