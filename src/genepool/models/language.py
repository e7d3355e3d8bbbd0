"""Language models as tasks see them, and how one is known from its files; without transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.model_files.configs import read_json

CONFIG = "config.json"

# What transformers ends the names of architectures with that continue text.
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A live language model: what a task's `score` is given as `model`.

    Attributes:
        model: a transformers model in evaluation mode whose parameters need no gradients; the same
            object for every genome, so nothing that depends on its weights may be kept.
        tokenizer: its transformers tokenizer, which pads on the left and has a token to pad with
            if the model has any that will do; None where the first seed comes without one.
        directory: whose config.json the model was built from.
        of_seeds: calls a function with the live model holding each seed in turn, and gives what it
            returned; afterwards the model is as it was. None where there are no seeds at hand.
    """

    model: Any
    tokenizer: Any
    directory: Path
    of_seeds: Callable[[Callable[[], Any]], list[Any]] | None = None


def read_config(directory: Path | None) -> dict[str, Any] | None:
    """The config.json of a checkpoint directory; None if there is none, or no directory.

    Raises:
        CheckpointError: it cannot be read, or is not a JSON object.
    """
    if directory is None or not (directory / CONFIG).exists():
        return None
    return read_json(directory / CONFIG)


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether a config.json names an architecture of transformers that continues text."""
    named = config.get("architectures")
    architectures = cast("list[object]", named) if isinstance(named, list) else []
    return isinstance(config.get("model_type"), str) and any(
        isinstance(name, str) and name.endswith(_GENERATIVE) for name in architectures
    )
