"""The files of a pipeline that a new one takes as they are: whole components, settings, index."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint, pickle_advice, safe_target
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.model_files.side_files import copied, with_dtype
from genepool.checkpoints.pipelines.components import Component
from genepool.checkpoints.pipelines.directory import INDEX
from genepool.errors import CheckpointError
from genepool.messages import at, one_line
from genepool.threads import available_threads

Files = dict[str, bytes | Path]
"""Name to the file to copy or its content; in names of folders inside there are slashes."""

_SINGLE = re.compile(r"(diffusion_pytorch_model|model)(?:\.((?!.*-of-)[\w-]+))?\.safetensors")
_SHARDED = re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index(?:\.([\w-]+))?\.json")
# Pictures at the top of a repository show what the seed draws.
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
# Classes whose configuration may be called config.json although they have no weights.
_WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Processor", "Extractor", "Scheduler")


def weights_stem(component: Component) -> str:
    """How the file of a component's weights begins, for the library that loads them."""
    return "diffusion_pytorch_model" if component.library == "diffusers" else "model"


def pipeline_files(first: Checkpoint, dtype: str | None) -> Files:
    """The files of a new pipeline besides the weights of the components that evolve.

    Whole components come from where each lies, everything else from the first seed, as `copied`
    says: no code, pickles or hidden files, no sample pictures.

    Args:
        first: the first seed, whose pipeline has the whole components that are meant.
        dtype: that the merged tensors are converted to, entered into the components' `config.json`.

    Raises:
        CheckpointError: a component's folder or weights are missing or are pickles, or a file is a
            link that leads out of its pipeline.
    """
    pipeline = first.pipeline
    assert pipeline is not None
    found: Files = {}
    if first.directory is not None:
        found = copied(first.directory, lambda name: not name.lower().endswith(_PICTURES))
    pairs = {name: [each.library, each.class_name] for name, each in pipeline.components.items()}
    if INDEX not in found or any(pipeline.index.get(name) != pair for name, pair in pairs.items()):
        found[INDEX] = _json({**pipeline.index, **pairs})
    for name, component in pipeline.components.items():
        if name in pipeline.evolving:
            own = with_dtype(_small_files(component), dtype)
        else:
            own = component_files(component)
        found |= {f"{name}/{file}": data for file, data in own.items()}
    return found


def component_files(component: Component) -> Files:
    """The files of a component that is taken whole, weights included, under the names by which it
    is found without a `variant`.

    Raises:
        CheckpointError: as `pipeline_files`.
    """
    files = {**_small_files(component), **_weights(component)}
    if not files:
        raise CheckpointError(f"{at(component.directory)}: holds no file of a component")
    return dict(sorted(files.items()))


def component_digest(component: Component) -> str:
    """SHA-256 over names and contents of the files of a whole component; reads all of them."""
    files = component_files(component)
    with ThreadPoolExecutor(available_threads(), thread_name_prefix="genepool-digest") as pool:
        found = pool.map(_sha256, files.values())
        parts = [[name, digest] for name, digest in zip(files, found, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _home(component: Component) -> Path:
    """The directory inside which a component's links may lead: its pipeline's, if it is in one."""
    parent = component.directory.parent
    return parent if (parent / INDEX).is_file() else component.directory


def _small_files(component: Component) -> Files:
    directory = component.directory
    if not directory.is_dir():
        raise CheckpointError(
            f"{at(directory)}: the component '{one_line(component.name)}' of the pipeline is "
            f"missing, which its {INDEX} names; fetch the whole pipeline, or take the component "
            "from another one ('components' in a run file, --component on the command line)"
        )
    return copied(directory, home=_home(component))


def _weights(component: Component) -> Files:
    """The weights of a whole component: the plain ones, else a variant's (`fp16`) under plain
    names; nothing where it has none and needs none."""
    directory, home = component.directory, _home(component)
    stem = weights_stem(component)
    names = sorted(
        (path.name for path in directory.iterdir()), key=lambda n: (n.startswith(stem), n)
    )
    singles = {m[2] or "": m for m in map(_SINGLE.fullmatch, names) if m}
    sharded = {m[2] or "": m for m in map(_SHARDED.fullmatch, names) if m}
    variant = min({*singles, *sharded}, default=None)
    if variant is None:
        needed = "config.json" in names and not component.class_name.endswith(_WITHOUT_WEIGHTS)
        advice = pickle_advice(directory, names, f"{stem}.safetensors")
        if needed or advice:
            raise CheckpointError(
                f"{at(directory)}: the component '{one_line(component.name)}' holds no "
                f"{stem}.safetensors{advice or '; fetch the whole pipeline'}"
            )
        return {}

    def place(name: str) -> Path:
        return safe_target(home, str((directory / name).relative_to(home)))

    if (single := singles.get(variant)) is not None:
        return {f"{single[1]}.safetensors": place(single[0])}
    found = sharded[variant]
    path = place(found[0])
    index = read_json(path)
    entries = index.get("weight_map")
    shards = (
        sorted(set(map(str, cast("dict[str, Any]", entries).values())))
        if isinstance(entries, dict)
        else []
    )
    if not shards or any(Path(name).name != name for name in shards):
        raise CheckpointError(
            f"{at(path)}: expected an object 'weight_map' from tensor names to file names"
        )
    count = len(shards)
    plain = {
        name: name if not variant else f"{found[1]}-{i:05d}-of-{count:05d}.safetensors"
        for i, name in enumerate(shards, 1)
    }
    out: Files = {plain[name]: place(name) for name in shards}
    if variant:
        renamed = {k: plain[v] for k, v in cast("Mapping[str, str]", entries).items()}
        out[f"{found[1]}.safetensors.index.json"] = _json({**index, "weight_map": renamed})
    else:
        out[found[0]] = path
    return out


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _sha256(data: bytes | Path) -> str:
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest, block = hashlib.sha256(), bytearray(2**20)
    with data.open("rb") as file:
        while size := file.readinto(block):
            digest.update(memoryview(block)[:size])
    return digest.hexdigest()
