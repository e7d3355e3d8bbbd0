"""config.json of two models, compared as transformers would build them.

What must agree and does not is refused, with file, field and both values; what may differ is told
in notices, one line each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, cast

from genepool import documents
from genepool.checkpoints.model_files.built import NotBuilt, built_values, decoded
from genepool.documents import mapping_of
from genepool.errors import CheckpointError
from genepool.messages import at, one_line

_MAX = 200_000_000


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        content: Any = documents.read_json(path, _MAX)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{at(path)}: cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{at(path)}: expected a JSON object; got {type(content).__name__}")
    return cast("dict[str, Any]", content)


def read_file(path: Path) -> bytes:
    """The content of a file that is there.

    Raises:
        CheckpointError: it cannot be read, or is far larger than such files are.
    """
    try:
        return documents.read_bytes(path, _MAX)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise CheckpointError(f"{at(path)}: cannot be read: {reason or one_line(error)}") from error


def read_text(path: Path) -> str:
    """The text of a file, each line of which ends in `\\n`; see `read_file`."""
    text = read_file(path).decode("utf-8", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


# What must agree: it decides what the weights mean. What differs besides is told.
_MUST = {
    *("model_type", "architectures", "vocab_size", "tie_word_embeddings", "rope"),
    *("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "d_ff", "ffn_dim"),
    *("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_attention_heads", "n_head"),
    *("num_heads", "num_key_value_heads", "head_dim", "afn", "feed_forward_proj"),
    *("attention_bias", "mlp_bias", "use_bias", "use_parallel_residual", "parallel_attn"),
    *("alibi", "layer_types", "num_experts", "num_local_experts", "n_routed_experts"),
    *("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "logit_scale"),
    *("query_pre_attn_scalar", "logits_scaling", "relative_attention_max_distance"),
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "image_size", "patch_size"),
    *("rope_local_base_freq", "rotary_dim", "no_rope_layers", "scale_decoder_outputs"),
    *("qkv_bias", "attention_out_bias", "lm_head_bias", "enable_bias", "do_layer_norm_before"),
    *("routed_scaling_factor", "scoring_func", "n_group", "topk_group", "use_qk_norm"),
    *("qk_layernorm", "apply_residual_connection_post_layernorm", "position_embedding_type"),
    *("scale_embedding", "embedding_scale", "scale_emb", "scale_depth", "dim_model_base"),
    *("time_step_limit", "clip_qkv"),
}
# And so do functions between the weights, what keeps divisors from 0, limits and factors.
_MUST_BY_END = re.compile(
    r"(.*_)?(act|act_fn|activation|activation_function|eps|epsilon|soft_?cap(ping)?|multipliers?)"
)
# What says nothing about the model's function, or is of its training only. Pools pin the rest.
_UNPINNED = {
    *("torch_dtype", "dtype", "_name_or_path", "name_or_path", "_model_name_or_path"),
    *("transformers_version", "use_cache", "initializer_range", "attention_dropout", "embd_pdrop"),
    *("resid_pdrop", "attn_pdrop", "hidden_dropout", "classifier_dropout", "pretraining_tp"),
    *("_from_model_config", "router_aux_loss_coef", "output_router_logits", "unsloth_fixed"),
    *("unsloth_version", "gradient_checkpointing", "_attn_implementation_autoset", "auto_map"),
}
_SILENT = {
    *_UNPINNED,
    *("activation_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"),
    *("output_attentions", "output_hidden_states", "return_dict", "torchscript", "init_std"),
    *("layerdrop", "chunk_size_feed_forward", "problem_type", "_diffusers_version"),
    *("__version__", "processor_class"),
}
# How rotary settings are spelt beside each other, and what they are called here.
_ROPE = {
    "rope_theta": "theta", "rotary_emb_base": "theta", "rotary_base": "theta",
    "partial_rotary_factor": "partial", "rotary_pct": "partial", "rotary_percent": "partial",
    "rope_pct": "partial", "original_max_position_embeddings": "original_max_position_embeddings",
}  # fmt: skip
_ROPE_SETS = ("rope_parameters", "rope_scaling")
# What transformers' formulas take where even the built configuration says nothing.
_ROPE_DEFAULTS = {
    "type": "default", "partial": 1.0, "beta_fast": 32, "beta_slow": 1, "truncate": True,
}  # fmt: skip
# Activations that transformers knows by several names; they are one formula, but for rounding.
_ACTIVATIONS = {
    "swish": "silu", "gelu_python": "gelu", "gelu_python_tanh": "gelu_new",
    "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new",
}  # fmt: skip
# Stands for a key that a configuration does not have.
_ABSENT: Any = object()
_TIE = "tie_word_embeddings"
# In a partial merge these are of the whole model, not of the part that is shared.
_OF_THE_WHOLE = {"architectures", "model_type", "vocab_size", "tie_word_embeddings"}


def compare_configs(first: Path, other: Path, *, partial: bool, vocabulary: bool) -> list[str]:
    """Compare config.json of two models' directories, where both have one.

    Args:
        first, other: the directories.
        partial: compare only what describes the language model inside either.
        vocabulary: whether vocabularies of different sizes are allowed.

    Returns:
        Notices of what differs and may.

    Raises:
        CheckpointError: a configuration cannot be read, or something differs that must not.
    """
    ours, theirs = first / "config.json", other / "config.json"
    if not (ours.is_file() and theirs.is_file()):
        return []
    pair = f"{at(theirs)} does not fit {at(ours)}"
    given = read_json(ours), read_json(theirs)
    _require_same_labels(*given, pair)
    free = _OF_THE_WHOLE if partial else {"vocab_size"} if vocabulary else set[str]()
    left, right = (_flat(_language_part(raw) if partial else raw) for raw in given)
    fields = _differing(left, right, free)
    # Said in both files and of one spelling: nothing that is built can make these agree.
    said = [f for f in fields if not (_in_rope(f) or None in (left.get(f), right.get(f)))]
    _refuse(said, left, right, pair)
    reason = ""
    if len(said) < len(fields):
        try:
            parts = [built_values(raw) for raw in given]
        except NotBuilt as error:
            reason = str(error)
        else:
            left, right = (_flat(_language_part(raw) if partial else raw) for raw in parts)
            _complete(left, right)
            fields = _differing(left, right, free)
    # Where even the built configuration lacks a key, no class of transformers gives it a meaning.
    both = [f for f in fields if f in left and f in right]
    _refuse([f for f in both if not reason or None not in (left[f], right[f])], left, right, pair)
    if not fields:
        return []
    fields.sort(key=lambda field: not _must(field))
    more = f" and {len(fields) - 4} more" if len(fields) > 4 else ""
    listed = "; ".join(against(field, left, right) for field in fields[:4])
    text = f"{at(theirs)} differs from {at(ours)}: {listed}{more} (the first seed's is kept)"
    if reason and any(left.get(f) is None or right.get(f) is None for f in fields):
        text += (
            f"; what a key means where it is absent could not be told ({reason}): find it out, and "
            "write it into both files"
        )
    return [text]


def _differing(left: dict[str, Any], right: dict[str, Any], free: Set[str]) -> list[str]:
    """The fields that differ, or that only one of two configurations has, in order."""
    found: list[str] = []
    for field in sorted(left.keys() | right.keys()):
        leaf = field.rsplit(".", 1)[-1]
        a, b = left.get(field, _ABSENT), right.get(field, _ABSENT)
        unsaid = leaf == "architectures" and (a in (None, _ABSENT) or b in (None, _ABSENT))
        if not (_equal(a, b) or leaf in _SILENT or leaf in free or unsaid):
            found.append(field)
    return found


def _complete(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Give built configurations the rotary settings that formulas have defaults for."""
    for field in left.keys() | right.keys():
        leaf = field.rsplit(".", 1)[-1]
        if _in_rope(field) and leaf in _ROPE_DEFAULTS:
            left.setdefault(field, _ROPE_DEFAULTS[leaf])
            right.setdefault(field, _ROPE_DEFAULTS[leaf])


def _refuse(fields: list[str], left: dict[str, Any], right: dict[str, Any], pair: str) -> None:
    for field in fields:
        if not _must(field):
            continue
        cause = (
            "the vocabularies differ in size; 'vocabulary: common' merges the rows of the "
            "tokens that both have"
            if field.rsplit(".", 1)[-1] == "vocab_size"
            else "are they of one architecture and size?"
        )
        raise CheckpointError(f"{pair}: {against(field, left, right)}; {cause}")


def _require_same_labels(first: dict[str, Any], other: dict[str, Any], pair: str) -> None:
    """Refuse classifiers that know labels of one name under other numbers."""
    ours, theirs = (mapping_of(config.get("id2label")) for config in (first, other))
    numbers = {str(label).lower(): number for number, label in ours.items()}
    for number, label in theirs.items():
        known = numbers.get(str(label).lower(), number)
        if known != number:
            raise CheckpointError(
                f"{pair}: label '{one_line(label)}' has number {one_line(number)} against "
                f"{one_line(known)} in id2label; rows of the head would be mixed that mean "
                "different labels: put the rows of one into the order of the other"
            )


def _must(field: str) -> bool:
    leaf = field.rsplit(".", 1)[-1]
    return leaf in _MUST or _MUST_BY_END.fullmatch(leaf) is not None or _in_rope(field)


def _in_rope(field: str) -> bool:
    return field.startswith("rope.") or ".rope." in field


def against(field: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """What two configurations say of a field, in words."""
    ours, theirs = (
        one_line(json.dumps(side[field]))[:120] if field in side else "absent"
        for side in (left, right)
    )
    return f"{one_line(field)} is {theirs} against {ours}"


def optional_json(path: Path) -> dict[str, Any] | None:
    """The JSON object that a file holds; None where there is no file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    return read_json(path) if path.is_file() else None


def model_config(directory: Path | None) -> dict[str, Any] | None:
    """The config.json of a model's directory; None where there is none, or no directory.

    Raises:
        CheckpointError: it cannot be read, or is not a JSON object.
    """
    return None if directory is None else optional_json(directory / "config.json")


def pinned_settings(path: Path, also_silent: Set[str] = frozenset()) -> bytes:
    """A JSON object without what is silent, whatever its layout; empty if there is no file.

    Raises:
        CheckpointError: as `read_json`.
    """
    found = optional_json(path) or {}
    kept = {k: v for k, v in found.items() if k not in _UNPINNED and k not in also_silent}
    return json.dumps(kept, sort_keys=True).encode() if kept else b""


def differing_fields(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys of two plain JSON objects with other values in them, silent ones left out."""
    return [
        key
        for key in sorted(first.keys() | other.keys())
        if key not in _SILENT and not _equal(_plain(first.get(key)), _plain(other.get(key)))
    ]


def _plain(value: Any) -> Any:
    """A special token as text: some releases write an object with its content."""
    return cast("dict[str, Any]", value).get("content", value) if isinstance(value, dict) else value


def ties_embeddings(directory: Path | None) -> bool | None:
    """Whether the model of a directory uses its token embeddings as its output head, too.

    Returns:
        What config.json says, or else the default of its class; None where neither is known.

    Raises:
        CheckpointError: config.json cannot be read.
    """
    raw = model_config(directory)
    if raw is None:
        return None
    if str(raw.get("model_type")).endswith("encoder-decoder") and raw.get("decoder"):
        # Two models in one: the decoder's own embeddings and head, by its own configuration.
        raw = mapping_of(raw["decoder"])
    if raw.get(_TIE) is not None:
        return raw[_TIE] is True
    try:
        built = built_values(raw)
        # A class that does not know the setting never ties.
        return built.get(_TIE, _language_part(built).get(_TIE, False)) is True
    except NotBuilt:
        inner = _language_part(raw).get(_TIE)
        return None if inner is None else inner is True


def language_config(directory: Path | None) -> dict[str, Any]:
    """The part of config.json that describes the language model; empty if there is none."""
    return _language_part(model_config(directory) or {})


def _language_part(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("text_config", "llm_config", "language_config"):
        part: Any = config.get(key)
        if isinstance(part, dict):
            return cast("dict[str, Any]", part)
    return config


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values, rotary settings in one form for all releases of transformers."""
    flat: dict[str, Any] = {}
    for key, value in cast("dict[str, Any]", decoded(config)).items():
        if key in _ROPE or key in _ROPE_SETS:
            continue
        if isinstance(value, dict):
            flat.update(_flat(cast("dict[str, Any]", value), f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    for key, value in _rope(config).items():
        flat[f"{prefix}rope.{key}"] = value
    for key, value in _derived(config).items():
        if flat.get(prefix + key, _ABSENT) is None:
            flat[prefix + key] = value
    return flat


def _derived(config: dict[str, Any]) -> dict[str, Any]:
    """What models compute where a configuration says null."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    derived = {"num_key_value_heads": heads}
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        derived["head_dim"] = width // heads
    if isinstance(config.get("n_embd"), int):
        derived["n_inner"] = 4 * config["n_embd"]
    return derived


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings that a configuration says, under names of one spelling."""
    given: Any = config.get("rope_parameters") or config.get("rope_scaling")
    values: dict[str, Any] = {"scaling": given} if given else {}
    if isinstance(given, dict):
        values = dict(cast("dict[str, Any]", given))
        if any(isinstance(value, dict) for value in values.values()):  # for each kind of layer
            return {
                f"{kind}.{key}": value
                for kind, entry in values.items()
                if isinstance(entry, dict)
                for key, value in _rope({"rope_parameters": entry}).items()
            }
    elif any(key in config for key in _ROPE_SETS):  # null: said to be plain
        values = {"rope_type": "default"}
    values = {**{key: config[key] for key in _ROPE if config.get(key) is not None}, **values}
    kind = values.pop("type", _ABSENT)
    kind = values.pop("rope_type", kind)
    if values.keys() - _ROPE.keys() and kind is _ABSENT:
        kind = "default"
    out = {_ROPE.get(key, key): value for key, value in values.items()}
    if kind is not _ABSENT:
        out["type"] = "longrope" if kind == "su" else kind
    return out


def _equal(a: Any, b: Any) -> bool:
    numbers = (int, float)
    if isinstance(a, numbers) and isinstance(b, numbers) and bool not in (type(a), type(b)):
        # GGUF files keep such numbers as float32.
        return math.isclose(a, b, rel_tol=1e-6) or (a != a and b != b)
    if isinstance(a, list) and isinstance(b, list):
        left, right = cast("list[Any]", a), cast("list[Any]", b)
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(a, str) and isinstance(b, str):
        return _ACTIVATIONS.get(a, a) == _ACTIVATIONS.get(b, b)
    return a == b
