"""Image generators in one file, under the names of the papers' own code (LDM, SGM): U-Net, VAE and
text encoders side by side.

They stay what they are: what evolves merges under its own names, and all else comes from the first
seed, so that a merged file is one that diffusers' `from_single_file` and other programs load.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.pipelines.order import in_order
from genepool.errors import CheckpointError
from genepool.messages import at, count, one_line, some

_DENOISER = "model.diffusion_model."
# What components are called in a pipeline's directory, and how their tensors begin in a file.
_PREFIXES = {
    "unet": (_DENOISER,),
    "transformer": (_DENOISER,),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
# Denoisers that are no U-Nets: what their blocks are called, and their kind.
_TRANSFORMERS = {"joint_blocks.": "StableDiffusion3Pipeline", "double_blocks.": "FluxPipeline"}
# Averages over the training, which such files may hold besides; and marks of what was trained, of
# which the last one says that the noise went on until nothing else was left.
_AVERAGES = "model_ema."
_VELOCITY = "v_pred"
_TO_THE_END = "ztsnr"
_PREDICTION = "modelspec.prediction_type"
# What metadata say of the architecture, and not of the seed.
_LASTING = (
    _PREDICTION,
    *(f"modelspec.{key}" for key in ("sai_model_spec", "architecture", "implementation")),
    "modelspec.resolution",
)


def is_single_file(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint holds an image generator under the names of the papers' own code."""
    return any(name.startswith((_DENOISER, _AVERAGES)) for name in checkpoint.tensors)


def is_xl(single: Checkpoint) -> bool:
    """Whether a single file is of SDXL's shape; else it is of that of Stable Diffusion 1 or 2."""
    return any(name.startswith("conditioner.") for name in single.tensors)


def as_single_file(checkpoint: Checkpoint, components: Sequence[str]) -> Checkpoint:
    """Such a checkpoint, of which only some components merge.

    Averages over the training (EMA) are left out where the denoiser's own weights are there too:
    these are what diffusers and other programs load.

    Args:
        checkpoint: opened.
        components: that evolve, as a pipeline's directory calls them; none means the denoiser.

    Raises:
        CheckpointError: a component that is to evolve is not there.
    """
    held = checkpoint.tensors
    evolving: list[str] = []
    for name in in_order(dict.fromkeys(components or ("unet",))):
        found = [p for p in _PREFIXES.get(name, ()) if any(n.startswith(p) for n in held)]
        if not found:
            there = [c for c, p in _PREFIXES.items() if any(n.startswith(p) for n in held)]
            averages = (
                f"; it holds averages ({_AVERAGES}*) without the weights themselves: convert it "
                "with diffusers' from_single_file(..., extract_ema=True)"
                if any(n.startswith(_AVERAGES) for n in held) and not there
                else f"; its components are {some(there, limit=5)}"
            )
            raise CheckpointError(
                f"{at(checkpoint.path)}: a single file without a component '{one_line(name)}' that "
                f"could evolve{averages}"
            )
        evolving += found
    averages = [name for name in held if name.startswith(_AVERAGES)]
    notices = checkpoint.notices
    if averages:
        notices = (
            *notices,
            f"{at(checkpoint.path)}: holds averages over its training too ({_AVERAGES}*, "
            f"{count(len(averages), 'tensor')}); as in diffusers, the weights themselves are used, "
            "and what is made has no averages",
        )
    tensors = {name: tensor for name, tensor in held.items() if not name.startswith(_AVERAGES)}
    return replace(
        checkpoint,
        tensors=MappingProxyType(tensors),
        notices=notices,
        evolving=tuple(dict.fromkeys(evolving)),
        _digest=[],
    )


def lasting_metadata(single: Checkpoint) -> dict[str, str]:
    """What a file's metadata say that is true of what is made from it, too."""
    return {key: single.metadata[key] for key in _LASTING if key in single.metadata}


def compare_single_files(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Notices of how two seeds differ, of which one at least is a single file.

    Raises:
        CheckpointError: they do not merge, as far as files say so; the message says what to do.
    """
    for single, counterpart in ((first, other), (other, first)):
        if single.evolving and not counterpart.evolving:
            raise CheckpointError(
                f"{at(single.path)} is an image generator in a single file, and "
                f"{at(counterpart.path)} is none: convert it to a pipeline's directory first: "
                f"{conversion(single)}"
            )
    if first.evolving != other.evolving:
        raise CheckpointError(
            f"{at(other.path)} does not fit {at(first.path)}: it holds {some(other.evolving)}, and "
            f"the other {some(first.evolving)}; are they of one architecture?"
        )
    notices: list[str] = []
    a, b = said_prediction(first), said_prediction(other)
    if a != b and a is not None and b is not None:
        raise CheckpointError(
            f"{at(other.path)} does not fit {at(first.path)}: it predicts {one_line(b)}, and the "
            f"other {one_line(a)}; denoisers that were trained to predict different things do not "
            "merge"
        )
    if a != b:
        says, silent = (first, other) if b is None else (other, first)
        notices.append(
            f"{at(says.path)} predicts {one_line(a or b)}, and {at(silent.path)} does not say what "
            "it predicts; make sure that it is the same, or they do not merge"
        )
    if (_TO_THE_END in first.tensors) != (_TO_THE_END in other.tensors):
        says, silent = (first, other) if _TO_THE_END in first.tensors else (other, first)
        notices.append(
            f"{at(says.path)} was trained with noise in which nothing of a picture is left "
            f"({_TO_THE_END}), and {at(silent.path)} does not say so; pictures are drawn as the "
            "first seed says"
        )
    theirs = {name for name in other.tensors if not name.startswith(other.evolving)}
    if theirs:
        notices.append(
            f"{at(other.path)}: only {some(first.evolving)} is taken of it; all else comes from "
            f"{at(first.path)}"
        )
    return notices


def require_denoiser(single: Checkpoint) -> None:
    """Refuse to evolve more of a file than its denoiser, and one that is no U-Net: a merge by hand
    can do that alone.

    Raises:
        CheckpointError: it says what to do.
    """
    if single.evolving != (_DENOISER,):
        raise CheckpointError(
            f"{at(single.path)}: of an image generator in a single file the denoiser alone evolves "
            f"in a run: leave 'components' out, or convert each seed to a directory: "
            f"{conversion(single)}"
        )
    kind = _pipeline_class(single)
    if kind in _TRANSFORMERS.values():
        raise CheckpointError(
            f"{at(single.path)}: in a run, single files are those of Stable Diffusion 1, 2 and XL, "
            f"and this is one of {kind}: convert each seed to a directory: {conversion(single)}"
        )


def _pipeline_class(single: Checkpoint) -> str:
    """What diffusers calls the kind of a single file, as far as names of its denoiser say."""
    for blocks, kind in _TRANSFORMERS.items():
        if any(name.startswith(_DENOISER + blocks) for name in single.tensors):
            return kind
    return "StableDiffusionXLPipeline" if is_xl(single) else "StableDiffusionPipeline"


def conversion(single: Checkpoint) -> str:
    """A shell command, one line, that makes a pipeline's directory of a single file."""
    kind = _pipeline_class(single)
    source, target = str(single.path), str(single.path.with_suffix(""))
    code = f"from diffusers import {kind} as P; P.from_single_file({source!r})"
    return f"python -c {shlex.quote(f'{code}.save_pretrained({target!r})')}"


def said_prediction(single: Checkpoint) -> str | None:
    """What the denoiser predicts, as far as the file says so: "epsilon", "v_prediction", ..."""
    if _VELOCITY in single.tensors:
        return "v_prediction"
    said = single.metadata.get(_PREDICTION)
    return None if not said else "v_prediction" if said.startswith("v") else said


def noise_settings(single: Checkpoint) -> dict[str, Any]:
    """What a file says of the noise that its denoiser was trained with, as schedulers of diffusers
    call it: its loader passes over that."""
    said = said_prediction(single)
    found: dict[str, Any] = {} if said is None else {"prediction_type": said}
    return {**found, "rescale_betas_zero_snr": True} if _TO_THE_END in single.tensors else found
