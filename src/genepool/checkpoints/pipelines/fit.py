"""Whether the components of a pipeline fit together, which may come from several seeds.

Text encoders give what the denoiser takes, the VAE has the denoiser's latents, and a tokenizer has
no token that its text encoder lacks. Rules are by the class of the denoiser; of those that are not
known here only what holds for all pipelines is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from genepool.checkpoints.model_files.configs import optional_json
from genepool.checkpoints.model_files.vocabularies import comparable, conflict, read_vocabulary
from genepool.checkpoints.pipelines.agreement import read_config
from genepool.checkpoints.pipelines.components import DENOISERS, Component, Pipeline
from genepool.checkpoints.pipelines.variants import require_weights
from genepool.errors import CheckpointError
from genepool.messages import agreeing, at, one_line

# What no picture needs.
_OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
_MOST_TOKENS = 10**6  # What transformers says where a tokenizer has no limit is larger.


def require_fit(pipeline: Pipeline) -> None:
    """Check the components of a pipeline against each other.

    Raises:
        CheckpointError: one is missing or does not fit; the message names both and their values.
    """
    for component in pipeline.components.values():
        if component.name not in _OPTIONAL:
            component.require()
            require_weights(component)
    configs = {
        name: read_config(component)
        for name, component in pipeline.components.items()
        if component.directory.is_dir()
    }
    for name in pipeline.components:
        if name.startswith("tokenizer"):
            _require_tokens(pipeline, name, configs)
    denoiser = next((name for name in DENOISERS if name in pipeline.components), None)
    if denoiser is not None:
        _Fit(pipeline, pipeline.components[denoiser], configs).check()


def _require_tokens(
    pipeline: Pipeline, tokenizer: str, configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """That a text encoder has a row for each token, and a position for as many as are given."""
    name = tokenizer.replace("tokenizer", "text_encoder")
    if name not in pipeline.components or pipeline.components[tokenizer].fault:
        return
    here, there = (at(pipeline.components[part].directory) for part in (tokenizer, name))
    config = configs[name]
    vocabulary = read_vocabulary(pipeline.components[tokenizer].directory)
    rows = config.get("vocab_size")
    if vocabulary is not None and vocabulary.ids and isinstance(rows, int):
        token, number = max(vocabulary.ids.items(), key=lambda pair: pair[1])
        if number >= rows:
            raise CheckpointError(
                f"{here} does not fit {there}: token '{one_line(token)}' has id {number}, and the "
                f"text encoder has {rows} (vocab_size); take both from one seed"
            )
    own = pipeline.components[name].directory.parent / tokenizer
    trained = read_vocabulary(own) if own.is_dir() else None
    if vocabulary is not None and trained is not None and comparable(trained, vocabulary):
        reason = conflict(trained, vocabulary, nested=True)
        if reason is not None:
            raise CheckpointError(
                f"{here} does not fit {there}: {reason} in {at(own)}, whose tokens the text "
                "encoder knows; take both from one seed"
            )
    settings = optional_json(pipeline.components[tokenizer].directory / "tokenizer_config.json")
    longest = (settings or {}).get("model_max_length")
    positions = config.get("max_position_embeddings")
    if not (isinstance(longest, int) and isinstance(positions, int)):
        return
    if positions < longest < _MOST_TOKENS:
        raise CheckpointError(
            f"{here} does not fit {there}: it gives up to {longest} tokens (model_max_length), and "
            f"the text encoder takes {positions} (max_position_embeddings); take both from one seed"
        )


class _Fit:
    """A denoiser against what comes before and after it."""

    def __init__(
        self, pipeline: Pipeline, denoiser: Component, configs: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._pipeline = pipeline
        self._denoiser = denoiser
        self._configs = configs
        self._config = configs[denoiser.name]

    def check(self) -> None:
        rules = {
            "UNet2DConditionModel": self._unet,
            "SD3Transformer2DModel": self._stable_diffusion_3,
            "FluxTransformer2DModel": self._flux,
        }
        rule = rules.get(self._denoiser.class_name)
        if rule is None:
            return
        for part in ("vae", "scheduler"):
            if part not in self._pipeline.components:
                raise CheckpointError(
                    f"{at(self._denoiser.directory.parent)}: has no component '{part}', without "
                    "which there is no picture; take it from a pipeline that has one ('components')"
                )
        rule()

    def _unet(self) -> None:
        self._latents("out_channels", 1)
        if self._config.get("encoder_hid_dim") or not self._encoders():
            return  # Texts come in another way.
        self._equal("cross_attention_dim", "hidden_size", self._encoders())
        each = self._config.get("addition_time_embed_dim")
        if self._config.get("addition_embed_type") == "text_time" and isinstance(each, int):
            key = "projection_class_embeddings_input_dim"
            last = self._encoders()[-1]
            width, given = self._config.get(key), self._width(last, "projection_dim")
            # Beside the text go six numbers; with the refiner, which has one text encoder, five.
            numbers = (6 if len(self._encoders()) > 1 else 5) * each
            if isinstance(width, int) and given is not None and width != given + numbers:
                raise self._unfit([last], "projection_dim", given, key, width)

    def _stable_diffusion_3(self) -> None:
        self._latents("out_channels", 1)
        pooled = [name for name in ("text_encoder", "text_encoder_2") if name in self._configs]
        if len(pooled) == 2:
            self._equal("pooled_projection_dim", "projection_dim", pooled)
        if "text_encoder_3" in self._configs:
            self._equal("joint_attention_dim", "d_model", ["text_encoder_3"])

    def _flux(self) -> None:
        self._latents("in_channels", 4)  # Squares of 2 x 2 latents go in.
        if "text_encoder" in self._configs:
            self._equal("pooled_projection_dim", "hidden_size", ["text_encoder"])
        if "text_encoder_2" in self._configs:
            self._equal("joint_attention_dim", "d_model", ["text_encoder_2"])

    def _encoders(self) -> list[str]:
        return sorted(name for name in self._configs if name.startswith("text_encoder"))

    def _width(self, part: str, key: str) -> int | None:
        config = self._configs[part]
        inner = config.get("text_config")
        if key not in config and isinstance(inner, dict):
            config = cast("dict[str, Any]", inner)
        value = config.get(key)
        return value if isinstance(value, int) else None

    def _latents(self, key: str, factor: int) -> None:
        """The latents' channels: the denoiser's are the VAE's, or `factor` times as many."""
        width = self._config.get(key)
        channels = self._width("vae", "latent_channels")
        if isinstance(width, int) and channels is not None and width != factor * channels:
            raise self._unfit(["vae"], "latent_channels", channels, key, width)

    def _equal(self, key: str, given: str, parts: list[str]) -> None:
        """That the outputs of some parts have together the width that the denoiser takes."""
        widths = [self._width(part, given) for part in parts]
        taken: Any = self._config.get(key)
        sizes: list[Any] = cast("list[Any]", taken) if isinstance(taken, list) else [taken]
        known = [width for width in widths if width is not None]
        if len(known) < len(parts) or not all(isinstance(size, int) for size in sizes):
            return
        if any(size != sum(known) for size in sizes):
            raise self._unfit(parts, given, sum(known), key, sizes[0])

    def _unfit(
        self, parts: list[str], given: str, value: object, key: str, taken: object
    ) -> CheckpointError:
        places = " and ".join(at(self._pipeline.components[part].directory) for part in parts)
        verb = agreeing(len(parts), "does", "do")
        return CheckpointError(
            f"{places} {verb} not fit {at(self._denoiser.directory)}: {given} is {value}, and the "
            f"denoiser's {key} is {one_line(taken)}; take the component from another seed "
            "('components' in a run file)"
        )
