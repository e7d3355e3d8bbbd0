"""A directory that diffusers has saved a pipeline in, opened as one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genepool.checkpoints.files.checkpoint import (
    Checkpoint,
    Tensor,
    directory_name,
    open_checkpoint,
    open_weights,
    safe_target,
)
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.pipelines.components import DENOISERS, Component, Pipeline
from genepool.checkpoints.pipelines.order import in_order
from genepool.checkpoints.pipelines.variants import find_weights
from genepool.documents import list_of
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, shown, some

INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_LONGEST = 100  # characters of a component's name

# What is in the names of classes that have no weights.
_PARTS = ("Tokenizer", "Scheduler", "Processor")

# Where a component that lies alone names its class.
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json")


def is_pipeline(place: Path) -> bool:
    """Whether a pipeline lies in this directory."""
    return place.is_dir() and (place / INDEX).is_file()


def open_pipeline(directory: Path, evolving: Sequence[str] = (), variant: str = "") -> Checkpoint:
    """Open the components of a pipeline that evolve, as one checkpoint.

    Args:
        directory: holds `model_index.json` and a folder for each component.
        evolving: names of the components whose weights are merged; none means the denoiser.
        variant: of the weights, such as "fp16", of the components that have it.

    Raises:
        CheckpointError: anything is missing, unreadable or contradictory.
    """
    pipeline = read_pipeline(directory, evolving, variant)
    notices: list[str] = []
    parts: dict[str, Checkpoint] = {}
    for name in pipeline.evolving:
        component = pipeline.components[name]
        component.require()
        found = find_weights(component)
        if found is None:
            parts[name] = open_checkpoint(component.directory)
            continue
        parts[name] = open_weights(component.directory, found[1])
        if found[0] != variant:
            held = f"its variant '{found[0]}'" if found[0] else "its plain weights"
            lacks = f"there is no variant '{variant}'" if variant else "there are no plain ones"
            notices.append(f"{at(component.directory)}: {held} is taken: {lacks}")
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        for tensor in part.tensors.values():
            full = f"{name}.{tensor.name}"
            tensors[full] = replace(tensor, name=full)
    return Checkpoint(
        directory,
        directory_name(directory),
        MappingProxyType(tensors),
        MappingProxyType({}),
        tuple(file for part in parts.values() for file in part.files),
        directory,
        notices=(*notices, *(notice for part in parts.values() for notice in part.notices)),
        pipeline=pipeline,
    )


def read_pipeline(directory: Path, evolving: Sequence[str] = (), variant: str = "") -> Pipeline:
    """What `model_index.json` says; no weights are read.

    Raises:
        CheckpointError: it cannot be read, or a component that is to evolve is not there.
    """
    path = safe_target(directory, INDEX)
    index = read_json(path)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str) or not class_name.isidentifier():
        own = isinstance(class_name, list)
        raise CheckpointError(
            f"{at(path)}: expected the name of a pipeline of diffusers in '_class_name'; "
            f"got {'code of its own, which genepool does not run: ' if own else ''}"
            f"{shown(class_name)}"
        )
    components = _components(directory, index, variant)
    chosen = tuple(evolving) or _denoiser(path, components)
    for name in chosen:
        if name not in components:
            raise CheckpointError(
                f"{at(path)}: there is no component '{one_line(name)}' to evolve; the pipeline's "
                f"are {some(components, limit=20)}"
            )
    chosen = in_order(dict.fromkeys(chosen))
    return Pipeline(class_name, MappingProxyType(components), chosen, MappingProxyType(index))


def open_whole(directory: Path, name: str) -> Checkpoint:
    """Open a pipeline, or the folder of one component, for what is taken from it as it is.

    Args:
        directory: holds `model_index.json`, or the component's files.
        name: of the component, where it is a folder of one.

    Returns:
        A checkpoint without tensors.

    Raises:
        CheckpointError: it is neither.
    """
    if is_pipeline(directory):
        index = read_json(safe_target(directory, INDEX))
        components = _components(directory, index, "")
    else:
        index = {}
        components = {name: _alone(directory, name)}
    pipeline = Pipeline(
        str(index.get("_class_name")), MappingProxyType(components), (), MappingProxyType(index)
    )
    name, nothing = directory_name(directory), MappingProxyType[str, Any]({})
    return Checkpoint(directory, name, nothing, nothing, (), directory, pipeline=pipeline)


def _alone(directory: Path, name: str) -> Component:
    """A component in a folder of its own, such as a VAE; its class is in its configuration."""
    for file in _CONFIGS:
        path = directory / file
        if not path.is_file():
            continue
        config = read_json(path)
        own = config.get("_class_name") or config.get("tokenizer_class")
        library = "diffusers" if "_class_name" in config else "transformers"
        listed = list_of(config.get("architectures"))
        if own is None and listed:
            own = listed[0]
        if isinstance(own, str):
            return Component(name, library, own, directory)
    raise CheckpointError(
        f"{at(directory)}: is neither a pipeline (it has no {INDEX}) nor a component that can be "
        f"taken as '{one_line(name)}' (no {' or '.join(_CONFIGS)} there names its class)"
    )


def assembled(checkpoints: Sequence[Checkpoint], whole: Mapping[str, int]) -> Checkpoint:
    """The first of some checkpoints, with components taken as they are from any of them.

    Args:
        checkpoints: opened.
        whole: component -> position of the checkpoint that it comes from.

    Raises:
        CheckpointError: they are no pipelines, or one lacks the component that it is to give.
    """
    first = checkpoints[0]
    pipeline = first.pipeline
    others: dict[str, Component] = {}
    for name, number in whole.items():
        giver = checkpoints[number].pipeline
        quoted = f"'{one_line(name)}'"
        if pipeline is None or giver is None:
            raise CheckpointError(
                f"{at(first.path)}: is no pipeline (it has no {INDEX}) and has no component "
                f"{quoted}; leave out 'components' (--component)"
            )
        if name in pipeline.evolving:
            raise CheckpointError(
                f"{at(first.path)}: the component {quoted} evolves, and cannot be taken as it is "
                "too; say which other one is to evolve, or leave it out of 'components'"
            )
        for checkpoint, known in ((first, pipeline.index), (checkpoints[number], giver.components)):
            if name not in known:
                there = pipeline.components if checkpoint is first else giver.components
                raise CheckpointError(
                    f"{at(checkpoint.path)}: has no component {quoted}; its components are "
                    f"{some(there, limit=20)}"
                )
        giver.components[name].require()
        _require_alike(pipeline.components.get(name), giver.components[name])
        others[name] = giver.components[name]
    return first if pipeline is None else replace(first, pipeline=pipeline.with_components(others))


def _require_alike(own: Component | None, other: Component) -> None:
    """Refuse what cannot take the place of a component, such as a tokenizer that of a VAE."""
    if own is not None and (own.library, _part(own)) != (other.library, _part(other)):
        raise CheckpointError(
            f"{at(other.directory)}: holds {one_line(other.class_name)} of {other.library}, and "
            f"the component '{one_line(own.name)}' is {one_line(own.class_name)} of {own.library}; "
            "take it from a folder that holds such a component"
        )


def _part(component: Component) -> str:
    """What kind of component it is, where that is no network."""
    name = component.class_name.replace("FeatureExtractor", "ImageProcessor")  # the older name
    return next((part for part in _PARTS if part in name), "")


def _components(directory: Path, index: Mapping[str, Any], variant: str) -> dict[str, Component]:
    found: dict[str, Component] = {}
    for name, value in index.items():
        pair = list_of(value)
        if name.startswith("_") or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            continue  # a setting of the pipeline, or a component that is left out (null)
        if not name.isidentifier() or len(name) > _LONGEST:
            raise CheckpointError(
                f"{at(directory / INDEX)}: '{one_line(name)}' cannot be the name of a component; "
                "expected a word, as diffusers writes it"
            )
        library, class_name = pair
        fault = _fault(directory, name, library, class_name)
        found[name] = Component(name, library, class_name, directory / name, variant, fault)
    return found


def _fault(directory: Path, name: str, library: str, class_name: str) -> str:
    """Why a component cannot be used, as the end of a sentence; "" if it can."""
    place = directory / name
    if library not in _LIBRARIES or not class_name.isidentifier():
        return (
            f"is made by {one_line(library)}.{one_line(class_name)}, and genepool runs no code but "
            "that of diffusers and transformers"
        )
    if not place.is_dir():
        return f"is missing, which {INDEX} names: fetch the whole pipeline"
    try:
        led = place.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):
        led = False
    return "" if led else "is a link that leads out of its pipeline: copy the folder"


def _denoiser(path: Path, components: Mapping[str, Component]) -> tuple[str, ...]:
    found = tuple(name for name in DENOISERS if name in components)
    if not found:
        raise CheckpointError(
            f"{at(path)}: has no component called unet or transformer; say with 'components' "
            f"which evolve; the pipeline's are {some(components, limit=20)}"
        )
    return found
