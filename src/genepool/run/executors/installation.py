"""What a process runs: Python, genepool, the packages that compute, and the user's modules.

A worker on another machine may have others, and would score other numbers without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import cast

from genepool.errors import ConfigError

_ROOT = Path(__file__).parents[2]
# What scores are computed with; of the others the tests of genepool say nothing.
_PACKAGES = (
    "numpy", "numba", "safetensors", "torch", "transformers", "tokenizers", "diffusers", "gguf",
    "lm-eval", "peft", "scikit-learn", "gymnasium", "textworld",
)  # fmt: skip
_PLACES = (_ROOT, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))

# What each module held when it was first seen here, for the import that `__spec__` stands for.
_seen: dict[str, tuple[object, str]] = {}


def versions() -> dict[str, str]:
    """Versions by name. What follows a + (which CUDA torch was built for) is left out."""
    own = str(vars(sys.modules["genepool"])["__version__"])
    return {"Python": platform.python_version(), **_versions(), "genepool": own}


@cache
def _versions() -> Mapping[str, str]:
    """Of `_PACKAGES`, as they were when this process first asked: what it runs stays the same."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name).partition("+")[0]
    return found


def installed() -> dict[str, str]:
    """`versions`, and what genepool's files hold: a checkout changes, its version does not."""
    found = versions()
    content = hashlib.sha256()
    for file in sorted(_ROOT.rglob("*.py")):
        content.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    found["genepool"] += f" (sources {content.hexdigest()[:8]})"
    return found


def own_modules() -> dict[str, str]:
    """Module -> digest of its file, for those loaded that are neither Python's nor installed.

    Where the file has changed since the module was first seen, it is the digest of what Python goes
    on with; see `outdated`.
    """
    return {name: held for name, (_, held) in _own().items()}


def named_modules(run: object) -> dict[str, str]:
    """Module -> digest of its file, for those loaded of packages that a run file names, installed
    or not.

    Args:
        run: what the run file holds.
    """
    named = packages_named(run)
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in named and isinstance(file, str) and file.endswith(".py"):
            found[name] = digest_of(file)
    return found


def packages_named(value: object) -> set[str]:
    """The packages of all that is named as `module:function`, whatever the key."""
    if isinstance(value, str):
        found = re.fullmatch(r"([A-Za-z_]\w*)(\.\w+)*:[A-Za-z_]\w*", value)
        return {found[1]} - {"genepool"} if found else set()
    if isinstance(value, Mapping):
        value = list(cast("Mapping[object, object]", value).values())
    parts = cast("list[object]", value) if isinstance(value, list) else []
    return {name for part in parts for name in packages_named(part)}


def outdated() -> list[str]:
    """Modules of `own_modules` whose file is not what Python has imported, as far as was seen."""
    return [name for name, (file, held) in _own().items() if digest_of(file) != held]


def digest_of(file: str) -> str:
    """Of a file's content; "" where it is gone."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def _own() -> dict[str, tuple[str, str]]:
    """Module of `own_modules` -> its file, and the digest that this had when it was first seen."""
    found: dict[str, tuple[str, str]] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not isinstance(file, str) or not file.endswith(".py"):
            continue
        if not _is_installed(file) and Path(file).is_file():
            # What the import has made of it is another one after a reload.
            spec = getattr(module, "__spec__", None)
            if name not in _seen or _seen[name][0] is not spec:
                _seen[name] = spec, digest_of(file)
            found[name] = file, _seen[name][1]
    return found


@cache
def _is_installed(file: str) -> bool:
    """Whether a module's file is genepool's, Python's or an installed package's.

    Thousands are loaded where torch is, so each is looked at once.
    """
    path = Path(file)
    # Debian and the user's own scheme have other places than sysconfig tells.
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    return any(map(path.is_relative_to, _PLACES))


def unlike(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """The first of what both have that is another one; Python's last number may differ."""
    for name in sorted(ours.keys() & theirs.keys()):
        mine, other = ours[name], theirs[name]
        if name == "Python":
            mine, other = (".".join(text.split(".")[:2]) for text in (mine, other))
        if mine != other:
            return name
    return None


def require_same_modules(expected: Mapping[str, str], run: object = None) -> None:
    """Refuse to score with modules of the user's that are not the run's.

    Args:
        expected: module -> digest.
        run: what the run file holds; the packages that it names are compared too.

    Raises:
        ConfigError: naming the first of them.
    """
    if (name := unlike(expected, {**named_modules(run), **own_modules()})) is not None:
        raise ConfigError(
            f"the module '{name}' there is not the run's; copy it over, or, if its file was "
            "changed after Python imported it here, start Python anew"
        )


def processor() -> str:
    """The kind of processor, and the GPUs, as far as Linux tells."""
    found = [platform.machine()]
    patterns = {"/proc/cpuinfo": "model name", "/proc/driver/nvidia/gpus/*/information": "Model"}
    for pattern, key in patterns.items():
        for file in sorted(Path("/").glob(pattern[1:])):
            lines = file.read_text(errors="replace").splitlines()
            found += [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return ", ".join(dict.fromkeys(found))
