"""LoRAs of image generators, one file each, folded into the components of a pipeline that evolve.

Read are the names of diffusers (peft's and older ones) and of kohya's scripts, with those of the
papers' own code where kohya uses them (SDXL). The arithmetic is that of `low_rank`: W + alpha / r
B A in float32 with one rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genepool.checkpoints.files.checkpoint import Checkpoint, directory_name, safe_target
from genepool.checkpoints.files.dtypes import DTYPES, as_float32
from genepool.checkpoints.files.lora import AdapterMismatch, Change, with_folded
from genepool.checkpoints.files.lora_config import CONFIG
from genepool.checkpoints.files.low_rank import LowRank
from genepool.checkpoints.files.safetensors import MappedFile, Tensor, map_file
from genepool.checkpoints.pipelines.components import Pipeline
from genepool.checkpoints.pipelines.ldm_names import ldm_modules
from genepool.documents import mapping_of, parse_json
from genepool.errors import CheckpointError
from genepool.messages import at, one_line, some

# As diffusers calls the file in a folder.
FILE = "pytorch_lora_weights.safetensors"

# What to do with the file of an adapter.
_FOLDER = f"name the folder that holds it and its {CONFIG}"

# Module, then which factor: "A" and "B" of peft, "down" and "up" of all others.
_PEFT = re.compile(r"(.+?)(?:\.lora)?\.(lora_A|lora_B)(?:\.default)?\.weight")
_DOWN_UP = re.compile(r"(.+?)(?:\.lora|\.lora_linear_layer)?\.(?:lora_)?(down|up)\.weight")
_PROCESSOR = re.compile(r"(.+?)\.processor\.(\w+)_lora\.(down|up)\.weight")
_ALPHA = re.compile(r"(.+)\.alpha")
_RIGHT = ("lora_A", "down")

# Where kohya's names begin, and what of a pipeline they change.
_KOHYA = {
    "lora_unet_": ("unet", "transformer"),
    "lora_transformer_": ("transformer",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
    "lora_te3_": ("text_encoder_3",),
    "lora_te_": ("text_encoder",),
}
_LORA = re.compile(r"lora|(^|\.)(hada|lokr|oft|dora)_|\.alpha$")
_UNFOLDED = re.compile(r"lora_mid|hada_|lokr_|oft_|dora_scale|lora_magnitude|\.diff(_b)?$|\.bias$")
# What the metadata may say of a component, as peft's LoraConfig: with these, alpha is not all.
_PATTERNED = ("use_rslora", "use_dora", "alpha_pattern", "lora_bias")


@dataclass(slots=True)
class _Parts:
    """What a file says of one module."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def lora_file(place: Path) -> Path | None:
    """The file of weights, if a path leads to a LoRA of an image generator; else None.

    Raises:
        CheckpointError: it cannot be read.
    """
    if place.is_dir():
        names = {path.name for path in place.iterdir()}
        return place / FILE if FILE in names and "model_index.json" not in names else None
    if place.suffix != ".safetensors" or not place.is_file():
        return None
    return place if is_lora(map_file(place).tensors) else None


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are called like those of a LoRA, all of them."""
    return all(_LORA.search(name) for name in tensors)


def require_folders(checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse files of adapters, which are not folded, among models that are none.

    Raises:
        CheckpointError: naming the first.
    """
    files = [checkpoint for checkpoint in checkpoints if is_lora(checkpoint.tensors)]
    if files and len(files) < len(checkpoints):
        raise CheckpointError(
            f"{at(files[0].path)}: is the file of an adapter; {_FOLDER}; of an image generator's "
            "say which pipeline it was trained on: {path: ..., base: ...} in a run file, "
            "--adapter-base on the command line"
        )


def taken_as_it_is(place: Path, opened: Checkpoint) -> str | None:
    """What to say where an adapter is not folded, or is passed over; None for what is none."""
    if is_lora(opened.tensors):
        return (
            f"{at(place)}: holds the factors of a LoRA, which merge as they are; that is not the "
            "merge of what they change: to merge that, give the folder that holds its "
            f"{CONFIG}, or its base"
        )
    if place.is_dir() and (place / CONFIG).exists():
        return (
            f"{at(place)}: holds whole weights and an adapter's {CONFIG}; the weights are taken as "
            "they are, where transformers would load the adapter on its base"
        )
    return None


def open_lora(place: Path, base: Checkpoint) -> Checkpoint:
    """A pipeline with a LoRA folded into its components that evolve.

    Args:
        place: the file, or a folder with `pytorch_lora_weights.safetensors`.
        base: the pipeline that it was trained on.

    Raises:
        CheckpointError: it is damaged, of another base, or of a kind that is not folded.
        GenepoolError: the cache cannot be written.
    """
    file = safe_target(place, FILE) if place.is_dir() else place
    weights = map_file(file)
    if base.pipeline is None:
        raise CheckpointError(
            f"{at(file)}: is a LoRA of an image generator, and its base {at(base.path)} is no "
            "pipeline (it has no model_index.json); if it is an adapter of another kind of model, "
            f"{_FOLDER}"
        )
    modules = _modules(weights)
    targets, idle = _targets(modules, weights, base, base.pipeline)
    changes = {name: _change(file, *targets[name], base.tensors[name]) for name in targets}
    notices = list(base.notices)
    if idle:
        notices.append(
            f"{at(file)}: what it changes in {some(sorted(idle))} is left out, because only "
            f"{some(base.pipeline.evolving)} evolve ('components' in a run file)"
        )
    opened = with_folded(base, weights, [], changes)
    return replace(
        opened,
        path=place,
        name=place.stem if place.is_file() else directory_name(place),
        notices=tuple(notices),
    )


def _modules(weights: MappedFile) -> dict[str, _Parts]:
    """Modules, as the file calls them, and what it says of each."""
    scaled = _scales(weights)
    found: dict[str, _Parts] = {}
    for name, tensor in weights.tensors.items():
        if not DTYPES[tensor.dtype].floating and not name.endswith(".alpha"):
            raise CheckpointError(
                f"{at(weights.path)}: '{one_line(name)}' has dtype {tensor.dtype}; expected a "
                "floating one"
            )
        if _UNFOLDED.search(name):
            raise _unfoldable(weights, f"holds '{one_line(name)}'")
        if match := _ALPHA.fullmatch(name):
            if tensor.raw.size != 1:
                raise CheckpointError(
                    f"{at(weights.path)}: '{one_line(name)}' has shape {list(tensor.shape)}; "
                    "expected one number"
                )
            floating = DTYPES[tensor.dtype].floating
            value = as_float32(tensor.raw, tensor.dtype) if floating else tensor.raw
            found.setdefault(_bare(match[1]), _Parts()).alpha = float(value[0])
            continue
        if match := _PROCESSOR.fullmatch(name):
            module, side = f"{match[1]}.{match[2]}", match[3]
            module += ".0" if module.endswith(".to_out") else ""
        elif match := _PEFT.fullmatch(name) or _DOWN_UP.fullmatch(name):
            module, side = match[1], match[2]
        else:
            raise _unfoldable(weights, f"holds '{one_line(name)}'")
        parts = found.setdefault(_bare(module), _Parts())
        if side in _RIGHT:
            parts.down = tensor
        else:
            parts.up = tensor
    for module, parts in found.items():
        if parts.alpha is None:
            parts.alpha = scaled.get(module.partition(".")[0])
    return found


def _bare(module: str) -> str:
    return module.removeprefix("base_model.model.").removeprefix("diffusion_model.")


def _scales(weights: MappedFile) -> dict[str, float]:
    """Component -> alpha, where the metadata that newer releases of diffusers write says so."""
    text = weights.metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        content: Any = parse_json(text)
    except ValueError as error:
        raise CheckpointError(
            f"{at(weights.path)}: its metadata cannot be read as JSON: {one_line(error)}"
        ) from error
    found: dict[str, float] = {}
    for key, value in mapping_of(content).items():
        component, _, option = key.partition(".")
        if option in _PATTERNED and value:
            raise _unfoldable(weights, f"was trained with {one_line(option)}")
        if option == "lora_alpha" and isinstance(value, (int, float)):
            found[component] = float(value)
    return found


def _unfoldable(weights: MappedFile, what: str) -> CheckpointError:
    return CheckpointError(
        f"{at(weights.path)}: {what}, which genepool does not fold; fuse it into its base first "
        "(in diffusers: pipe.load_lora_weights(FILE); pipe.fuse_lora(); "
        "pipe.unload_lora_weights(); pipe.save_pretrained(DIR))"
    )


def _targets(
    modules: Mapping[str, _Parts], weights: MappedFile, base: Checkpoint, pipeline: Pipeline
) -> tuple[dict[str, tuple[str, _Parts]], set[str]]:
    """Tensor of the base -> module and what the file says of it; components that do not evolve."""
    known = _known(base)
    found: dict[str, tuple[str, _Parts]] = {}
    idle: set[str] = set()
    for module, parts in modules.items():
        components = _components_of(module, pipeline)
        evolving = [name for name in components if name in pipeline.evolving]
        if not evolving:
            idle.add(components[0])
            continue
        names = {known[key] for key in _spellings(module, evolving) if key in known}
        if len(names) != 1:
            raise AdapterMismatch(
                f"{at(weights.path)}: '{one_line(module)}' is no module of the base "
                f"{at(base.path)}, whose tensors are called like {some(base.tensors, limit=2)}: "
                "is the LoRA of another base?"
            )
        (name,) = names
        if name in found:
            raise CheckpointError(
                f"{at(weights.path)}: '{one_line(module)}' and '{one_line(found[name][0])}' both "
                f"change '{one_line(name)}'; the file is damaged"
            )
        found[name] = (module, parts)
    if not found:
        raise CheckpointError(
            f"{at(weights.path)}: changes {some(sorted(idle))} only, and "
            f"{some(pipeline.evolving)} evolve: it would be the same as its base"
        )
    return found, idle


def _components_of(module: str, pipeline: Pipeline) -> tuple[str, ...]:
    """The components that a module may belong to; the denoiser's names may stand alone."""
    for start, components in _KOHYA.items():
        if module.startswith(start):
            return components
    first = module.partition(".")[0]
    if first in pipeline.components or first.startswith(("text_encoder", "unet")):
        return (first,)
    return ("unet", "transformer")


def _known(base: Checkpoint) -> dict[str, str]:
    """Spellings of the modules of a pipeline, without dots, to the names of their weights."""
    found: dict[str, str] = {}
    for name in base.tensors:
        if not name.endswith(".weight"):
            continue
        component, _, module = name.removesuffix(".weight").partition(".")
        found[_flat(component, module)] = name
        # Releases of transformers save text encoders with this prefix or without it.
        found.setdefault(_flat(component, f"text_model.{module}"), name)
        found.setdefault(_flat(component, module.removeprefix("text_model.")), name)
    names = [n.removeprefix("unet.") for n in base.tensors if n.startswith("unet.")]
    for module, own in ldm_modules(names).items():
        found.setdefault(_flat("unet", own), f"unet.{module}.weight")
    return found


def _flat(component: str, module: str) -> str:
    return f"{component}/{module.replace('.', '_')}"


def _spellings(module: str, components: list[str]) -> list[str]:
    start = next((start for start in _KOHYA if module.startswith(start)), "")
    plain = module.removeprefix(start)
    for component in components:
        plain = plain.removeprefix(f"{component}.")
    return [_flat(component, plain) for component in components]


def _change(file: Path, module: str, parts: _Parts, target: Tensor) -> Change:
    where = f"{at(file)}: module '{one_line(module)}'"
    if parts.down is None or parts.up is None:
        lacks = "down (A)" if parts.down is None else "up (B)"
        raise CheckpointError(f"{where} lacks its {lacks} weights; the file is incomplete")
    down, up, shape = parts.down, parts.up, target.shape
    rank = down.shape[0] if down.shape else 0
    rows = shape[0] if shape else 0
    fits = rank > 0 and rows > 0 and up.shape[:2] == (rows, rank)
    if not fits or up.raw.size != rows * rank or down.raw.size * rows != rank * target.raw.size:
        raise CheckpointError(
            f"{where}: down (A) has shape {list(down.shape)} and up (B) {list(up.shape)}, which do "
            f"not fit '{one_line(target.name)}' of shape {list(shape)}: is the LoRA of another "
            "base?"
        )
    alpha = float(rank) if parts.alpha is None else parts.alpha
    return Change(low_rank=LowRank(up, down, alpha / rank))
