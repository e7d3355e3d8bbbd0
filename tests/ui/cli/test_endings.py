"""How a command ends where Python's own means do not reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

# Memory is read with Python's lock held, without it, and by two threads at once.
READ = {
    "by Python": "for file in files: bytes(file.mapping)",
    "by a thread": "list(ThreadPoolExecutor(1).map(digest, files))",
    "by two threads": "list(ThreadPoolExecutor(2).map(digest, [*files, *files]))",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the file has no name")
@pytest.mark.parametrize("how", READ)
def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path, how: str) -> None:
    for name in ("whole", "a name with spaces"):
        save_file({"w": np.ones(2**20, np.float32)}, tmp_path / f"{name}.safetensors")
    code = f"""
import hashlib, os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from genepool.checkpoints.files.safetensors import map_file
from genepool.ui.cli.endings import tell_of_cut_files
tell_of_cut_files()
files = [map_file(path) for path in sorted(Path.cwd().glob("*.safetensors"))]
os.truncate("a name with spaces.safetensors", 2**21)
def digest(file):
    return hashlib.sha256(file.mapping).digest()
{READ[how]}
print("read")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    (line,) = ended.stderr.splitlines()
    assert line == (
        f"genepool: {tmp_path}/a name with spaces.safetensors: cut short while it was read; "
        "restore it and run again"
    )
    assert (ended.returncode, ended.stdout) == (1, "")
