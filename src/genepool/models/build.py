"""Which live model a run needs, and making it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import TORCH_NAMES, floating_named
from genepool.checkpoints.layout import Layout
from genepool.materialise.cpu import SeedsPlace
from genepool.models.kind import AUTO, Building, OfSeeds, Options
from genepool.models.kinds import KINDS, kind_of
from genepool.models.live import LiveModel
from genepool.settings import Section

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[("auto", *sorted(kind.name for kind in KINDS))]


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


class ModelOptions(Section):
    """What a genome is made into before it is scored."""

    kind: KindName = Field(
        default="auto",
        description=" ".join(f"With '{kind.name}' {kind.help}" for kind in reversed(KINDS))
        + " By default they get an image generator if the first seed is one, the network if "
        "there is one, a language model if the first seed is a directory whose config.json names "
        "one, and arrays otherwise.",
    )
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

    @property
    def plain(self) -> Options:
        """As kinds see them."""
        return Options(**self.model_dump())


def build_model(
    options: ModelOptions,
    layout: Layout,
    checkpoints: Sequence[Checkpoint],
    directory: Path,
    of_seeds: OfSeeds | None = None,
) -> LiveModel:
    """Make room for one model of this layout.

    Args:
        options: which kind of model.
        layout: of the seeds.
        checkpoints: the seeds; tensors that do not merge come from the first.
        directory: the run file's folder, where the network's module is looked for.
        of_seeds: asks the seeds, for models whose answers are compared with theirs.

    Raises:
        ConfigError: the options contradict each other, or the model cannot be made.
        CheckpointError: the model and the checkpoints differ in names or shapes, or a language
            model's files cannot be used.
        MissingExtraError: a network without torch, or a language model without transformers.
    """
    building = Building(options.plain, layout, checkpoints[0], directory, of_seeds)
    return kind_of(building.options, building.first).build(building)
