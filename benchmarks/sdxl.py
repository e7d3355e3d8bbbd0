"""Four image generators of SDXL's size in float16: opened, measured, merged into a live one.

Makes four pipelines of random weights: U-Nets of 2.6 B parameters; the first has text encoders and
VAE of the real sizes, the others have none. Then, each in a process of its own: builds the live
pipeline and nothing else; and opens the seeds, computes their inner products, writes a child of
four into the live U-Net, and merges two of them to disk. Memory is what belongs to no file
(RssAnon), the highest of many looks.

    python benchmarks/sdxl.py --json benchmarks/sdxl.json       # needs 35 GB of disk
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32}
HEADS = (
    {"num_attention_heads": 12, "projection_dim": 768},
    {
        "num_attention_heads": 20,
        "projection_dim": 1280,
    },
)
SMALL = {
    "block_out_channels": [64, 64, 64],
    "transformer_layers_per_block": [1, 1, 1],
    "attention_head_dim": [4, 4, 4],
}
NAMES = ("one", "two", "three", "four")


def make_seeds(folder: Path, smoke: bool) -> list[Path]:
    """The four pipelines, streamed to disk tensor by tensor."""
    import accelerate
    import diffusers
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    clips = [{**CLIP_L, **HEADS[0]}, {**CLIP_G, **HEADS[1]}]
    if smoke:
        clips = [{**clip, "num_hidden_layers": 1} for clip in clips]
    configs = [
        transformers.CLIPTextConfig(
            vocab_size=100 if smoke else 49408, bos_token_id=0, eos_token_id=1, **clip
        )
        for clip in clips
    ]
    with accelerate.init_empty_weights():
        unet = diffusers.UNet2DConditionModel(**{**UNET, **(SMALL if smoke else {})})
        vae = diffusers.AutoencoderKL(
            **{**VAE, **({"block_out_channels": [32] * 4} if smoke else {})}
        )
        encoders = [
            transformers.CLIPTextModel(configs[0]),
            transformers.CLIPTextModelWithProjection(configs[1]),
        ]
    words = {word: number for number, word in enumerate(("<|startoftext|>", "<|endoftext|>", "a"))}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")),
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )
    parts = {"unet": unet, "vae": vae, "text_encoder": encoders[0], "text_encoder_2": encoders[1]}
    for number, name in enumerate(NAMES):
        place = folder / name
        mine = parts if number == 0 else {"unet": unet}
        for part, module in mine.items():
            _write(place / part, module, number, torch.float16)
        if number == 0:
            diffusers.EulerDiscreteScheduler().save_pretrained(place / "scheduler")
            for part in ("tokenizer", "tokenizer_2"):
                tokenizer.save_pretrained(place / part)
        index: dict[str, Any] = {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": diffusers.__version__,
            "unet": ["diffusers", "UNet2DConditionModel"],
        }
        if number == 0:
            index |= {
                "vae": ["diffusers", "AutoencoderKL"],
                "scheduler": ["diffusers", "EulerDiscreteScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
                "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
            }
        (place / "model_index.json").write_text(json.dumps(index))
    return [folder / name for name in NAMES]


@functools.cache
def _weights(number: int) -> Any:
    """float16[2**22], which the tensors of a seed repeat."""
    base = (np.random.default_rng(1).standard_normal(2**22, np.float32) * 0.02).astype(np.float16)
    return base + (np.random.default_rng(number).standard_normal(2**22) * 5e-4).astype(np.float16)


def _write(place: Path, module: Any, number: int, dtype: Any) -> None:
    """A component of random weights; fine-tunes differ from one another by a few per cent."""
    import torch

    from genepool.checkpoints.files.cache import cached_tensors

    place.mkdir(parents=True)
    library = type(module).__module__.split(".")[0]
    if library == "diffusers":
        module.save_config(place)
    else:
        module.config.save_pretrained(place)
    stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    tuned = _weights(number)

    def tensor(name: str) -> memoryview:
        if "position_ids" in name:
            return memoryview(np.arange(shapes[name][-1], dtype=np.int64).tobytes())
        return memoryview(np.resize(tuned, int(np.prod(shapes[name]))).tobytes())

    entries = [
        (name, "I64" if "position_ids" in name else "F16", shape) for name, shape in shapes.items()
    ]
    assert dtype is torch.float16
    cached_tensors(place / f"{stem}.safetensors", entries, tensor)


class Watch:
    """The most anonymous memory of this process, looked at a hundred times a second."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Bytes of this process's memory that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("RssAnon"))


def inside(step: str, folder: Path) -> None:
    """One part of the work in this process; prints seconds and the highest anonymous memory."""
    import torch  # noqa: F401

    from genepool.checkpoints.family import find_source, make_family, open_source
    from genepool.core.genome import Recipe
    from genepool.materialise.gram import load_or_build_gram
    from genepool.models.build import ModelOptions, build_model
    from genepool.output.by_hand import merge

    watch, seconds = Watch(), dict[str, float]()
    start = time.perf_counter()

    def done(name: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[name] = round(now - start, 3)
        start = now

    options = ModelOptions(dtype="float16")
    checkpoints = [open_source(find_source(str(folder / name), folder)) for name in NAMES]
    if step == "live":
        family = make_family(checkpoints[:1])
        model = build_model(options, family.layout, family.checkpoints, folder)
        for tensor in model.tensors.values():
            tensor.fill_(0.01)
        done("build")
    else:
        family = make_family(checkpoints, {"attention": ["*.attentions.*"]})
        done("open")
        load_or_build_gram(family.checkpoints, family.layout)
        done("gram")
        model = build_model(options, family.layout, family.checkpoints, folder)
        done("build")
        writer = model.writer(family.checkpoints, family.layout)
        size = family.layout.axis.size
        edges = np.array([0, size // 3, size // 2, size], dtype=np.int64)
        coefs = np.random.default_rng(0).dirichlet(np.ones(4), 3)
        writer.write(Recipe(edges, coefs))
        done("child, first time")
        writer.write(Recipe(edges, coefs[::-1].copy()))
        done("child")
        merge(str(folder / "one"), str(folder / "two"), folder / "out", ratio=0.3, split=0.5)
        done("merge to disk")
    print(json.dumps({"seconds": seconds, "highest_anonymous_bytes": watch.most}))


def run(step: str, folder: Path) -> dict[str, Any]:
    """`inside` in a process of its own."""
    environment = {**os.environ, "GENEPOOL_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--inside", step, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"failed with {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--directory", type=Path, help="where the seeds are written (default: tmp)")
    parser.add_argument("--smoke", action="store_true", help="small U-Nets")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside[0], Path(args.inside[1]))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        folder = Path(name)
        seeds = make_seeds(folder, args.smoke)
        live, whole = run("live", folder), run("all", folder)
        unet = next((seeds[0] / "unet").glob("*.safetensors")).stat().st_size
    beyond = whole["highest_anonymous_bytes"] - live["highest_anonymous_bytes"]
    result = {
        "command": " ".join(["python", *(Path(a).name for a in sys.argv)]),
        "unet_bytes": unet,
        "live_pipeline": live,
        "four_seeds": whole,
        "beyond_the_live_pipeline_bytes": beyond,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
