"""Output heads that are tied to the token embeddings, and copies of these that files may hold."""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.safetensors import Tensor
from genepool.checkpoints.model_files.configs import ties_embeddings
from genepool.messages import at

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
_EMBEDDINGS = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|(word_|tok_)?embeddings?|shared)\.weight$"
)
_CHUNK = 2**24


def without_tied_copies(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint without the tensors that are but copies of the embeddings.

    Some programs store the embeddings of a model with `tie_word_embeddings` once more as its head,
    or as the embeddings of encoder and decoder. Merged on its own a copy drifts away from them
    (split points cut between the two), and what it holds then depends on who loads it; left out, it
    is what the configuration says.
    """
    copies = _copies(checkpoint)
    if not copies or not ties_embeddings(checkpoint.directory):
        return checkpoint
    kept = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in copies}
    return replace(checkpoint, tensors=MappingProxyType(kept), _digest=[])


def _copies(checkpoint: Checkpoint) -> set[str]:
    tensors = checkpoint.tensors
    head = _stored_head(checkpoint)
    found: set[str] = set()
    if head is not None and any(_equal(head, other) for other in _alike(checkpoint, head)):
        found.add(head.name)
    for name, tensor in tensors.items():
        if name in found or not _EMBEDDINGS.search(name) or len(tensor.shape) != 2:
            continue
        shared = name.endswith("shared.weight")
        others = [t for t in _alike(checkpoint, tensor) if shared or not _EMBEDDINGS.search(t.name)]
        found |= {other.name for other in others if _equal(tensor, other)}
    # Of heads as BERT's, the bias is stored twice, too.
    for module in [name.removesuffix(".weight") for name in found]:
        own, above = (tensors.get(f"{m}.bias") for m in (module, module.rpartition(".")[0]))
        if own is not None and above is not None and own.shape == above.shape:
            found |= {own.name} if own.dtype == above.dtype and _equal(own, above) else set()
    return found


def tie_notice(checkpoint: Checkpoint) -> str | None:
    """What to say of a head that may not be what it is tied to; None if all is well."""
    head, tied = _stored_head(checkpoint), ties_embeddings(checkpoint.directory)
    if head is None or checkpoint.directory is None or tied is False:
        return None
    if tied is None:
        if not any(_equal(head, other) for other in _alike(checkpoint, head)):
            return None
        return (
            f"{at(checkpoint.path)}: '{head.name}' equals the embeddings, and no config.json says "
            "whether it is tied to them: the two merge apart; if they are tied, write "
            '"tie_word_embeddings": true into config.json'
        )
    # Of another dtype it is one that was rounded otherwise.
    if not any(t.shape == head.shape for t in checkpoint.tensors.values() if t is not head):
        return None
    return (
        f"{at(checkpoint.path)}: by its config.json (or the default of its type) the head is tied "
        f"to the embeddings (tie_word_embeddings), but '{head.name}' is not the embeddings: "
        "programs that tie them all the same get another model (set it to false)"
    )


def tied_embeddings(checkpoint: Checkpoint) -> Tensor | None:
    """The token embeddings, if they are the output head, too, which then is not stored itself."""
    if any(_HEAD.search(name) for name in checkpoint.tensors):
        return None
    found = [tensor for name, tensor in checkpoint.tensors.items() if _EMBEDDINGS.search(name)]
    return found[0] if len(found) == 1 and ties_embeddings(checkpoint.directory) else None


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """How many tokens the embeddings have rows for; None where they are not known by name."""
    rows = {t.shape[0] for n, t in checkpoint.tensors.items() if _EMBEDDINGS.search(n) and t.shape}
    return max(rows, default=None)


def _stored_head(checkpoint: Checkpoint) -> Tensor | None:
    named = [tensor for name, tensor in checkpoint.tensors.items() if _HEAD.search(name)]
    return named[0] if len(named) == 1 else None


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
