"""Merges of real architectures against the paper's formula, computed densely in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.slerp import ANGLES, Angle
from genepool.output.by_hand import merge
from tests.core.dense import merge as dense_merge
from tests.lms import write_lm


def along_axis(directory: Path, layout: Layout) -> NDArray[np.float64]:
    """All mergeable weights of a model end to end, float64[D]."""
    tensors = load_file(directory / "model.safetensors")
    parts = [tensors[slot.name].double().flatten().numpy() for slot in layout.slots]
    return np.concatenate(parts)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("kind", ["llama", "qwen2_moe", "gpt2"])
def test_every_element_is_the_formula_rounded_once(tmp_path: Path, kind: str, angle: Angle) -> None:
    """Half a unit in the last place is the best that bfloat16 can do.

    Float32 arithmetic on the way loses a little beside the weights of the two models.
    """
    pair = [write_lm(tmp_path / str(n), n, kind, "bfloat16", tokenizer=False) for n in (1, 2)]
    layout = build_layout([open_checkpoint(one) for one in pair])
    a, b = (along_axis(one, layout) for one in pair)
    split = layout.axis.size * 3 // 7
    merge(str(pair[0]), str(pair[1]), tmp_path / "out", ratio=0.3, split=split, angle=angle)
    found = along_axis(tmp_path / "out", layout)
    exact = dense_merge(a, b, layout.axis, 0.3, [split], angle)
    # frexp gives one more than the exponent of 1.x, and bfloat16 keeps 7 bits after the point.
    place = np.exp2(np.maximum(np.frexp(exact)[1] - 8, -133).astype(np.float64))
    errors, lost = np.abs(found - exact), 2.0**-22 * np.maximum(np.abs(a), np.abs(b))
    assert (errors <= 0.5 * place + lost).all()
    assert (errors > 0.4 * place).any()
