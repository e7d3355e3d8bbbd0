"""What triton's compiler makes of the kernel for cards that need not be there, line by line."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

import pytest

from genepool.materialise.chunks import Form
from tests.materialise.test_device import kernel_module


def _compiled(kernel: ModuleType, target: tuple[str, Any, int], form: Form) -> dict[str, str]:
    """What triton makes of the kernel for a card, which need not be there."""
    compiler = importlib.import_module("triton.compiler")
    card = importlib.import_module("triton.backends.compiler").GPUTarget(*target)
    packed = sum(kind << (2 * k) for k, kind in enumerate(form.kinds))
    constants = {
        "K": len(form.kinds), "KINDS": packed, "VIA": form.via, "OUT": form.out, "ALIGNED": True,
        "BLOCK": kernel.BLOCK,
    }  # fmt: skip
    names = ["owners", "pieces", "firsts", "segments"]
    types = dict(zip(names, ["*i32", "*i64", "*i32", "*i64"], strict=True))
    source = compiler.ASTSource(
        fn=kernel._express,
        signature={
            **types, "first_block": "i32", "count_segments": "i32",
            **dict.fromkeys(constants, "constexpr"),
        },
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(4)},
    )  # fmt: skip
    options = {"num_warps": 8, "enable_fp_fusion": False}
    return importlib.import_module("triton").compile(source, target=card, options=options).asm


FORMS = [
    Form(kinds, via, out, True)
    for kinds, via, out in [((3, 3), 3, 3), ((2, 2), 2, 2), ((1, 1), 1, 1), ((3, 1), 2, 3)]
]


@pytest.mark.slow
def test_what_is_compiled_for_an_h100_rounds_each_operation_and_moves_sixteen_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton", reason="needs triton, which is not installed")
    kernel = kernel_module(False, monkeypatch)
    for form in FORMS:
        made = _compiled(kernel, ("cuda", 90, 32), form)["ptx"]
        assert "fma." not in made and ".ftz" not in made
        assert "0f80000000" in made  # -0.0
        assert "mul.rn.f32" in made and "add.rn.f32" in made
        assert len(re.findall(r"ld\.global\.v4\.b32", made)) >= 4
        assert re.search(r"st\.global\.v4\.b32", made)


@pytest.mark.slow
@pytest.mark.parametrize("target", [("hip", "gfx942", 64), ("hip", "gfx1100", 32)], ids=str)
def test_what_is_compiled_for_cards_of_amd_rounds_each_operation(
    target: tuple[str, Any, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="needs triton, which is not installed")
    kernel = kernel_module(False, monkeypatch)
    for form in FORMS:
        made = _compiled(kernel, target, form)["amdgcn"]
        assert not re.search(r"v_\w*(fma|mac|mad_f|mad_mix)", made)
        assert re.search(r"v_\w*mul_f32", made) and re.search(r"v_\w*add_f32", made)
        # Subnormals are kept, and numbers are rounded to the nearest, ties to even.
        assert re.search(r"float_denorm_mode_32 3\s", made)
        assert re.search(r"float_denorm_mode_16_64 3\s", made)
        assert re.search(r"float_round_mode_32 0\s", made)
        assert re.search(r"float_round_mode_16_64 0\s", made)
