"""The names that the papers' own code gives the modules of a U-Net (LDM of Stable Diffusion 1 and
2, SGM of SDXL), for those that diffusers gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ALONE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_RESNETS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions)\.(\d+)(?:\.(.+))?")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?")
_SAMPLER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv")


def ldm_modules(names: Iterable[str]) -> dict[str, str]:
    """Modules of a U-Net, as diffusers calls them, to their names in the papers' own code.

    Args:
        names: of all its tensors; modules that have no namesake there are left out.
    """
    modules = {name.rpartition(".")[0] for name in names}
    layers = {
        int(found[1])
        for m in modules
        if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", m))
    }
    each = max(layers, default=0) + 2  # A block of the way down has its layers and a sampler.
    found = {module: _ldm(module, each, modules) for module in modules}
    return {module: name for module, name in found.items() if name is not None}


def _ldm(module: str, each: int, modules: Iterable[str]) -> str | None:
    if module in _ALONE:
        return _ALONE[module]
    if match := _BLOCK.fullmatch(module):
        way, block, kind, layer, rest = match.groups()
        number = int(block) * each + int(layer)
        start = f"input_blocks.{number + 1}" if way == "down_blocks" else f"output_blocks.{number}"
        return _inside(f"{start}.{int(kind == 'attentions')}", kind, rest)
    if match := _MIDDLE.fullmatch(module):
        kind, layer, rest = match.groups()
        return _inside(f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}", kind, rest)
    if match := _SAMPLER.fullmatch(module):
        way, block = match[1], int(match[2])
        if way == "down":
            return f"input_blocks.{(block + 1) * each}.0.op"
        attends = any(name.startswith(f"up_blocks.{block}.attentions.") for name in modules)
        return f"output_blocks.{(block + 1) * each - 1}.{1 + attends}.conv"
    return None


def _inside(start: str, kind: str, rest: str | None) -> str | None:
    if rest is None:
        return start
    if kind == "attentions":
        return f"{start}.{rest}"
    return f"{start}.{_IN_RESNETS[rest]}" if rest in _IN_RESNETS else None
