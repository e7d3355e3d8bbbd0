"""Language models as tasks see them, and how one is known from its files; without transformers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MethodType
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.model_files.configs import model_config, optional_json
from genepool.checkpoints.model_files.side_files import RARE, pinned_digests
from genepool.documents import list_of
from genepool.errors import ConfigError, require_packages
from genepool.messages import at, shown
from genepool.models.kind import (
    CONFIG,
    GENERATION,
    Building,
    Kind,
    OfSeeds,
    Options,
    PinnedFile,
    PinnedFiles,
    refuse_others,
)
from genepool.models.live import LiveModel

# Those that apply to language models only.
OPTIONS = ("device_map", "tokenizer", "cache_implementation", "max_cache_len", "torch_compile")

# What transformers ends the names of architectures with that continue text.
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

# An answer repeats without end if its last characters, at least so many, are a unit of at most so
# many characters again and again, at least so many times.
_TAIL, _UNIT, _TIMES = 48, 32, 4

# Settings by which another token is taken than the likeliest, and what leaves that to the model.
# Those of sampling are not among them: tasks say themselves whether they sample.
_STEERING: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "num_beams": 1,
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("min_new_tokens", "penalty_alpha", "remove_invalid_values"), 0),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "stop_strings")),
    **dict.fromkeys(("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id")),
    **dict.fromkeys(("forced_decoder_ids", "exponential_decay_length_penalty")),
    **dict.fromkeys(("force_words_ids", "constraints", "watermarking_config", "dola_layers")),
}


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A live language model: what a task's `score` is given as `model`.

    Attributes:
        model: a transformers model in evaluation mode whose parameters need no gradients; the same
            object for every genome, so nothing that depends on its weights may be kept.
        tokenizer: its transformers tokenizer, which pads on the left and has a token to pad with
            if the model has any that will do; None where the first seed comes without one.
        directory: whose config.json the model was built from.
        of_seeds: see `OfSeeds`; None where there are no seeds at hand.
    """

    model: Any
    tokenizer: Any
    directory: Path
    of_seeds: OfSeeds | None = None

    @property
    def arguments(self) -> tuple[Any, Any]:
        """The model and its tokenizer; see `Answering`."""
        return self.model, self.tokenizer

    @cached_property
    def special(self) -> re.Pattern[str]:
        """What finds the tokenizer's special tokens in a text: those that are read as such wherever
        they stand, and are none of its words, as what ends a turn."""
        try:
            added: Mapping[int, Any] = self.tokenizer.added_tokens_decoder
        except NotImplementedError:  # Mistral's own, which finds none in a text.
            added = {}
        known = {re.escape(one.content) for one in added.values() if one.special and one.content}
        return re.compile("|".join(sorted(known, key=len, reverse=True)) or "(?!)")

    @contextlib.contextmanager
    def asked(self) -> Generator[list[Any], None, None]:
        """See `Answering`; the list has a text for each row that the model generates."""
        from genepool.models.transformers import inference

        with inference(self.model), _overheard(self.model, self.tokenizer) as heard:
            yield heard

    def garbage(self, answers: Sequence[Any]) -> Mapping[str, Sequence[str]]:
        """See `Answering`: nothing, or one thing over and over."""
        return {
            "are empty": ["" for answer in answers if not answer.strip()],
            "repeat without end": [f"...{answer[-24:]}" for answer in answers if repeats(answer)],
        }


@contextlib.contextmanager
def _overheard(model: Any, words: Any) -> Generator[list[Any], None, None]:
    """Listen to what a model generates inside, whoever asks it to.

    Yields:
        A list that each call of the model's `generate` extends by one text per row, the prompts
        left out. It stays empty without a tokenizer.
    """
    answers: list[Any] = []

    def generate(self: Any, *given: Any, **named: Any) -> Any:
        kind = cast("Any", type(self))
        out = kind.generate(self, *given, **named)
        rows = getattr(out, "sequences", out)
        # Without ids (but embeddings, say) only what is new comes back.
        prompt = named.get("input_ids", named.get("inputs", given[0] if given else None))
        start = 0 if prompt is None else before_reply(self, prompt.shape[1])
        answers.extend(words.batch_decode(rows[:, start:], skip_special_tokens=True))
        return out

    if words is None:
        yield answers
        return
    # A plain function would be the same one in a deep copy, and generate with this model's weights.
    model.generate = MethodType(generate, model)
    try:
        yield answers
    finally:
        del model.generate


def before_reply(model: Any, prompt: int) -> int:
    """Tokens that come before the reply in what a model's `generate` returns.

    Args:
        model: of transformers; what one with an encoder returns does not hold the prompt.
        prompt: tokens of the prompt.
    """
    return 0 if model.config.is_encoder_decoder else prompt


def repeats(text: str) -> bool:
    """Whether a text ends in endless repetition: of a character, a word or a short phrase."""
    text = text.rstrip()
    for unit in range(1, min(_UNIT, len(text) // _TIMES) + 1):
        length = max(_TAIL, _TIMES * unit)
        tail = text[-length:]
        if len(tail) == length and tail[unit:] == tail[:-unit]:
            return True
    return False


def _is_meant(options: Options, first: Checkpoint) -> bool:
    """Whether config.json names an architecture of transformers that continues text."""
    if options.network is not None:
        return False
    config = model_config(first.directory) or {}
    return isinstance(config.get("model_type"), str) and any(
        isinstance(name, str) and name.endswith(_GENERATIVE)
        for name in list_of(config.get("architectures"))
    )


def _check(options: Options, first: Checkpoint) -> None:
    refuse_others(options, OPTIONS)
    if options.max_cache_len is not None and options.cache_implementation is None:
        raise ConfigError(
            "model: 'max_cache_len' is the size of a static cache; say "
            "'cache_implementation: static' too, or leave it out"
        )
    if options.device_map is not None:
        if options.torch_compile:
            raise ConfigError(
                "model: 'torch_compile' compiles a model whole, and one with a 'device_map' is in "
                "parts; leave out one of them"
            )
        require_packages("llm", "a model on several devices", "accelerate")
    if model_config(first.directory) is None:
        raise ConfigError(
            f"model: kind 'transformers' needs the first seed to be a directory with a "
            f"config.json; {at(first.path)} is none"
        )


def _build(building: Building) -> LiveModel:
    require_packages("llm", "a language model", "torch", "transformers")
    from genepool.models.filled import filled_by_genomes
    from genepool.models.transformers import build_language_model

    first = building.first
    model, words, held = build_language_model(building)
    directory = first.directory or first.path
    value = LanguageModel(model, words, directory, building.of_seeds)
    pair = f"the model of {at(directory / CONFIG)} does not fit {at(first.path)}"
    fit = list(held), pair, building.layout, first
    return filled_by_genomes(value, held, *fit, model)


def _pinned_files(options: Options, first: Checkpoint, directory: Path) -> PinnedFiles:
    model = first.directory or first.path
    words = (first.words or model) if options.tokenizer is None else directory / options.tokenizer
    found = pinned_digests(model, words)
    places = {
        "configuration": model,
        "generation settings": model,
        "tokenizer": words,
        RARE: words,
        "chat template": words,
    }
    return {name: PinnedFile(found.get(name, ""), place) for name, place in places.items()}


def _told(_options: Options, first: Checkpoint, _texts: Sequence[str]) -> tuple[str, ...]:
    """What steers replies besides the model's weights."""
    file = (first.directory or first.path) / GENERATION
    settings = optional_json(file) or {}
    steering = {
        key: value
        for key, usual in _STEERING.items()
        if (value := settings.get(key)) is not None
        and value is not False
        and value not in (usual, [], {})
    }
    notices: list[str] = []
    if steering:
        listed = ", ".join(f"{key} is {shown(value)}" for key, value in steering.items())
        notices.append(
            f"{at(file)}: {listed}; text that is generated obeys this, here and from an exported "
            "model, which has that file"
        )
    if settings.get("max_time") is not None:
        notices.append(
            f"{at(file)}: max_time is passed over, because a score must not depend on how fast a "
            "machine is"
        )
    return tuple(notices)


LANGUAGE_MODEL = Kind(
    name="transformers",
    help="they get a language model, built from the first seed's config.json (extra 'llm').",
    is_meant=_is_meant,
    check=_check,
    build=_build,
    pinned_files=_pinned_files,
    told=_told,
)
