"""Which live model a run needs, and making it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.dtypes import TORCH_NAMES, floating_named
from genepool.checkpoints.layout import Layout
from genepool.models.kind import Building, OfSeeds
from genepool.models.kinds import KINDS, kind_of
from genepool.models.live import LiveModel

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[("auto", *sorted(kind.name for kind in KINDS))]


def _torch_name(given: object) -> object:
    code = floating_named(given) if isinstance(given, str) else None
    return given if code is None else TORCH_NAMES[code]


class ModelOptions(BaseModel):
    """What a genome is made into before it is scored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: KindName = Field(
        default="auto",
        description=" ".join(f"'{kind.name}': {kind.help}" for kind in reversed(KINDS))
        + " By default the network if there is one, a language model if the first seed is a "
        "directory whose config.json names one, and arrays otherwise.",
    )
    network: str | None = Field(
        default=None,
        description="'module:function' that takes no arguments and returns a torch network whose "
        "parameters and buffers have the checkpoint's names.",
    )
    device: str = Field(
        default="cpu",
        description="Where a network or language model runs, as torch writes it: 'cpu', 'cuda:0'.",
    )
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None, BeforeValidator(_torch_name)
    ] = Field(
        default=None,
        description="What it computes in; by default the dtypes that a network comes with, and for "
        "a language model the one that most of the first seed's weights have.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="Directory with a language model's tokenizer; by default the first seed's.",
    )


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
    building = Building(options, layout, checkpoints[0], directory, of_seeds)
    return kind_of(options, checkpoints[0]).build(building)
