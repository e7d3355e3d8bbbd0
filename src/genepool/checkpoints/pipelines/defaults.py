"""What the keys stand for that a component's configuration leaves out: defaults of its class.

Releases of diffusers differ in which keys they write. Its sources are read where it is installed,
and never run or imported, since that takes seconds.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

# Of the commonest classes, where that is not "none" (null, false, 0, an empty list), for where
# diffusers is not installed. That these are its defaults is tested.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "UNet2DConditionModel": {
        "in_channels": 4,
        "out_channels": 4,
        "flip_sin_to_cos": True,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-05,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "attention_head_dim": 8,
        "resnet_time_scale_shift": "default",
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
        "addition_embed_type_num_heads": 64,
    },
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    },
    "FluxTransformer2DModel": {"patch_size": 1, "axes_dims_rope": [16, 56, 56]},
    "SD3Transformer2DModel": {"patch_size": 2},
}

_ROOMS = ("models", "schedulers")


def defaults_of(name: str) -> Mapping[str, Any] | None:
    """The defaults of a class of diffusers, as JSON has them; None where they are not known."""
    return _read(name) if name not in DEFAULTS and name.isidentifier() else DEFAULTS.get(name)


@lru_cache(maxsize=64)
def _read(name: str) -> Mapping[str, Any] | None:
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return None
    for room in _ROOMS:
        for file in sorted((Path(spec.origin).parent / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if f"class {name}(" in text and (found := _defaults_in(text, name)) is not None:
                return found
    return None


def _defaults_in(source: str, name: str) -> dict[str, Any] | None:
    """The defaults of a class's own `__init__` that are plain values; None if it has none."""
    for made in ast.parse(source).body:
        if not isinstance(made, ast.ClassDef) or made.name != name:
            continue
        for part in made.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                given = part.args
                named = [*given.posonlyargs, *given.args]
                pairs = [*zip(reversed(named), reversed(given.defaults), strict=False)]
                named_only = zip(given.kwonlyargs, given.kw_defaults, strict=True)
                pairs += [(argument, default) for argument, default in named_only if default]
                return {argument.arg: _plain(default) for argument, default in pairs}
    return None


def _plain(default: ast.expr) -> Any:
    """A default as JSON has it; what is no plain value is told as it is written."""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default)
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
