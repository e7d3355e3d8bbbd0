"""An adapter's configuration, adapter_config.json of peft: of its options, what folding needs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import safe_target
from genepool.checkpoints.model_files.configs import read_json
from genepool.checkpoints.patterns import whole_match
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

CONFIG = "adapter_config.json"

# Pattern -> (whether it matches a module, what it says of such a module).
Patterns = Mapping[str, tuple[Callable[[str], bool], Any]]

# Options of peft's LoraConfig that say nothing about what is to be folded.
_HARMLESS = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform"),
    *("loftq_config", "lora_dropout", "megatron_core", "modules_to_save", "peft_type"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules"),
    *("task_type",),
}
_FOLDED = {
    *("alpha_pattern", "fan_in_fan_out", "lora_alpha", "r", "rank_pattern", "use_dora"),
    *("use_rslora", "init_lora_weights", "bias", "lora_bias", "trainable_token_indices"),
}
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ, ...) change it.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the adapter's configuration, what folding needs; patterns are of names of modules.

    Attributes:
        targets: names of modules, or their tails, that were trained, if it says so of all layers.
    """

    file: Path
    targets: tuple[str, ...]
    rank: int
    alpha: float
    ranks: Patterns
    alphas: Patterns
    stabilised: bool
    dora: bool
    biased: bool
    fan_in_fan_out: bool
    tokens: Patterns

    def gaps(self, weights: Path, untouched: Iterable[str]) -> list[str]:
        """What to say of the base's tensors that were trained and that a file does not change."""
        ends = tuple(f".{name}.weight" for name in self.targets)
        lacking = sorted(name for name in untouched if f".{name}".endswith(ends))
        if not lacking:
            return []
        return [
            f"{at(weights)}: holds nothing for {some(lacking)}, though {CONFIG} says that these "
            "were trained: is the file whole?"
        ]


def read_settings(directory: Path) -> Settings:
    """Read it.

    Raises:
        CheckpointError: it cannot be read, or asks for what is not folded.
    """
    path = safe_target(directory, CONFIG)
    content = read_json(path)
    kind = content.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{at(path)}: peft_type is {shown(kind)}; genepool folds adapters of type 'LORA' only:"
            " merge this one into its base first (in peft: model.merge_and_unload())"
        )
    for name, value in content.items():
        if value and name not in _HARMLESS and name not in _FOLDED:
            raise _unfit(path, name, value)
    if content.get("bias") not in (None, "none", "all", "lora_only"):
        raise _unfit(path, "bias", content["bias"])
    start = content.get("init_lora_weights")
    if start not in _STARTS:
        raise CheckpointError(
            f"{at(path)}: init_lora_weights is {shown(start)}, which also changes the base's "
            "weights; save the adapter converted to plain LoRA (in peft: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    rank, alpha = content.get("r", 8), content.get("lora_alpha", 8)
    if not _whole(rank):
        raise CheckpointError(f"{at(path)}: r: expected a whole number from 1; got {shown(rank)}")
    _require_number(path, "lora_alpha", alpha)
    ranks = _pattern(path, content, "rank_pattern")
    alphas = _pattern(path, content, "alpha_pattern")
    for name, (_, value) in alphas.items():
        _require_number(path, f"alpha_pattern '{one_line(name)}'", value)
    return Settings(
        path,
        _targets(content),
        rank,
        float(alpha),
        ranks,
        alphas,
        content.get("use_rslora") is True,
        content.get("use_dora") is True,
        content.get("lora_bias") is True,
        content.get("fan_in_fan_out") is True,
        _tokens(path, content),
    )


def _targets(content: Mapping[str, Any]) -> tuple[str, ...]:
    if any(content.get(key) for key in ("exclude_modules", "layers_to_transform")):
        return ()
    named = (content.get(key) for key in ("target_modules", "modules_to_save"))
    lists = [cast("list[Any]", given) for given in named if isinstance(given, list)]
    return tuple(name for given in lists for name in given if isinstance(name, str))


def _tokens(path: Path, content: Mapping[str, Any]) -> Patterns:
    """Which rows of embeddings were trained: of the module of a name, or of whichever there is."""
    value: Any = content.get("trainable_token_indices") or {}
    rows = cast("dict[str, Any]", value if isinstance(value, dict) else {"": value})
    for found in rows.values():
        if not isinstance(found, list) or not all(
            type(row) is int and row >= 0 for row in cast("list[Any]", found)
        ):
            raise CheckpointError(
                f"{at(path)}: trainable_token_indices: expected whole numbers from 0, or lists of "
                f"them by module; got {shown(content['trainable_token_indices'])}"
            )
    return {
        name: (lambda module, name=name: f".{module}".endswith(f".{name}") or not name, found)
        for name, found in rows.items()
    }


def _unfit(path: Path, name: str, value: object) -> CheckpointError:
    return CheckpointError(
        f"{at(path)}: {one_line(name)} is {shown(value)}, which genepool does not fold; merge the "
        "adapter into its base first (in peft: model.merge_and_unload())"
    )


def shown(value: object) -> str:
    return one_line(json.dumps(value))[:80]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_number(path: Path, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{at(path)}: {name}: expected a number; got {shown(value)}")


def _pattern(path: Path, content: Mapping[str, Any], name: str) -> Patterns:
    value: Any = content.get(name) or {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{at(path)}: {name}: expected an object from module names to numbers; "
            f"got {shown(value)}"
        )
    found = cast("dict[str, Any]", value)
    return {key: (_ends(path, name, key), value) for key, value in found.items()}


def _ends(path: Path, name: str, key: str) -> Callable[[str], bool]:
    """As peft looks modules up: whether a pattern matches a module's name or a tail of it."""
    try:
        whole_match(key)  # By itself, without the brackets around it, it must be one too.
        return whole_match(rf"(.*\.)?({key})")
    except ValueError as error:
        raise CheckpointError(
            f"{at(path)}: {name}: '{one_line(key)}' is not a regular expression that can be used: "
            f"{one_line(error)}"
        ) from error


def matched(patterns: Patterns, module: str, default: Any) -> Any:
    """The value of the first pattern that matches, as in peft."""
    return next((value for test, value in patterns.values() if test(module)), default)
