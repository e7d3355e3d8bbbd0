"""Quantised weights are told by their tensors, whatever the configuration says, on every way in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.quantised import QuantisedError
from tests.cli import run_cli

Tensors = dict[str, torch.Tensor]

NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj")
ROWS, COLUMNS = 16, 64


def whole(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    top = min(torch.iinfo(dtype).max, 2**31 - 1)
    return torch.randint(0, top, shape, dtype=torch.int64).to(dtype)


def real(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape).to(dtype)


def float8(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(torch.float8_e4m3fn)


I32, F16 = torch.int32, torch.float16
I8 = torch.int8

# What stands in the place of NAME.weight.
LAYOUTS: dict[str, Callable[[str], Tensors]] = {
    "bitsandbytes, 8 bits": lambda n: {
        f"{n}.weight": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}.SCB": real(ROWS),
        f"{n}.weight_format": whole(),
    },
    "bitsandbytes, nf4": lambda n: {
        f"{n}.weight": whole(ROWS * COLUMNS // 2, 1),
        f"{n}.weight.absmax": real(16),
        f"{n}.weight.quant_map": real(16),
        f"{n}.weight.quant_state.bitsandbytes__nf4": whole(40),
    },
    "bitsandbytes, fp4, nested": lambda n: {
        f"{n}.weight": whole(ROWS * COLUMNS // 2, 1),
        f"{n}.weight.absmax": whole(16),
        f"{n}.weight.nested_absmax": real(1),
        f"{n}.weight.nested_quant_map": real(256),
        f"{n}.weight.quant_map": real(16),
        f"{n}.weight.quant_state.bitsandbytes__fp4": whole(40),
    },
    "bitsandbytes, 4 bits in a float": lambda n: {
        f"{n}.weight": real(ROWS * COLUMNS // 4, 1, dtype=torch.bfloat16),
        f"{n}.weight.absmax": real(16),
        f"{n}.weight.quant_map": real(16),
    },
    "GPTQ": lambda n: {
        f"{n}.qweight": whole(COLUMNS // 8, ROWS, dtype=I32),
        f"{n}.qzeros": whole(1, ROWS // 8, dtype=I32),
        f"{n}.scales": real(1, ROWS, dtype=F16),
        f"{n}.g_idx": whole(COLUMNS, dtype=I32),
    },
    "AWQ": lambda n: {
        f"{n}.qweight": whole(COLUMNS, ROWS // 8, dtype=I32),
        f"{n}.qzeros": whole(1, ROWS // 8, dtype=I32),
        f"{n}.scales": real(1, ROWS, dtype=F16),
    },
    "MXFP4": lambda n: {
        f"{n}_blocks": whole(ROWS, COLUMNS // 32, 16),
        f"{n}_scales": whole(ROWS, COLUMNS // 32),
    },
    "compressed-tensors, packed": lambda n: {
        f"{n}.weight_packed": whole(ROWS, COLUMNS // 8, dtype=I32),
        f"{n}.weight_scale": real(ROWS, 1, dtype=torch.bfloat16),
        f"{n}.weight_shape": torch.tensor([ROWS, COLUMNS]),
    },
    "compressed-tensors, NVFP4": lambda n: {
        f"{n}.weight_packed": whole(ROWS, COLUMNS // 2),
        f"{n}.weight_scale": float8(ROWS, COLUMNS // 16),
        f"{n}.weight_global_scale": real(1),
        f"{n}.input_global_scale": real(1),
    },
    "compressed-tensors, int8": lambda n: {
        f"{n}.weight": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}.weight_scale": real(ROWS, 1),
    },
    "FP8, a scale each": lambda n: {
        f"{n}.weight": float8(ROWS, COLUMNS),
        f"{n}.weight_scale": real(1),
        f"{n}.input_scale": real(1),
    },
    "FP8 in blocks": lambda n: {
        f"{n}.weight": float8(ROWS, COLUMNS),
        f"{n}.weight_scale_inv": real(1, 1),
    },
    "FP8 as image tools write it": lambda n: {
        f"{n}.weight": float8(ROWS, COLUMNS),
        f"{n}.scale_weight": real(1),
    },
    "FP8 cast to bfloat16, the scales left beside it": lambda n: {
        f"{n}.weight": float8(ROWS, COLUMNS).bfloat16(),
        f"{n}.weight_scale_inv": real(1, 1),
    },
    "HQQ": lambda n: {
        f"{n}.W_q": whole(ROWS, COLUMNS),
        f"{n}.scale": real(ROWS, 1, dtype=F16),
        f"{n}.zero": real(ROWS, 1, dtype=F16),
    },
    "torchao": lambda n: {
        f"{n}.weight:qdata": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}.weight:scale": real(ROWS, 1),
    },
    "torchao, flat names": lambda n: {
        f"{n}._weight_qdata": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}._weight_scale": real(ROWS, 1),
    },
    "quanto": lambda n: {
        f"{n}.weight._data": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}.weight._scale": real(ROWS, 1),
    },
    "EETQ": lambda n: {
        f"{n}.weight": whole(ROWS, COLUMNS, dtype=I8),
        f"{n}.weight_scales": real(ROWS, dtype=F16),
    },
    "BitNet": lambda n: {
        f"{n}.weight": whole(ROWS // 4, COLUMNS),
        f"{n}.weight_scale": real(1, dtype=torch.bfloat16),
    },
    "ExLlama": lambda n: {
        f"{n}.q_weight": whole(COLUMNS // 8, ROWS, dtype=I32),
        f"{n}.q_scale": whole(1, ROWS // 8, dtype=I32),
        f"{n}.q_scale_max": real(1, dtype=F16),
    },
    "AQLM": lambda n: {
        f"{n}.codes": whole(ROWS, COLUMNS // 8, 1, dtype=torch.int16),
        f"{n}.codebooks": real(1, 256, 1, 8),
        f"{n}.scales": real(ROWS, 1, 1, 1),
    },
    "VPTQ": lambda n: {
        f"{n}.indices": whole(1, ROWS, COLUMNS // 8, dtype=I32),
        f"{n}.centroids.weight": real(1, 64),
    },
    "SpQR": lambda n: {
        f"{n}.dense_weights": whole(ROWS * COLUMNS // 16, dtype=torch.int64),
        f"{n}.row_offsets": whole(ROWS + 1, dtype=I32),
        f"{n}.col_vals": whole(8, dtype=I32),
    },
    "Marlin": lambda n: {
        f"{n}.B": whole(ROWS, COLUMNS, dtype=I32),
        f"{n}.s": real(1, COLUMNS, dtype=F16),
        f"{n}.workspace": whole(16, dtype=I32),
    },
    "DFloat11": lambda n: {
        f"{n}.encoded_exponent": whole(ROWS * COLUMNS // 3),
        f"{n}.sign_mantissa": whole(ROWS * COLUMNS),
        f"{n}.luts": whole(4, 256),
    },
    "MLX": lambda n: {
        f"{n}.weight": whole(ROWS, COLUMNS // 8, dtype=I32).view(torch.uint32),
        f"{n}.scales": real(ROWS, 1),
        f"{n}.biases": real(ROWS, 1),
    },
    "Nunchaku": lambda n: {
        f"{n}.qweight": whole(ROWS, COLUMNS // 2, dtype=I8),
        f"{n}.wscales": real(1, ROWS, dtype=torch.bfloat16),
        f"{n}.smooth_factor": real(COLUMNS, dtype=torch.bfloat16),
    },
    "parts of a weight": lambda n: {
        f"{n}.weight.q": whole(ROWS, COLUMNS),
        f"{n}.mx": real(ROWS),
        f"{n}.rx": real(ROWS),
    },
    "names of one's own": lambda n: {
        f"{n}.packed": whole(ROWS, COLUMNS),
        f"{n}.scale": real(ROWS, 1),
    },
    "whole numbers alone": lambda n: {f"{n}.weight": whole(ROWS, COLUMNS, dtype=I8)},
    "whole numbers in a row": lambda n: {f"{n}.weight": whole(ROWS * COLUMNS)},
    "truth values": lambda n: {f"{n}.weight": whole(ROWS, COLUMNS) > 99, f"{n}.alpha": real(1)},
}


def ordinary(seed: int) -> Tensors:
    made = torch.Generator().manual_seed(seed)
    tensors = {f"{name}.weight": torch.randn(ROWS, COLUMNS, generator=made) for name in NAMES}
    return tensors | {"model.norm.weight": torch.randn(ROWS, generator=made)}


def write(directory: Path, tensors: Tensors, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    text = json.dumps({"model_type": "llama", "vocab_size": 8, **config})
    (directory / "config.json").write_text(text)
    return directory


def quantised(directory: Path, layout: str, seed: int = 0, **config: Any) -> Path:
    torch.manual_seed(seed)
    tensors = {"model.norm.weight": real(ROWS)}
    for name in NAMES:
        tensors |= LAYOUTS[layout](name)
    return write(directory, tensors, **config)


def refused(arguments: list[str], out: Path) -> str:
    code, _, error = run_cli(arguments)
    assert code == 1, error
    assert len(error.strip().splitlines()) == 1, error
    assert "quantised" in error and "dequantise" in error
    assert "convert" not in error
    assert not out.exists()
    return error


@pytest.mark.parametrize("told", [True, False], ids=["with a config", "without"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_merge(tmp_path: Path, layout: str, told: bool) -> None:
    config = {"quantization_config": {"quant_method": "any"}} if told else {}
    pair = [str(quantised(tmp_path / letter, layout, k, **config)) for k, letter in enumerate("ab")]
    out = tmp_path / "out"
    refused(["merge", *pair, "--ratio", "0.5", "-o", str(out)], out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_partial_merge_with_a_whole_model(tmp_path: Path, layout: str) -> None:
    whole_model = write(tmp_path / "whole", ordinary(0))
    other = quantised(tmp_path / "other", layout)
    for number, pair in enumerate(((whole_model, other), (other, whole_model))):
        out = tmp_path / f"out{number}"
        given = ["merge", *map(str, pair), "--ratio", "0.5", "--partial", "-o", str(out)]
        assert "other" in refused(given, out)


@pytest.mark.parametrize("layout", ["bitsandbytes, nf4", "GPTQ", "FP8 in blocks"])
def test_evolve(tmp_path: Path, layout: str) -> None:
    seeds = [str(quantised(tmp_path / letter, layout, k)) for k, letter in enumerate("ab")]
    run = {
        "pool": str(tmp_path / "pool"),
        "seeds": seeds,
        "tasks": [{"name": "t", "evaluator": "function", "function": "operator:itemgetter"}],
        "strategy": {"name": "m2n2", "archive": 4},
        "budget": 2,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    refused(["evolve", str(tmp_path / "run.yaml")], tmp_path / "pool")


@pytest.mark.parametrize("layout", ["bitsandbytes, 8 bits", "bitsandbytes, nf4", "MXFP4"])
def test_the_base_of_an_adapter(tmp_path: Path, layout: str) -> None:
    base = quantised(tmp_path / "base", layout)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    prefix = f"base_model.model.{NAMES[0]}"
    lora = {f"{prefix}.lora_A.weight": real(2, COLUMNS), f"{prefix}.lora_B.weight": real(ROWS, 2)}
    save_file(lora, adapter / "adapter_model.safetensors")
    out = tmp_path / "out"
    other = str(write(tmp_path / "other", ordinary(1)))
    error = refused(["merge", str(adapter), other, "--ratio", "0.5", "-o", str(out)], out)
    assert "base of the adapter" in error and "--adapter-base" in error


def test_scales_in_another_file(tmp_path: Path) -> None:
    tensors = LAYOUTS["bitsandbytes, 8 bits"](NAMES[0])
    parts = [{name: t} for name, t in tensors.items()]
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, tmp_path / file)
        places |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(QuantisedError, match=r"quantised .bitsandbytes"):
        open_checkpoint(tmp_path)


def test_a_four_bit_dtype_with_scales(tmp_path: Path) -> None:
    header = {
        "up.weight": {"dtype": "F8_E4M3", "shape": [4, 4], "data_offsets": [0, 16]},
        "up.weight_scale": {"dtype": "F8_E8M0", "shape": [4, 1], "data_offsets": [16, 20]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(20))
    with pytest.raises(QuantisedError, match="dequantise"):
        open_checkpoint(tmp_path / "m.safetensors")


ORDINARY: dict[str, Tensors] = {
    "layer scale": {"blocks.0.layer_scale": real(8), "blocks.0.gamma": real(8)},
    "scales of a whole layer": {"blocks.0.ls1.scale": real(8), "blocks.0.scales": real(8, 2)},
    "CLIP's": {"logit_scale": real(), "text_model.embeddings.position_ids": torch.arange(9)[None]},
    "Swin's": {
        "attn.logit_scale": real(4, 1, 1),
        "attn.relative_position_index": torch.arange(16).reshape(4, 4),
    },
    "batch norm": {"bn.num_batches_tracked": torch.tensor(7), "bn.running_mean": real(8)},
    "masks": {"attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "attn.scale": real(1)},
    "masks of bytes": {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)},
    "weights by letters": {"attn.W_q": real(4, 4), "attn.q_weight": real(4, 4)},
    "blocks": {"down_blocks": real(4, 4), "up_blocks.0.weight": real(4, 4)},
    "weight norm": {
        "conv.parametrizations.weight.original0": real(4, 1),
        "conv.weight_g": real(4, 1),
        "conv.weight_v": real(4, 3),
    },
    "indices and centroids": {"indices": whole(4, 4), "head.centroids": real(4, 4)},
    "low rank by letters": {
        "mixer.A": real(4, 4),
        "mixer.B": real(4, 4),
        "a.codes.weight": real(4),
    },
    "indices of a codebook": {"quantizer.codebook.embed": real(4, 4), "table.ids": whole(4, 4)},
}


@pytest.mark.parametrize("kind", ORDINARY)
def test_what_is_not_quantised_merges(tmp_path: Path, kind: str) -> None:
    pair = [str(write(tmp_path / str(k), {**ordinary(k), **ORDINARY[kind]})) for k in range(2)]
    out = tmp_path / "out"
    code, _, error = run_cli(["merge", *pair, "--ratio", "0.5", "-o", str(out)])
    assert code == 0, error
    assert set(open_checkpoint(out).tensors) == {*ordinary(0), *ORDINARY[kind]}
