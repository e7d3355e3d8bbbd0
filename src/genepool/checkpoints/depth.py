"""Depth order from names alone: files list tensors by dtype and name, models run by depth.

Embeddings come first, then the body by natural sort of the dotted names (`layers.2` before
`layers.10`; encoders before decoders), then the final norm, then the head. Only what stands before
the first numbered component decides the stage, so that `layers.3.attention.output` stays in its
layer. Within one module the weight comes before the bias, and then the others by name.
"""

from __future__ import annotations

import re

_EMBEDDING = re.compile(
    r"(.*_)?(embed|embeds|embedder|embedding|embeddings|emb)|embed_.*"
    r"|wte|wpe|shared|(cls|dist|mask|register)_tokens?"
)
_NORM = re.compile(
    r"(final_|last_|post_)?(norm|layer_?norm|ln|rms_?norm)|ln_f|norm_f|ln_post|norm_out"
    r"|conv_norm_out|fc_norm",
    re.IGNORECASE,
)
_HEAD = re.compile(
    r"lm_head|embed_out|heads?|.*_head|score|classifier|output|out|fc|cls|qa_outputs"
    r"|output_(projection|layer)"
)
_FIRST = {"conv_in"}
_LAST = {"conv_out", "proj_out"}
_TOWER = {"encoder": 0, "decoder": 2}
_PARAMETER = {"weight": 0, "bias": 1}
_DIGITS = re.compile("([0-9]+)")

Token = tuple[int, int, str]
DepthKey = tuple[int, int, int, tuple[tuple[Token, ...], ...], tuple[int, tuple[Token, ...]], str]


def depth_key(name: str) -> DepthKey:
    """Sort key of a dotted tensor name; names sort in depth order, and no two names tie."""
    *module, parameter = name.split(".")
    stage, tower, norm = _stage(module, parameter)
    path = tuple(_natural(part) for part in module)
    return stage, tower, norm, path, (_PARAMETER.get(parameter, 2), _natural(parameter)), name


def layer_of(name: str) -> tuple[str, int] | None:
    """The layer that a tensor belongs to, as ("model.layers", 3); None outside of all layers."""
    *module, _ = name.split(".")
    for place, part in enumerate(module):
        if part.isdecimal() and len(part) < 10:
            return ".".join(module[:place]), int(part)
    return None


def _stage(module: list[str], parameter: str) -> tuple[int, int, int]:
    """(0 embedding, 1 body, 2 head; encoder to decoder; 1 for the norm that ends a tower)."""
    numbered = next((i for i, part in enumerate(module) if part.isdecimal()), len(module))
    before = module[:numbered]
    whole = numbered == len(module)
    root = before[0] if before else ""
    if root in _LAST or any(_HEAD.fullmatch(part) for part in {root, *before[-1:]}):
        return 2, 0, 0
    named = [*before, parameter] if whole else before
    if root in _FIRST or any(_EMBEDDING.fullmatch(part) for part in named):
        return 0, 0, 0
    tower = next((_TOWER[part] for part in before if part in _TOWER), 1)
    final = whole and bool(before) and bool(_NORM.fullmatch(before[-1]))
    return 1, tower, int(final)


def _natural(part: str) -> tuple[Token, ...]:
    # Numbers are compared by length and then by digits: int() refuses very long ones.
    return tuple(
        (0, len(token.lstrip("0")), token.lstrip("0")) if i % 2 else (1, 0, token)
        for i, token in enumerate(_DIGITS.split(part))
        if token
    )
