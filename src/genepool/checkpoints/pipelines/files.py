"""The files of a pipeline that a new one takes as they are: whole components, settings, index."""

from __future__ import annotations

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.checkpoint import Checkpoint, safe_target
from genepool.checkpoints.files.digests import file_digest
from genepool.checkpoints.files.safetensors import map_file
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.model_files.side_files import copied, goes_along, with_dtype
from genepool.checkpoints.pipelines.components import Component, Pipeline
from genepool.checkpoints.pipelines.directory import INDEX
from genepool.checkpoints.pipelines.variants import require_weights
from genepool.documents import mapping_of
from genepool.errors import CheckpointError
from genepool.messages import at
from genepool.threads import available_threads

Files = dict[str, bytes | Path]
"""Name to the file to copy or its content; in names of folders inside there are slashes."""

# Indexes of weights, those of variants too: (.safetensors|.bin).index(.fp16).json
_INDEX = re.compile(r"\.index\.[\w-]+\.json$")
SAFETY_CHECKER = "safety_checker"
"""A component that scores do not depend on, and that what is fetched from the Hub lacks: where it
is missing, a pipeline is written without."""


def pipeline_files(first: Checkpoint, pipeline: Pipeline, dtype: str | None) -> Files:
    """The files of a new pipeline besides the weights of the components that evolve.

    Whole components come from where each lies, everything else from the first seed, as `copied`
    says: no code, pickles or hidden files, no sample pictures.

    Args:
        first: the first seed.
        pipeline: that of the first seed, with the whole components that are meant.
        dtype: that the merged tensors are converted to, entered into the components' `config.json`.

    Raises:
        CheckpointError: a component's folder or weights are missing or are pickles, or a file is a
            link that leads out of its pipeline.
    """
    found: Files = {}
    if first.directory is not None:
        found = copied(first.directory, goes_along)
    components = written_components(pipeline)
    classes = {name: [each.library, each.class_name] for name, each in components.items()}
    left_out = {name: [None, None] for name in pipeline.components if name not in components}
    index = {**pipeline.index, **classes, **left_out}
    if INDEX not in found or index != pipeline.index:
        found[INDEX] = _json(index)
    for name, component in components.items():
        if name in pipeline.evolving:
            own = with_dtype(_small_files(component), dtype)
        else:
            own = component_files(component)
        found |= {f"{name}/{file}": data for file, data in own.items()}
    return found


def written_components(pipeline: Pipeline) -> dict[str, Component]:
    """The components that a new pipeline has, by name.

    Raises:
        CheckpointError: one is missing that is needed.
    """
    found: dict[str, Component] = {}
    for name, component in pipeline.components.items():
        if name != SAFETY_CHECKER:
            component.require()
        if component.directory.is_dir():
            found[name] = component
    return found


def component_files(component: Component) -> Files:
    """The files of a component that is taken whole, weights included, under the names by which it
    is found without a `variant`.

    Raises:
        CheckpointError: as `pipeline_files`.
    """
    files = {**_small_files(component), **weight_files(component)}
    if not files:
        raise CheckpointError(f"{at(component.directory)}: holds no file of a component")
    return dict(sorted(files.items()))


def component_digest(component: Component, *, weights: bool = True) -> str:
    """SHA-256 over names and contents of a component's files; see `file_digest`.

    Args:
        component: of a pipeline.
        weights: whether its weights are among them.

    Raises:
        CheckpointError: as `pipeline_files`.
    """
    files = component_files(component) if weights else _small_files(component)
    with ThreadPoolExecutor(available_threads(), thread_name_prefix="genepool-digest") as pool:
        found = pool.map(file_digest, files.values())
        parts = [[name, digest] for name, digest in zip(files, found, strict=True)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def watching(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose `files` are those of the components too that are taken as they are.

    Raises:
        CheckpointError: the weights of one are missing or damaged.
    """
    pipeline = checkpoint.pipeline
    if pipeline is None:
        return checkpoint
    components = written_components(pipeline)
    places = [
        place
        for name in pipeline.whole
        if name in components and name != SAFETY_CHECKER
        for place in weight_files(components[name]).values()
        if isinstance(place, Path) and place.suffix == ".safetensors"
    ]
    return replace(checkpoint, files=(*checkpoint.files, *map(map_file, places)))


def _home(component: Component) -> Path:
    """The directory inside which a component's links may lead: its pipeline's, if it is in one."""
    parent = component.directory.parent
    return parent if (parent / INDEX).is_file() else component.directory


def _small_files(component: Component) -> Files:
    return copied(component.directory, lambda name: not _INDEX.search(name), _home(component))


def weight_files(component: Component) -> Files:
    """The weights of a whole component, those of a variant (`fp16`) under plain names; nothing
    where it has none and needs none."""
    directory, home = component.directory, _home(component)
    chosen = require_weights(component)
    if chosen is None:
        return {}
    variant, leading = chosen
    stem = leading.split(".", 1)[0]

    def place(name: str) -> Path:
        return safe_target(home, str((directory / name).relative_to(home)))

    if not leading.endswith(".json"):
        return {f"{stem}.safetensors": place(leading)}
    index = read_json(place(leading))
    where: dict[str, str] = mapping_of(index.get("weight_map"))
    shards = sorted(set(map(str, where.values())))
    if not shards or any(Path(name).name != name for name in shards):
        raise CheckpointError(
            f"{at(directory / leading)}: expected an object 'weight_map' from tensor names to file "
            "names"
        )
    if not variant:
        return {name: place(name) for name in (*shards, leading)}
    plain = {
        name: f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        for number, name in enumerate(shards, 1)
    }
    index["weight_map"] = {tensor: plain[str(name)] for tensor, name in where.items()}
    return {
        **{plain[name]: place(name) for name in shards},
        f"{stem}.safetensors.index.json": _json(index),
    }


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
