"""What a kind of live model knows about itself; each kind is such a value, in its own file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.errors import ConfigError, MissingExtraError
from genepool.materialise.cpu import SeedsPlace
from genepool.models.live import LiveModel

CONFIG = "config.json"
GENERATION = "generation_config.json"
AUTO = "auto"

OfSeeds = Callable[[Callable[[], Any]], list[Any]]
"""Calls a function with the live model holding each seed in turn, and gives what it returned;
afterwards the model is as it was."""


@dataclass(frozen=True, slots=True)
class Options:
    """`ModelOptions`, as kinds see them; by default those of a run file that says nothing.

    Attributes:
        kind: the name of a kind, or "auto".
        network: `module:function` that makes the network.
        device: where the model runs, as torch writes it.
        device_map: names of modules to devices, for a model on several; {"": AUTO} leaves it to
            accelerate, and None means one device.
        seeds: where the seeds lie while children are made from them.
        dtype: what it computes in, as torch writes it; None leaves it to the kind.
        tokenizer: directory of a tokenizer.
        cache_implementation: what a language model remembers a text in while it goes on with it.
        max_cache_len: tokens that a static cache has room for, at least.
        torch_compile: whether torch compiles a language model.
        scheduler: the class of an image generator's scheduler, in diffusers.
        steps: of denoising.
        guidance: how strongly pictures are drawn towards their prompts.
        configs: directory of a pipeline with the settings of an image generator in a single file.
        size: [height, width] of pictures, in pixels.
    """

    kind: str = "auto"
    network: str | None = None
    device: str = "cpu"
    device_map: Mapping[str, str] | None = None
    seeds: SeedsPlace = "auto"
    dtype: str | None = None
    tokenizer: str | None = None
    cache_implementation: str | None = None
    max_cache_len: int | None = None
    torch_compile: bool = False
    scheduler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    configs: str | None = None
    size: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Building:
    """What a live model is made from.

    Attributes:
        options: as the run file gives them.
        layout: of the seeds.
        first: the first seed; tensors that do not merge come from it.
        directory: the run file's folder.
        of_seeds: asks the seeds; None where there are none at hand.
    """

    options: Options
    layout: Layout
    first: Checkpoint
    directory: Path
    of_seeds: OfSeeds | None = None


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A part of a model that lies beside its weights: digest ("" where there is none) and place."""

    digest: str
    place: Path


PinnedFiles = Mapping[str, PinnedFile]


def _nothing_pinned(_options: Options, _first: Checkpoint, _directory: Path) -> PinnedFiles:
    return {}


def _nothing_told(_options: Options, _first: Checkpoint, _texts: Sequence[str]) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of live model.

    Attributes:
        name: as the option `kind` says it.
        help: what tasks are given, for the option's description.
        is_meant: whether a run with these options, kind "auto", and this first seed has this kind.
        check: raises ConfigError where options do not go with this kind, or the first seed does
            not.
        build: makes room for one model; see `build.build_model`.
        pinned_files: what the pool pins beside weights, by name.
        told: what is good to know about such a model, one line each, where these are the texts that
            tasks let it draw from.
    """

    name: str
    help: str
    is_meant: Callable[[Options, Checkpoint], bool]
    check: Callable[[Options, Checkpoint], None]
    build: Callable[[Building], LiveModel]
    pinned_files: Callable[[Options, Checkpoint, Path], PinnedFiles] = _nothing_pinned
    told: Callable[[Options, Checkpoint, Sequence[str]], tuple[str, ...]] = _nothing_told


def refuse_others(options: Options, own: Sequence[str]) -> None:
    """Raise ConfigError if an option is given that belongs to another kind than that of `own`."""
    words, pictures = "a language model", "an image generator"
    given = {
        "network": (options.network, ""),
        "device_map": (options.device_map, words),
        "tokenizer": (options.tokenizer, words),
        "cache_implementation": (options.cache_implementation, words),
        "max_cache_len": (options.max_cache_len, words),
        "torch_compile": (options.torch_compile or None, words),
        "scheduler": (options.scheduler, pictures),
        "steps": (options.steps, pictures),
        "guidance": (options.guidance, pictures),
        "size": (options.size, pictures),
    }
    for name, (value, owner) in given.items():
        if value is None or name in own:
            continue
        if not owner:
            raise ConfigError(
                f"model: '{name}' does not go with kind '{options.kind}'; leave out one of them"
            )
        raise ConfigError(f"model: '{name}' applies to {owner} only")


def require_package(package: str, extra: str, purpose: str) -> None:
    """Raise MissingExtraError unless a package is installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)
