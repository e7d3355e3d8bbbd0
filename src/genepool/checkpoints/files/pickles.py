"""What to say of a pickle: refused, with the command that turns it into safetensors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path


def conversion(files: Sequence[Path], target: Path) -> str:
    """A shell command, one line, that converts pickled state dicts to one safetensors file.

    It loads with `weights_only=True`, so that the pickles run no code.
    """
    code = (
        "import torch, safetensors.torch as s; d = {k: v.contiguous().clone() for f in "
        f"{json.dumps([str(file) for file in files])} for k, v in "
        'torch.load(f, map_location="cpu", weights_only=True).items()}; '
        f's.save_file(d, {json.dumps(str(target))}, {{"format": "pt"}})'
    )
    return f"python -c {shlex.quote(code)}"
