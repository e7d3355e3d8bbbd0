"""Which files hold a component's weights: plain ones, or those of a variant such as fp16."""

from __future__ import annotations

import re
from collections.abc import Iterable

from genepool.checkpoints.files.checkpoint import pickle_advice
from genepool.checkpoints.pipelines.components import Component
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

_STEM = r"(?:diffusion_pytorch_model|model)"
_STEM_OF = {"diffusers": "diffusion_pytorch_model"}
# Classes whose configuration may be called config.json although they have no weights.
_WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Processor", "Extractor", "Scheduler")
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
    own = _STEM_OF.get(library, "model")
    found: dict[str, str] = {}
    # The library's own name comes before the other one's. Where there are both, transformers takes
    # the file that holds all, and diffusers the index of several.
    later = ".safetensors" if library == "diffusers" else ".json"
    for name in sorted(names, key=lambda n: (not n.startswith(own), n.endswith(later), n)):
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


def require_weights(component: Component) -> tuple[str, str] | None:
    """`find_weights` of a component that is taken as it is; None where it has none and needs none.

    Raises:
        CheckpointError: as `find_weights`, or it lacks weights, or has them as pickles.
    """
    directory, found = component.directory, find_weights(component)
    if found is None and directory.is_dir():
        names = sorted(path.name for path in directory.iterdir())
        file = f"{weights_stem(component)}.safetensors"
        needed = "config.json" in names and not component.class_name.endswith(_WITHOUT_WEIGHTS)
        advice = pickle_advice(directory, names, file)
        if needed or advice:
            raise CheckpointError(
                f"{at(directory)}: the component '{one_line(component.name)}' holds no {file}"
                f"{advice or '; fetch the whole pipeline'}"
            )
    return found


def weights_stem(component: Component) -> str:
    """How the file of a component's weights begins, for the library that loads them."""
    return _STEM_OF.get(component.library, "model")
