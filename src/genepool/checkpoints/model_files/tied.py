"""Output heads that are tied to the token embeddings, and copies of these that files may hold."""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.safetensors import Tensor
from genepool.checkpoints.model_files.configs import language_config, read_json
from genepool.messages import at

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_CHUNK = 2**24


def without_tied_head(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint without the head if that is but a copy of the embeddings.

    Some programs store the embeddings of a model with `tie_word_embeddings` once more as its head.
    Merged on its own a copy drifts away from them (split points cut between the two), and what it
    holds then depends on who loads it; left out, it is what the configuration says.
    """
    head = _head(checkpoint)
    if head is None or not any(_equal(head, other) for other in _alike(checkpoint, head)):
        return checkpoint
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name != head.name}
    return replace(checkpoint, tensors=MappingProxyType(kept), _digest=[])


def tie_notice(checkpoint: Checkpoint) -> str | None:
    """What to say of a head that is not what it is said to be tied to; None if all is well."""
    head = _head(checkpoint)
    if head is None or not _alike(checkpoint, head):
        return None
    return (
        f"{at(checkpoint.path)}: config.json says tie_word_embeddings, but '{head.name}' is not "
        "the embeddings: programs that tie them all the same get another model (set it to false)"
    )


def _head(checkpoint: Checkpoint) -> Tensor | None:
    """The head in the file of a model that has its head tied."""
    named = [name for name in checkpoint.tensors if _HEAD.search(name)]
    if len(named) != 1 or checkpoint.directory is None:
        return None
    file = checkpoint.directory / "config.json"
    if not file.is_file():
        return None
    inner = language_config(checkpoint.directory).get("tie_word_embeddings")
    tied = read_json(file).get("tie_word_embeddings", inner) is True
    return checkpoint.tensors[named[0]] if tied else None


def _alike(checkpoint: Checkpoint, head: Tensor) -> list[Tensor]:
    """The tensors that can be the embeddings: as large as the head, which hardly another is."""
    return [
        tensor
        for name, tensor in checkpoint.tensors.items()
        if name != head.name and (tensor.dtype, tensor.shape) == (head.dtype, head.shape)
    ]


def _equal(one: Tensor, other: Tensor) -> bool:
    a, b = (np.frombuffer(tensor.raw, dtype=np.uint8) for tensor in (one, other))
    return all(
        np.array_equal(a[i : i + _CHUNK], b[i : i + _CHUNK]) for i in range(0, a.size, _CHUNK)
    )
