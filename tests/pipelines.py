"""Tiny pipelines of the shapes that image generators have, with random weights."""

from __future__ import annotations

import re
import string
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors.torch import load_file, save_file

from genepool.checkpoints.pipelines.ldm_names import ldm_modules
from tests.late import diffusers

# Its modules are found late, which type checkers do not follow.

Kind = Literal["sd", "sdxl", "sd3", "flux"]
KINDS: tuple[Kind, ...] = ("sd", "sdxl", "sd3", "flux")

# Of every component that has weights: pictures are 16x16, latents 8x8, prompts up to 16 tokens.
WIDTH = 16
_TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "projection_dim": WIDTH,
}
_T5: dict[str, Any] = {
    "d_model": WIDTH,
    "d_ff": 32,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 2,
    "is_encoder_decoder": False,
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": WIDTH,
}
_UNET_XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2 * WIDTH,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    # Six numbers of a picture's size, and the second encoder's projected text.
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}
_SD3: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": 2 * WIDTH,
    "pooled_projection_dim": 2 * WIDTH,
    "pos_embed_max_size": 8,
}
_FLUX: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": (2, 2, 4),
}


# What was made before: a pipeline takes a tenth of a second, its few files next to nothing.
_FILES: dict[str, dict[Path, bytes]] = {}


def tiny_pipeline(
    directory: Path,
    kind: Kind = "sd",
    *,
    seed: int = 0,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    like: int | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A pipeline saved as diffusers does it.

    Args:
        directory: to write; holds model_index.json and a folder for each component.
        kind: of which shape: Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3 or Flux.
        seed: of the random weights.
        changes: component -> settings other than the tiny ones, for its config.
        like: the random seed of a pipeline whose weights these are close to, as fine-tunes are.
        variant: such as "fp16", in the names of the files of weights.
        dtype: of the stored weights.
    """
    key = repr((kind, seed, changes, like, variant, dtype))
    if key not in _FILES:
        with tempfile.TemporaryDirectory() as folder:
            pipe = _initialised(kind, seed, changes, like, dtype)
            pipe.save_pretrained(folder, variant=variant)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            _FILES[key] = {path.relative_to(folder): path.read_bytes() for path in files}
    for name, content in _FILES[key].items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def _initialised(
    kind: Kind,
    seed: int,
    changes: Mapping[str, Mapping[str, Any]] | None,
    like: int | None,
    dtype: torch.dtype,
) -> Any:
    pipe = build_pipeline(kind, seed=seed, changes=changes)
    if like is not None:
        base = build_pipeline(kind, seed=like, changes=changes)
        for name, component in pipe.components.items():
            if isinstance(component, torch.nn.Module):
                other = dict(base.components[name].named_parameters())
                with torch.no_grad():
                    for key, parameter in component.named_parameters():
                        parameter.mul_(0.1).add_(other[key])
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            torch.nn.Module.to(component, dtype)  # diffusers' own method warns
    return pipe


def build_pipeline(
    kind: Kind = "sd",
    *,
    seed: int = 0,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """The same as an object of diffusers, float32, on the CPU."""
    given = changes or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind in ("sd", "sdxl"):
            return _stable_diffusion(given, xl=kind == "sdxl")
        return _stable_diffusion_3(given) if kind == "sd3" else _flux(given)


def _stable_diffusion(changes: Mapping[str, Mapping[str, Any]], *, xl: bool) -> Any:
    unet = {**_UNET, **(_UNET_XL if xl else {}), **changes.get("unet", {})}
    scheduler: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        **changes.get("scheduler", {}),
    }
    parts: dict[str, Any] = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": _vae(changes),
        "text_encoder": _clip(changes.get("text_encoder", {}), projection=False),
        "tokenizer": clip_tokenizer(),
        "scheduler": diffusers.DDIMScheduler(**scheduler),
    }
    if xl:
        second = _clip(changes.get("text_encoder_2", {}), projection=True)
        parts |= {"text_encoder_2": second, "tokenizer_2": clip_tokenizer()}
        return diffusers.StableDiffusionXLPipeline(**parts)
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _stable_diffusion_3(changes: Mapping[str, Mapping[str, Any]]) -> Any:
    flow = {"shift": 3.0, **changes.get("scheduler", {})}
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(**{**_SD3, **changes.get("transformer", {})}),
        vae=_vae(changes, shift_factor=0.1),
        text_encoder=_clip(changes.get("text_encoder", {}), projection=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(changes.get("text_encoder_2", {}), projection=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5({"d_model": 2 * WIDTH, **changes.get("text_encoder_3", {})}),
        tokenizer_3=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**flow),
    )


def _flux(changes: Mapping[str, Mapping[str, Any]]) -> Any:
    flow = {"use_dynamic_shifting": True, **changes.get("scheduler", {})}
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(**{**_FLUX, **changes.get("transformer", {})}),
        vae=_vae(changes, shift_factor=0.1),
        text_encoder=_clip(changes.get("text_encoder", {}), projection=False),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(changes.get("text_encoder_2", {})),
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**flow),
    )


def _vae(changes: Mapping[str, Mapping[str, Any]], **own: Any) -> Any:
    return diffusers.AutoencoderKL(**{**_VAE, **own, **changes.get("vae", {})})


def _clip(changes: Mapping[str, Any], *, projection: bool) -> Any:
    tokenizer = clip_tokenizer()
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPTextConfig(**{**_TEXT, **tokens, **changes})
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config)


def pixart(directory: Path, kind: str, seed: int = 0) -> Path:
    """A pipeline of PixArt, saved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = diffusers.PixArtTransformer2DModel(
            sample_size=32,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            cross_attention_dim=16,
            caption_channels=WIDTH,
            use_additional_conditions=False,
        )
        pipe = getattr(diffusers, kind)(
            tokenizer=t5_tokenizer(),
            text_encoder=_t5({}),
            vae=_vae({}),
            transformer=transformer,
            scheduler=diffusers.DDIMScheduler(),
        )
    pipe.save_pretrained(str(directory))
    return directory


def _t5(changes: Mapping[str, Any]) -> Any:
    size = {"vocab_size": len(t5_tokenizer())}
    return transformers.T5EncoderModel(transformers.T5Config(**{**_T5, **size, **changes}))


def clip_tokenizer() -> Any:
    """CLIP's tokenizer over single letters: any ASCII text, no word longer than its letters."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def t5_tokenizer() -> Any:
    """T5's tokenizer over single letters."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase, *string.digits]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=16)


def single_file(pipeline: Path, file: Path, *, averages: float | None = None) -> Path:
    """A pipeline of Stable Diffusion or SDXL in one file, under the names of their own code.

    Args:
        pipeline: as `tiny_pipeline` writes it.
        file: to write.
        averages: factor of the averages (EMA) that stand beside the denoiser; None for none.
    """
    unet = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    names = ldm_modules(unet)
    out: dict[str, torch.Tensor] = {}
    for name, tensor in unet.items():
        module, _, parameter = name.rpartition(".")
        out[f"model.diffusion_model.{names[module]}.{parameter}"] = tensor
        if averages is not None:
            flat = f"{names[module]}.{parameter}".replace(".", "")
            out[f"model_ema.diffusion_model{flat}"] = tensor * averages
    for name, tensor in load_file(pipeline / "vae" / "diffusion_pytorch_model.safetensors").items():
        own = _ldm_vae(name)
        alone = ".attn_1." in own and own.endswith("weight") and tensor.dim() == 2
        out[f"first_stage_model.{own}"] = tensor[..., None, None] if alone else tensor
    encoders = sorted(path.parent.name for path in pipeline.glob("text_encoder*/model.safetensors"))
    for number, encoder in enumerate(encoders):
        start = "cond_stage_model" if len(encoders) == 1 else f"conditioner.embedders.{number}"
        for name, tensor in load_file(pipeline / encoder / "model.safetensors").items():
            out[f"{start}.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    out["betas"] = torch.linspace(0, 1, 4)
    save_file(out, file, {"format": "pt"})
    return file


def _ldm_vae(name: str) -> str:
    """A tensor of a VAE of two blocks, under the name of its own code."""
    for old, new in (
        (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"up_blocks\.0\.", r"up.1."),
        (r"up_blocks\.1\.", r"up.0."),
        (r"up\.(\d)\.resnets\.", r"up.\1.block."),
        (r"upsamplers\.0\.", "upsample."),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        ("group_norm", "norm"),
        (r"to_([qkv])\.", r"\1."),
        (r"to_out\.0", "proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = re.sub(old, new, name)
    return name
