"""Depth order of the tensors of pipelines.

Components come in the order in which they run: text encoders, then denoisers, then what turns
latents into pictures. Within one: what takes the inputs in and embeds them, then the body, block by
block, then the last norm and the way out. Positions on the parameter axis follow from this order,
so that changing it would make pools of pipelines unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from genepool.checkpoints.depth import depth_key
from genepool.checkpoints.pipelines.components import DENOISERS

_PICTURES = re.compile(r"(vae|vqvae|vqgan|movq|vocoder|decoder|safety_checker)(_\d+)?")

# Modules that hold others and say nothing of depth.
_HOLDERS = {"model", "text_model", "vision_model", "language_model", "transformer"}
_TOWERS = {"encoder": 0, "quant_conv": 1, "post_quant_conv": 2, "decoder": 3}
_LAST_NORM = re.compile(r"(conv_|final_|last_|post_)?(layer_?)?norm(_out)?|norm_f|ln_f|ln_post")
_WAY_OUT = re.compile(
    r"(conv|proj|linear)_out|\w*final_layer|(text|visual)_projection|lm_head|head|out"
    r"|scale_shift_table"
)
_EMBEDDING = re.compile(r"(.*_)?(embed|embeds|embedder|embedding|embeddings|emb)")

# What lies side by side in a block of a U-Net runs in turns, number by number; the samplers follow.
_SIDE_BY_SIDE = {"resnets": 0, "attentions": 1, "motion_modules": 2}
_TURN = re.compile(rf"\.({'|'.join(_SIDE_BY_SIDE)})\.(\d+)\.")

OrderKey = tuple[int, int, int, tuple[object, ...], str]


def in_order(components: Iterable[str]) -> tuple[str, ...]:
    """Names of components in the order in which a pipeline runs them."""
    return tuple(sorted(components, key=lambda name: (_rank(name), name)))


def order_key(name: str) -> OrderKey:
    """Sort key of a tensor's name within its component; no two names tie."""
    parts = name.split(".")
    while len(parts) > 2 and parts[0] in _HOLDERS:
        parts = parts[1:]
    stage = _stage(parts)
    # What comes before both towers or after them belongs to neither.
    tower = {0: -1, 1: 0}.get(stage, len(_TOWERS))
    if len(parts) > 1 and parts[0] in _TOWERS:
        tower = _TOWERS[parts[0]]
        stage = _stage(parts[1:])
    in_turns = _TURN.sub(lambda found: f".0.{found[2]}.{_SIDE_BY_SIDE[found[1]]}.", name)
    return tower, stage, _kind(parts), depth_key(in_turns)[3:], name


def _rank(component: str) -> int:
    if component in DENOISERS:
        return 1
    return 2 if _PICTURES.fullmatch(component) else 0


def _stage(parts: list[str]) -> int:
    """0 for what takes the inputs in, 1 for the body, 2 for the last norm, 3 for the way out."""
    root = parts[0]
    if _LAST_NORM.fullmatch(root):
        return 2
    if _WAY_OUT.fullmatch(root):
        return 3
    numbered = any(part.isdecimal() for part in parts)
    return 0 if _EMBEDDING.fullmatch(root) or not numbered else 1


def _kind(parts: list[str]) -> int:
    """Of blocks whose names do not sort as they run: refiners come first, single streams last."""
    if "refiner" in parts[0]:
        return -1
    return int(parts[0].startswith("single_"))
