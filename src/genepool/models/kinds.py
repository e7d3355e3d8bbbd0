"""The kinds of live model, and which one a run needs."""

from __future__ import annotations

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.models.arrays import ARRAYS
from genepool.models.image_generator import IMAGE_GENERATOR
from genepool.models.kind import Kind, Options
from genepool.models.language import LANGUAGE_MODEL
from genepool.models.network import NETWORK

# In the order in which they are asked whether they are meant; the last one always is.
KINDS: tuple[Kind, ...] = (IMAGE_GENERATOR, LANGUAGE_MODEL, NETWORK, ARRAYS)


def kind_of(options: Options, first: Checkpoint) -> Kind:
    """What tasks will be given; only small text files are read.

    Raises:
        ConfigError: the options contradict each other.
        CheckpointError: the first seed's config.json cannot be read.
    """
    if options.kind == "auto":
        kind = next(kind for kind in KINDS if kind.is_meant(options, first))
    else:
        kind = next(kind for kind in KINDS if kind.name == options.kind)
    kind.check(options, first)
    return kind
