"""Pipelines compared component by component: what must agree so that those that evolve can merge.

Whatever a component's configuration says decides what its weights compute, so that it has to agree
unless it is known not to matter. What is taken whole from one pipeline may differ in the others,
which is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint, open_weights, safe_target
from genepool.checkpoints.files.digests import file_digest
from genepool.checkpoints.model_files.configs import (
    against,
    compare_configs,
    differing_fields,
    read_json,
)
from genepool.checkpoints.model_files.tokenizer_files import cuts_and_pads_alike
from genepool.checkpoints.model_files.vocabularies import conflict, read_vocabulary, same_files
from genepool.checkpoints.pipelines.components import DENOISERS, Component, Pipeline
from genepool.checkpoints.pipelines.defaults import DEFAULTS, defaults_of
from genepool.checkpoints.pipelines.directory import INDEX
from genepool.checkpoints.pipelines.files import weight_files
from genepool.checkpoints.pipelines.lora_files import is_lora
from genepool.checkpoints.pipelines.variants import find_weights
from genepool.errors import CheckpointError
from genepool.messages import at, one_line

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"

# What says nothing about the function that weights stand for.
_SILENT = {
    *("_diffusers_version", "_name_or_path", "_use_default_values", "_class_name", "decay"),
    *("gradient_checkpointing", "dropout", "inv_gamma", "min_decay", "optimization_step", "power"),
    *("update_after_step", "use_ema_warmup", "torch_dtype", "dtype", "resnet_eps"),
}
# What may differ: sizes that pictures usually have, and how precisely parts are computed.
_FREE = {"sample_size", "upcast_attention", "force_upcast"}
# Where the seeds may share only part of their tensors.
_OF_THE_WHOLE = {"in_channels", "pos_embed_max_size"}

# What a denoiser was trained for: file and keys in the components beside it.
_TRAINED_FOR = {
    "scheduler": (
        SCHEDULER,
        (
            *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
            "rescale_betas_zero_snr",
        ),
    ),
    "vae": (CONFIG, ("scaling_factor", "shift_factor", "latents_mean", "latents_std")),
}

# Of schedulers. What a denoiser predicts is what it was trained to: noise, velocity or flow.
_EPSILON = "epsilon"
_PREDICTION = "prediction_type"


def compare_pipelines(first: Checkpoint, other: Checkpoint, *, partial: bool) -> list[str]:
    """Compare what evolves in two seeds, of which one at least is a pipeline.

    Args:
        first: a seed, with its own components.
        other: another seed.
        partial: whether they may share only part of their tensors.

    Returns:
        Notices of what differs and may, one line each.

    Raises:
        CheckpointError: something differs that must not; the message names file, field and values.
    """
    ours, theirs = first.pipeline, other.pipeline
    if ours is None or theirs is None:
        plain, evolving = (first, theirs) if ours is None else (other, ours)
        part = evolving.evolving[0] if evolving is not None else ""
        if is_lora(plain.tensors):
            raise CheckpointError(
                f"{at(plain.path)}: is a LoRA, and it is not said over which pipeline; say so: "
                "{path: ..., base: ...} in a run file, --adapter-base on the command line"
            )
        raise CheckpointError(
            f"{at(plain.path)} is no pipeline (it has no model_index.json), and another seed is "
            f"one: name the whole pipeline, or put a model that is a single '{part}' into the "
            f"folder '{part}' of a copy of the pipeline"
        )
    notices = _compare_predictions(ours, theirs)
    notices += _compare_surroundings(ours, theirs)
    notices += _told(first.path / INDEX, other.path / INDEX, ours.settings, theirs.settings)
    for name in ours.evolving:
        notices += _compare_evolving(ours, theirs, name, partial)
    return notices


def whole_differs(taken: Pipeline, other: Checkpoint, named: Collection[str]) -> list[str]:
    """A notice of the components that are taken whole and are others in a seed, if there are any.

    Args:
        taken: the pipeline with the components that are taken, whatever seeds they come from.
        other: a seed.
        named: components of which was said where they come from; of these nothing is told.
    """
    theirs = other.pipeline
    differing = [
        name
        for name in taken.whole
        if name not in named
        and theirs is not None
        and name in theirs.components
        and _differ(taken.components[name], theirs.components[name])
    ]
    if not differing:
        return []
    homes = dict.fromkeys(at(taken.components[name].directory.parent) for name in differing)
    return [
        f"{at(other.path)} has another {', '.join(differing)}, which the result has from "
        f"{' and '.join(homes)}; '--component', or 'components' in a run file, says otherwise"
    ]


def read_config(component: Component, name: str = CONFIG) -> dict[str, Any]:
    """A component's configuration; empty where it has none.

    Raises:
        CheckpointError: it cannot be read, or is a link that leads out.
    """
    if not (component.directory / name).is_file():
        return {}
    return read_json(safe_target(component.directory, name))


def prediction(pipeline: Pipeline) -> str | None:
    """What the denoiser of a pipeline predicts, by its scheduler: "epsilon", "v_prediction",
    "sample" or "flow"; None where the scheduler is not at hand.

    Raises:
        CheckpointError: the scheduler's configuration cannot be read.
    """
    scheduler = pipeline.components.get("scheduler")
    if scheduler is None or not (scheduler.directory / SCHEDULER).is_file():
        return None
    config = read_config(scheduler, SCHEDULER)
    said = config.get(_PREDICTION)
    if str(said).startswith("flow") or "Flow" in scheduler.class_name:
        return "flow"
    usual = (defaults_of(scheduler.class_name) or {}).get(_PREDICTION)
    found = usual if said is None else said
    return found if isinstance(found, str) else _EPSILON


def _compare_predictions(ours: Pipeline, theirs: Pipeline) -> list[str]:
    a, b = prediction(ours), prediction(theirs)
    if a == b or not any(name in DENOISERS for name in ours.evolving):
        return []
    folders = [
        at(pipeline.components["scheduler"].directory)
        for pipeline in (ours, theirs)
        if "scheduler" in pipeline.components
    ]
    if a is None or b is None:
        return [
            f"{_PREDICTION} is not known of one of the seeds, which lacks its scheduler; taken to "
            f"be {one_line(a or b)}, as {folders[0 if b is None else -1]} says"
        ]
    raise CheckpointError(
        f"{folders[1]} does not fit {folders[0]}: {_PREDICTION} is {one_line(b)} against "
        f"{one_line(a)}; denoisers that were trained to predict different things do not merge"
    )


def _compare_surroundings(ours: Pipeline, theirs: Pipeline) -> list[str]:
    """Noise and latents that denoisers were trained for."""
    notices: list[str] = []
    for name, (file, keys) in _TRAINED_FOR.items():
        a, b = ours.components.get(name), theirs.components.get(name)
        if a is None or b is None or not any(part in DENOISERS for part in ours.evolving):
            continue
        configs = read_config(a, file), read_config(b, file)
        left, right = (
            {key: config[key] for key in keys if key in config}
            for config in (
                {**(defaults_of(part.class_name) or {}), **config}
                for part, config in zip((a, b), configs, strict=True)
            )
        )
        if all(configs):
            end = "each denoiser was trained for its own, and they may not merge well"
            notices += _told(a.directory, b.directory, left, right, end)
    return notices


def _compare_evolving(ours: Pipeline, theirs: Pipeline, name: str, partial: bool) -> list[str]:
    a, b = ours.components[name], theirs.components.get(name)
    if b is None:
        raise CheckpointError(
            f"the component '{one_line(name)}' evolves, and only {at(a.directory.parent)} has one"
        )
    pair = f"{at(b.directory)} does not fit {at(a.directory)}"
    if a.class_name != b.class_name:
        raise CheckpointError(
            f"{pair}: it is a {one_line(b.class_name)}, and the other a {one_line(a.class_name)}; "
            "are they of one architecture?"
        )
    if a.library == "transformers":
        notices = compare_configs(a.directory, b.directory, partial=partial, vocabulary=False)
        return [*notices, *_compare_vocabularies(ours, theirs, name)]
    left, right = (_complete(part) for part in (a, b))
    known = defaults_of(a.class_name) is not None
    differing = _differing(left, right, zero=a.class_name in DEFAULTS)
    for key in differing:
        # What an absent key means can only be told where nobody knows the class.
        open_to = not known and not (key in left and key in right)
        if key not in _FREE and not open_to and not (partial and key in _OF_THE_WHOLE):
            raise CheckpointError(
                f"{pair}: {against(key, left, right)}; are they of one architecture and size?"
            )
    notices = _told(a.directory, b.directory, left, right)
    if not known and (
        odd := sorted((left.keys() ^ right.keys()) - _SILENT - {*_differing(left, right)})
    ):
        listed = "; ".join(against(key, left, right) for key in sorted(odd))
        notices.append(
            f"{at(b.directory)} and {at(a.directory)}: {listed}; what an absent key means is not "
            f"known of {one_line(a.class_name)} (the package diffusers, or a newer one, knows it)"
        )
    return notices


def _differing(
    left: Mapping[str, Any], right: Mapping[str, Any], *, zero: bool = True
) -> list[str]:
    """Keys with other meanings; `zero`: 0 means "none" as well, as it does in an absent key."""
    return [
        key
        for key in sorted(left.keys() | right.keys())
        if key not in _SILENT
        and _meaning(left.get(key), zero=zero) != _meaning(right.get(key), zero=zero)
    ]


def _told(
    here: Path,
    there: Path,
    left: Mapping[str, Any],
    right: Mapping[str, Any],
    end: str = "the first seed's is kept",
) -> list[str]:
    """A notice of how the settings of two places differ, if they do."""
    listed = "; ".join(against(key, left, right) for key in _differing(left, right))
    return [f"{at(there)} differs from {at(here)}: {listed} ({end})"] if listed else []


def _complete(component: Component) -> dict[str, Any]:
    """A configuration with what the keys stand for that it lacks."""
    config = read_config(component)
    if not config:
        raise CheckpointError(
            f"{at(component.directory)}: holds no {CONFIG}, and without it nobody can tell what "
            "its weights compute; fetch the whole pipeline"
        )
    return {**(defaults_of(component.class_name) or {}), **config}


def _meaning(value: Any, *, zero: bool) -> Any:
    """A value in one form: whatever means "none" is None, a list of equals is its element."""
    if value in (None, False, [], {}) and (zero or value is False or value != 0):
        return None
    parts: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    return parts[0] if all(part == parts[0] for part in parts) else parts


def _compare_vocabularies(ours: Pipeline, theirs: Pipeline, encoder: str) -> list[str]:
    """The tokenizers of a text encoder that evolves: a row of its embeddings is a token."""
    name = encoder.replace("text_encoder", "tokenizer")
    a, b = ours.components.get(name), theirs.components.get(name)
    if a is None or b is None or same_files(a.directory, b.directory):
        return []
    left, right = read_vocabulary(a.directory), read_vocabulary(b.directory)
    if left is None or right is None:
        lacks = a if left is None else b
        return [f"{at(lacks.directory)} has no tokenizer; its tokens are taken to be the other's"]
    if reason := conflict(left, right, nested=False):
        raise CheckpointError(
            f"{at(right.file)} does not fit {at(left.file)}: {reason}; rows of the embeddings of "
            f"'{one_line(encoder)}' would be mixed that mean different tokens: take it whole from "
            "one seed ('components' in a run file)"
        )
    return []


def _differ(ours: Component, theirs: Component) -> bool:
    """Whether two components are different, as far as can be told without reading all weights."""
    if theirs.fault or ours.directory.resolve() == theirs.directory.resolve():
        return False
    if ours.class_name != theirs.class_name:
        return True
    pair = ours.directory, theirs.directory
    if not (same_files(*pair) and cuts_and_pads_alike(*pair)):
        return True
    for name in (CONFIG, SCHEDULER):
        usual = defaults_of(ours.class_name) or {}
        configs = ({**usual, **read_config(part, name)} for part in (ours, theirs))
        fields = differing_fields(*configs)
        if set(fields) - _SILENT:
            return True
    try:
        return _sample(ours) != _sample(theirs)
    except CheckpointError:
        return False  # Its weights are not needed, and may be pickles.


def _sample(component: Component) -> object:
    """Of the weights, names, types, shapes and a few values of each: training changes most. Of
    weights that cannot be opened, quantised ones above all, the digests of the files."""
    found = find_weights(component)
    if found is None:
        return None
    try:
        tensors = open_weights(component.directory, found[1]).tensors
    except CheckpointError:
        return {name: file_digest(file) for name, file in weight_files(component).items()}
    return {n: (t.dtype, t.shape, t.raw[:64].tobytes()) for n, t in tensors.items()}
