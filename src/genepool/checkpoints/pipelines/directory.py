"""A directory that diffusers has saved a pipeline in, opened as one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor, open_checkpoint
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.pipelines.components import DENOISERS, Component, Pipeline
from genepool.checkpoints.pipelines.order import in_order
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

INDEX = "model_index.json"


def is_pipeline(place: Path) -> bool:
    """Whether a pipeline lies in this directory."""
    return place.is_dir() and (place / INDEX).is_file()


def open_pipeline(directory: Path, evolving: Sequence[str] = ()) -> Checkpoint:
    """Open the components of a pipeline that evolve, as one checkpoint.

    Args:
        directory: holds `model_index.json` and a folder for each component.
        evolving: names of the components whose weights are merged; none means the denoiser.

    Raises:
        CheckpointError: anything is missing, unreadable or contradictory.
    """
    pipeline = read_pipeline(directory, evolving)
    parts = {
        name: open_checkpoint(pipeline.components[name].directory) for name in pipeline.evolving
    }
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        for tensor in part.tensors.values():
            full = f"{name}.{tensor.name}"
            tensors[full] = replace(tensor, name=full)
    label = directory.resolve().name or "pipeline"
    return Checkpoint(
        directory,
        label,
        MappingProxyType(tensors),
        MappingProxyType({}),
        tuple(file for part in parts.values() for file in part.files),
        directory,
        pipeline=pipeline,
    )


def read_pipeline(directory: Path, evolving: Sequence[str] = ()) -> Pipeline:
    """What `model_index.json` says; no weights are read.

    Raises:
        CheckpointError: it cannot be read, or a component that is to evolve is not there.
    """
    path = directory / INDEX
    index = read_json(path)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise CheckpointError(f"{at(path)}: expected the name of a pipeline in '_class_name'")
    components = _components(directory, index)
    chosen = tuple(evolving) or _denoiser(path, components)
    for name in chosen:
        if name not in components:
            raise CheckpointError(
                f"{at(path)}: there is no component '{one_line(name)}' to evolve; the pipeline's "
                f"are {some(components, limit=20)}"
            )
    chosen = in_order(dict.fromkeys(chosen))
    return Pipeline(class_name, MappingProxyType(components), chosen, MappingProxyType(index))


def assembled(checkpoints: Sequence[Checkpoint], whole: Mapping[str, int]) -> Checkpoint:
    """The first of some checkpoints, with components taken as they are from any of them.

    Args:
        checkpoints: opened.
        whole: component -> position of the checkpoint that it comes from.

    Raises:
        CheckpointError: they are no pipelines, or one lacks the component that it is to give.
    """
    first = checkpoints[0]
    if not whole:
        return first
    others: dict[str, Component] = {}
    for name, number in whole.items():
        giver = checkpoints[number].pipeline
        if first.pipeline is None or giver is None:
            raise CheckpointError(
                f"{at(first.path)}: is no pipeline (it has no {INDEX}) and has no component "
                f"'{one_line(name)}'; leave out 'components'"
            )
        if name not in giver.components:
            raise CheckpointError(
                f"{at(checkpoints[number].path)}: has no component '{one_line(name)}'; its "
                f"components are {some(giver.components, limit=20)}"
            )
        others[name] = giver.components[name]
    if first.pipeline is None:
        return first
    return replace(first, pipeline=first.pipeline.with_components(others))


def _components(directory: Path, index: Mapping[str, Any]) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for name, value in index.items():
        pair = cast("list[Any]", value) if isinstance(value, list) else []
        if name.startswith("_") or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            continue  # a setting of the pipeline, or a component that is left out (null)
        found[name] = Component(name, pair[0], pair[1], directory / name)
    return found


def _denoiser(path: Path, components: Mapping[str, Component]) -> tuple[str, ...]:
    found = tuple(name for name in DENOISERS if name in components)
    if not found:
        raise CheckpointError(
            f"{at(path)}: has no component called unet or transformer; say with 'components' "
            f"which evolve; the pipeline's are {some(components, limit=20)}"
        )
    return found
