"""What a kind of live model knows about itself; each kind is such a value, in its own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import TORCH_NAMES, floating_named
from genepool.checkpoints.layout import Layout
from genepool.errors import ConfigError
from genepool.materialise.cpu import SeedsPlace
from genepool.models.live import LiveModel
from genepool.settings import Section

CONFIG = "config.json"
GENERATION = "generation_config.json"
AUTO = "auto"

OfSeeds = Callable[[Callable[[], Any]], list[Any]]
"""Calls a function with the live model holding each seed in turn, and gives what it returned;
afterwards the model is as it was."""


def _torch_name(given: object) -> object:
    code = floating_named(given) if isinstance(given, str) else None
    return given if code is None else TORCH_NAMES[code]


def _both(given: object) -> object:
    return [given, given] if isinstance(given, int) and not isinstance(given, bool) else given


def _everything(given: object) -> object:
    if given is None or isinstance(given, Mapping):
        return cast("object", given)
    if given != AUTO:
        raise ValueError(f"expected a mapping, or the word '{AUTO}'")
    return {"": AUTO}


class Options(Section):
    """What a run file says of the model; `ModelOptions` knows the kinds that there are."""

    kind: str = Field(default=AUTO, description="Tasks are given a model of this kind.")
    network: str | None = Field(
        default=None,
        description="This 'module:function' takes no arguments and returns a torch network whose "
        "parameters and buffers have the checkpoint's names.",
    )
    device: str = Field(
        default="cpu",
        description="A network, language model or image generator runs here; it is written as in "
        "torch: 'cpu', 'cuda:0'.",
    )
    device_map: Annotated[dict[str, str] | None, BeforeValidator(_everything)] = Field(
        default=None,
        description="A language model that is too large for one GPU lies on several of the kind "
        "of 'device', as accelerate spreads it: with 'auto' evenly on all of this machine, and "
        "with a mapping, from names of modules to devices, as that says.",
    )
    seeds: SeedsPlace = Field(
        default="auto",
        description="Where the seeds lie while children of a model on a GPU are made from them. "
        "With 'device' they lie on the GPU and are read at the speed of its memory; with 'host' "
        "they lie in the main memory and come over for each child, which takes tens of times as "
        "long. By default they are on the GPU if they fit there beside the model and its work. "
        "Scores are the same in each case.",
    )
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None, BeforeValidator(_torch_name)
    ] = Field(
        default=None,
        description="The model computes in this type; by default a network keeps the dtypes that "
        "it comes with, and a language model or an image generator has the one that most of the "
        "first seed's weights have; on a CPU an image generator has float32.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="A language model's tokenizer is read from this directory; by default it is "
        "the first seed's.",
    )
    cache_implementation: Literal["static"] | None = Field(
        default=None,
        description="With 'static' a language model that generates keeps what it has read in "
        "memory of a fixed size, as in transformers' GenerationConfig; by default it grows.",
    )
    max_cache_len: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="A static cache has room for so many tokens, or for those that a call needs if "
        "that is more; by default for those that it needs.",
    )
    torch_compile: bool = Field(
        default=False,
        description="With it torch compiles the language model, anew for each shape that it reads: "
        "whole texts that are scored, and each next token where the cache is static.",
    )
    scheduler: str | None = Field(
        default=None,
        description="An image generator draws with a scheduler of this class, as diffusers calls "
        "it ('DPMSolverMultistepScheduler'), with the settings of the pipeline's own as far as "
        "they apply; by default it is the pipeline's own.",
    )
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="An image generator draws a picture in so many steps of denoising; by default "
        "it takes as many as its class in diffusers, often 50.",
    )
    guidance: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = Field(
        default=None,
        description="An image generator is guided by the prompt so strongly (guidance_scale); by "
        "default its class in diffusers says how strongly.",
    )
    configs: str | None = Field(
        default=None,
        description="The configurations, tokenizers and scheduler of image generators in single "
        "files are read from this pipeline's directory; by default diffusers finds out which they "
        "are and fetches them from the Hub.",
    )
    size: Annotated[
        Annotated[list[Annotated[int, Field(ge=8, le=16384)]], Field(min_length=2, max_length=2)]
        | None,
        BeforeValidator(_both),
    ] = Field(
        default=None,
        description="An image generator's pictures have so many pixels: [height, width], or one "
        "number for both; by default they have the size that it was made for.",
    )


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
    pinned_files: Callable[[Options, Checkpoint, Path], PinnedFiles] = (
        lambda _options, _first, _directory: {}
    )
    told: Callable[[Options, Checkpoint, Sequence[str]], tuple[str, ...]] = (
        lambda _options, _first, _texts: ()
    )


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
