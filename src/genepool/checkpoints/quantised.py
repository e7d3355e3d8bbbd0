"""Quantised weights, told by their tensors: whole numbers, and beside them the scales.

A merge would mix the scales and keep one model's numbers. What `config.json` says does not count:
files are copied without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from genepool.errors import CheckpointError
from genepool.messages import at, one_line

_CALL = "from_pretrained(PATH, quantization_config={}(dequantize=True)).save_pretrained(OUT)"
_FP8 = _CALL.format("FineGrainedFP8Config")
_DEQUANTISE = "from_pretrained(PATH).dequantize().save_pretrained(OUT)"

_INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})

# What the name of a tensor of whole numbers (True) or of any (False) ends in that only such a
# layout has; who writes it; in transformers, how to undo it ("" where it cannot).
_LAYOUTS = tuple(
    (re.compile(rf"(?:^|[._])(?:{pattern})$"), whole, layout, way)
    for pattern, whole, layout, way in (
        (r"SCB|weight_format", False, "bitsandbytes, 8 bits", _DEQUANTISE),
        (r"(?:nested_)?(?:absmax|quant_map)", False, "bitsandbytes, 4 bits", _DEQUANTISE),
        (r"quant_state\.\w+", False, "bitsandbytes, 4 bits", _DEQUANTISE),
        (r"qweight|qzeros", True, "GPTQ or AWQ", ""),
        (r"W_q", True, "HQQ", _DEQUANTISE),
        (r"q_weight|trellis|Qidxs", True, "ExLlama or QuIP", ""),
        (r"codes|dense_weights|col_vals", True, "AQLM or SpQR", ""),
        (r"B", True, "Marlin", ""),
        (r"encoded_exponent|sign_mantissa", True, "DFloat11", ""),
        (r"weight\._(?:data|scale|shift|packed)(?:\.\w+)*", False, "quanto", ""),
        (r"weight:\w+|weight_qdata", False, "torchao", _DEQUANTISE),
        (r"weight\.(?:tensor_impl|layout_tensor)\..+", False, "torchao", _DEQUANTISE),
        (
            r"weight_(?:packed|shape|zero_point|global_scale|scale_2)",
            False,
            "compressed-tensors or ModelOpt",
            _CALL.format("CompressedTensorsConfig"),
        ),
        (r"weight_scale_inv", False, "FP8", _FP8),
        (r"weight_scales?", False, "FP8, EETQ or BitNet", _DEQUANTISE),
    )
)

_MXFP4 = _CALL.format("Mxfp4Config")
_SMALL = re.compile(r"[IU]8$|F[468](_\w+)?$")
_WEIGHT = re.compile(r"weight(\.\w+)?$")
_SCALES = re.compile(r"scale|absmax|zero|codebook|min_val")


class QuantisedError(CheckpointError):
    """The weights are quantised."""


def require_unquantised(path: Path, tensors: Mapping[str, tuple[str, int]]) -> None:
    """Refuse weights that are quantised.

    Args:
        path: of the checkpoint, for the message.
        tensors: name to dtype, as safetensors names it, and number of dimensions; of all files.

    Raises:
        QuantisedError: naming a tensor, the layout, and what to do.
    """
    for pattern, whole, layout, way in _LAYOUTS:
        for name, (dtype, _) in tensors.items():
            if pattern.search(name) and (dtype in _INTEGERS or not whole):
                raise _quantised(path, name, dtype, layout, way)
    for name, (dtype, dimensions) in tensors.items():
        small = bool(_SMALL.match(dtype))
        module = name.rpartition(".")[0]
        if dimensions >= 2 and (small or dtype in _INTEGERS):
            if name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors:
                raise _quantised(path, name, dtype, "MXFP4", _MXFP4)
            if small and _scaled(module, tensors):
                raise _quantised(path, name, dtype, "with scales", _FP8 if dtype[0] == "F" else "")
            if f"{module}.centroids.weight" in tensors:
                raise _quantised(path, name, dtype, "VPTQ", "")
        if dimensions and dtype in {*_INTEGERS, "BOOL"} and _WEIGHT.search(name):
            raise _quantised(path, name, dtype, "whole numbers", "")


def _scaled(module: str, tensors: Mapping[str, object]) -> bool:
    """Whether a module has a tensor that is called like scales."""
    names = (name.rpartition(".") for name in tensors)
    return any(start == module and _SCALES.search(last) for start, _, last in names)


def _quantised(path: Path, name: str, dtype: str, layout: str, way: str) -> QuantisedError:
    undo = f"in transformers: AutoModelForCausalLM.{way}" if way else "with the tool that made them"
    return QuantisedError(
        f"{at(path)}: the weights are quantised ({layout}), as '{one_line(name)}' of dtype "
        f"{one_line(dtype)} shows: a merge would mix their scales and keep one model's numbers. "
        f"Give the weights that were quantised, or dequantise them first ({undo}); another dtype "
        "alone would drop the scales"
    )
