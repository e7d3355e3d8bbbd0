"""Image generators as tasks see them: pipelines that draw; without torch and diffusers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.pipelines.agreement import read_config
from genepool.checkpoints.pipelines.components import DENOISERS, Pipeline
from genepool.checkpoints.pipelines.directory import INDEX, read_pipeline
from genepool.checkpoints.pipelines.files import (
    SAFETY_CHECKER,
    component_digest,
    written_components,
)
from genepool.documents import at_home
from genepool.errors import CheckpointError, ConfigError, require_packages
from genepool.messages import at, some
from genepool.models.kind import (
    Building,
    Kind,
    OfSeeds,
    Options,
    PinnedFile,
    PinnedFiles,
    refuse_others,
)
from genepool.models.live import LiveModel

# Options of a run file's `model` that only image generators have.
OPTIONS = ("scheduler", "steps", "guidance", "size", "configs")

# What drawing needs.
PACKAGES = ("torch", "transformers", "diffusers", "accelerate")

# Of denoisers that are told how strongly to be guided, whether they have learnt to be.
_GUIDED = "guidance_embeds"

# How modules of diffusers ask for a package that would mend the letters of prompts.
_MENDER = "is_ftfy_available"


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """A live image generator: what a task's `score` is given as `model`.

    Attributes:
        pipeline: a text-to-image pipeline of diffusers; the same object for every genome.
        call: what it is called with besides prompts and noise, such as the number of steps.
        of_seeds: see `OfSeeds`; None where there are no seeds at hand.
    """

    pipeline: Any
    call: Mapping[str, Any]
    of_seeds: OfSeeds | None = None

    def pictures(self, prompts: Sequence[str], ids: Sequence[str]) -> NDArray[np.uint8]:
        """See `Drawing`.

        Raises:
            EvaluationError: the pipeline fails, or a picture holds NaN or is of one colour.
        """
        from genepool.models.diffusers import draw

        with as_they_are(self.pipeline):
            return draw(self.pipeline, self.call, prompts, ids)


@contextlib.contextmanager
def as_they_are(pipeline: Any) -> Generator[None, None, None]:
    """Prompts reach a pipeline's tokenizer as they do where the package ftfy is not installed."""
    modules = [sys.modules[kind.__module__] for kind in type(pipeline).__mro__]
    asking = [module for module in modules if _MENDER in vars(module)]
    with contextlib.ExitStack() as undo:
        for module in asking:
            undo.enter_context(mock.patch.object(module, _MENDER, _not_there))
        yield


def _not_there() -> bool:
    return False


def _check(options: Options, first: Checkpoint) -> None:
    refuse_others(options, OPTIONS)
    if first.pipeline is None and not first.evolving:
        raise ConfigError(
            f"model: kind 'diffusers' needs the first seed to be a pipeline, a directory with a "
            f"model_index.json; {at(first.path)} is none"
        )
    if first.pipeline is not None and options.configs is not None:
        raise ConfigError(
            "model.configs is for seeds that are single files; a pipeline's directory has its own"
        )


def _told(options: Options, first: Checkpoint, texts: Sequence[str]) -> tuple[str, ...]:
    require_packages("pictures", "an image generator", *PACKAGES)
    from genepool.models.diffusers import told

    settings = _settings(options, first, Path())
    notices = told(options, first, texts, settings)
    if settings is None or options.guidance is None:
        return notices
    denoisers = [settings.components[name] for name in DENOISERS if name in settings.components]
    if any(read_config(denoiser).get(_GUIDED) is False for denoiser in denoisers):
        notices += (f"model.guidance is passed over: the denoiser takes none ({_GUIDED} is false)",)
    return notices


def _build(building: Building) -> LiveModel:
    require_packages("pictures", "an image generator", *PACKAGES)
    from genepool.models.diffusers import build_pipeline
    from genepool.models.filled import filled_by_genomes

    first = building.first
    pipeline, call, held = build_pipeline(building)
    pair = f"the pipeline of {at(first.path)} does not fit its weights"
    if missing := [slot.name for slot in building.layout.slots if slot.name not in held]:
        raise CheckpointError(
            f"{pair}: it has no {some(missing)}; is its config.json the one that was saved with "
            "these weights?"
        )
    value = ImageGenerator(pipeline, call, building.of_seeds)
    return filled_by_genomes(value, held, list(held), pair, building.layout, first)


def _settings(options: Options, first: Checkpoint, directory: Path) -> Pipeline | None:
    """The pipeline that has what is beside the weights; None where diffusers looks for it."""
    if first.pipeline is None and options.configs is not None:
        return read_pipeline(directory / at_home(options.configs))
    return first.pipeline


def _pinned_files(options: Options, first: Checkpoint, directory: Path) -> PinnedFiles:
    """All that draws beside the weights that evolve; a single file has the weights of the others
    too, and its settings lie elsewhere."""
    if (pipeline := _settings(options, first, directory)) is None:
        return {}
    place = directory / at_home(options.configs) if options.configs is not None else first.path
    made_with = json.dumps([pipeline.class_name, pipeline.settings], sort_keys=True).encode()
    return {INDEX: PinnedFile(hashlib.sha256(made_with).hexdigest(), place)} | {
        pinned_name(name): PinnedFile(
            component_digest(
                component, weights=not first.evolving and name not in pipeline.evolving
            ),
            component.directory,
        )
        for name, component in written_components(pipeline).items()
        if name != SAFETY_CHECKER
    }


def pinned_name(component: str) -> str:
    """Under which a pool pins a component of its pipelines."""
    return f"component '{component}'"


IMAGE_GENERATOR = Kind(
    name="diffusers",
    help="they get an image generator, a pipeline of diffusers (extra 'pictures').",
    is_meant=lambda options, first: (
        first.pipeline is not None or (bool(first.evolving) and options.network is None)
    ),
    check=_check,
    build=_build,
    pinned_files=_pinned_files,
    told=_told,
)
