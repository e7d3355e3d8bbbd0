"""Which live model a run needs, and making it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.models.kind import Building, OfSeeds, Options
from genepool.models.kinds import KINDS, kind_of
from genepool.models.live import LiveModel

if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[("auto", *sorted(kind.name for kind in KINDS))]


class ModelOptions(Options):
    """What a genome is made into before it is scored."""

    kind: KindName = Field(
        default="auto",
        description=" ".join(f"With '{kind.name}' {kind.help}" for kind in reversed(KINDS))
        + " By default they get an image generator if the first seed is one, the network if "
        "there is one, a language model if the first seed is a directory whose config.json names "
        "one, and arrays otherwise.",
    )


def build_model(
    options: Options,
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
    return kind_of(options, building.first).build(building)
