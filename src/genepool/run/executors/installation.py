"""What a process runs: Python, genepool, the packages that compute, and the user's modules.

A worker on another machine may have others, and would score other numbers without a word.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# What scores are computed with; of the others the tests of genepool say nothing.
_PACKAGES = (
    "numpy", "numba", "safetensors", "torch", "transformers", "tokenizers", "diffusers", "gguf",
    "lm-eval", "peft", "scikit-learn", "gymnasium", "textworld",
)  # fmt: skip


def installed() -> dict[str, str]:
    """Versions by name. genepool's says what its files hold: a checkout changes, its version not.

    What follows a + (which CUDA a release of torch was built for) is left out.
    """
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    content = hashlib.sha256()
    for file in sorted(_ROOT.rglob("*.py")):
        content.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    version = vars(sys.modules["genepool"])["__version__"]
    found["genepool"] = f"{version} (sources {content.hexdigest()[:8]})"
    return found


def own_modules() -> dict[str, str]:
    """Module -> digest of its file, for those loaded that are neither Python's nor installed."""
    places = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    others = [_ROOT, *map(Path, places)]
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not isinstance(file, str) or not file.endswith(".py"):
            continue
        if not any(Path(file).is_relative_to(place) for place in others) and Path(file).is_file():
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def unlike(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """The first of what both have that is another one; Python's last number may differ."""
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name], theirs[name]
        if name == "Python":
            mine, other = (".".join(text.split(".")[:2]) for text in (mine, other))
        if mine != other:
            return name
    return None


def processor() -> str:
    """The kind of processor, and the GPUs, as far as Linux tells."""
    found = [platform.machine()]
    patterns = {"/proc/cpuinfo": "model name", "/proc/driver/nvidia/gpus/*/information": "Model"}
    for pattern, key in patterns.items():
        for file in sorted(Path("/").glob(pattern[1:])):
            lines = file.read_text(errors="replace").splitlines()
            found += [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return ", ".join(dict.fromkeys(found))
