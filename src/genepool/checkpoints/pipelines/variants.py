"""Which files hold a component's weights: plain ones, or those of a variant such as fp16."""

from __future__ import annotations

import re
from collections.abc import Iterable

from genepool.checkpoints.pipelines.components import Component
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

_STEM = r"(?:diffusion_pytorch_model|model)"
_FILES = (
    re.compile(rf"{_STEM}(?:\.(\w+))?\.safetensors", re.ASCII),
    re.compile(rf"{_STEM}\.safetensors\.index(?:\.(\w+))?\.json", re.ASCII),
)


def variants(names: Iterable[str], library: str) -> dict[str, str]:
    """The weights among the names of files in a component's folder.

    Args:
        names: of files.
        library: that loads the component: each has its own stem of names, which comes first.

    Returns:
        Variant, "" for plain weights, to the file that leads to all of them: the only one, or the
        index of several, `model.safetensors.index.json` (of a variant: `...index.fp16.json`).
    """
    own = "diffusion_pytorch_model" if library == "diffusers" else "model"
    found: dict[str, str] = {}
    # The library's own name comes before the other one's, and one file before an index of several.
    for name in sorted(names, key=lambda n: (not n.startswith(own), n.endswith(".json"), n)):
        for pattern in _FILES:
            if match := pattern.fullmatch(name):
                found.setdefault(match[1] or "", name)
    return found


def find_weights(component: Component) -> tuple[str, str] | None:
    """Variant and leading file of the weights that a component is loaded from.

    The seed's variant, if it names one and the component has it; else the plain weights; else the
    only variant that is there.

    Returns:
        None where there are no weights under the names that diffusers and transformers give them.

    Raises:
        CheckpointError: there are several variants and none is named, or not the one that is.
    """
    directory, wanted = component.directory, component.variant
    if not directory.is_dir():
        return None
    found = variants((path.name for path in directory.iterdir()), component.library)
    for variant in (wanted, ""):
        if variant in found:
            return variant, found[variant]
    if not found:
        return None
    if wanted or len(found) > 1:
        lacks = f"no variant '{one_line(wanted)}'" if wanted else "no plain ones"
        raise CheckpointError(
            f"{at(directory)}: of its weights there are the variants {some(found)}, and {lacks}; "
            "say which with 'variant', {path: ..., variant: ...}"
        )
    ((variant, file),) = found.items()
    return variant, file
