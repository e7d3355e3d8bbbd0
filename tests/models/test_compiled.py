"""Static caches and torch.compile: options of language models that change the last bits of scores,
and nothing else: what a child says depends on its weights and on what it is asked."""

from __future__ import annotations

import copy
import importlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from genepool.core.genome import seed_recipe
from genepool.errors import ConfigError
from genepool.models import transformers as module
from genepool.models.build import ModelOptions
from genepool.models.kinds import kind_of
from genepool.models.transformers import inference
from tests.models.test_kinds import LLAMA, seed
from tests.models.test_transformers import child, live, logits, opened

_DYNAMO, _INDUCTOR = (
    importlib.import_module(f"torch.{name}.config") for name in ("_dynamo", "_inductor")
)

# torch's compiler uses what torch itself gives up.
own_warning = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="needs a C++ compiler, and there is none here",
)


def say(model: Any, length: int, rows: int = 2, new: int = 4) -> tuple[torch.Tensor, Any]:
    """What a model says after texts of some length, as logits; and its cache."""
    tokens = torch.arange(length * rows).reshape(rows, length) % 30 + 4
    with inference(model):
        said = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return torch.stack(said.logits), said.past_key_values


def rooms(cache: Any) -> set[int]:
    return {layer.keys.shape[2] for layer in cache.layers}


def test_a_static_cache_has_the_size_that_a_call_needs_whatever_was_asked_before(
    tmp_path: Path,
) -> None:
    checkpoints, layout = opened(tmp_path)
    plain = live(checkpoints, layout)
    static = live(checkpoints, layout, cache_implementation="static")
    for one in (plain, static):
        one.writer(checkpoints, layout).write(child(layout))
    model = static.value.model
    first, cache = say(model, 5)
    assert isinstance(cache, transformers.StaticCache) and rooms(cache) == {8}
    assert rooms(say(model, 20)[1]) == {23}
    again, cache = say(model, 5)
    assert rooms(cache) == {8} and torch.equal(first, again)
    grown, dynamic = say(plain.value.model, 5)
    assert not isinstance(dynamic, transformers.StaticCache)
    torch.testing.assert_close(first, grown, rtol=1e-4, atol=1e-4)


def test_a_static_cache_has_room_for_as_much_as_is_said(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    how = {"cache_implementation": "static", "max_cache_len": 12}
    static = live(checkpoints, layout, **how)
    static.writer(checkpoints, layout).write(child(layout))
    model = static.value.model
    assert [rooms(say(model, length)[1]) for length in (5, 20, 6)] == [{12}, {23}, {12}]


def test_transformers_compiles_nothing_by_itself(tmp_path: Path) -> None:
    """On a GPU it would where the cache is static, with choices that it measures."""
    checkpoints, layout = opened(tmp_path)
    for how in ({}, {"cache_implementation": "static"}):
        assert live(checkpoints, layout, **how).value.model.generation_config.disable_compile


def test_a_model_that_generates_without_a_cache_is_refused(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    transformers.GenerationConfig(use_cache=False).save_pretrained(str(tmp_path / "1"))
    text = "model.cache_implementation: LlamaForCausalLM of .* or without any; leave the option out"
    with pytest.raises(ConfigError, match=text):
        live(checkpoints, layout, cache_implementation="static")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"network": "a:b", "torch_compile": True}, "'torch_compile' applies to a language model"),
        ({"kind": "arrays", "cache_implementation": "static"}, "'cache_implementation' applies to"),
        ({"kind": "arrays", "max_cache_len": 9}, "'max_cache_len' applies to a language model"),
        ({"kind": "transformers", "max_cache_len": 9}, "say 'cache_implementation: static' too"),
    ],
)
def test_options_that_have_no_meaning_are_refused(
    options: dict[str, Any], text: str, tmp_path: Path
) -> None:
    config = LLAMA if options.get("kind") == "transformers" else None
    with pytest.raises(ConfigError, match=text):
        kind_of(ModelOptions.model_validate(options), seed(tmp_path / "seed", config))


@own_warning
def test_compiling_that_is_turned_off_is_no_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, layout = opened(tmp_path)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(ConfigError, match=r"model.torch_compile: .* compiling is turned off"):
        live(checkpoints, layout, torch_compile=True)


_FRESH = """
import sys
from pathlib import Path
from tests.models.test_compiled import asked, reopened
print(asked(reopened(Path(sys.argv[1])), [9, 5]))
"""


def reopened(directory: Path) -> Any:
    """The child of two seeds, compiled."""
    from genepool.checkpoints.files.checkpoint import open_checkpoint
    from genepool.checkpoints.layout import build_layout

    checkpoints = [open_checkpoint(directory / name) for name in ("1", "2")]
    layout = build_layout(checkpoints)
    made = live(checkpoints, layout, cache_implementation="static", torch_compile=True)
    made.writer(checkpoints, layout).write(child(layout))
    return made.value.model


def asked(model: Any, lengths: Sequence[int]) -> list[str]:
    """The bits of all that a model says of texts of these lengths, the shorter first."""
    found = {length: say(model, length)[0].numpy().tobytes().hex() for length in lengths}
    with inference(model):
        found[0] = model(input_ids=torch.arange(12).reshape(2, 6)).logits.numpy().tobytes().hex()
    return [found[length] for length in sorted(found)]


@pytest.mark.slow
@needs_compiler
@own_warning
# With the first, torch would compile the weights as constants, and with the others it would give up
# compiling after the first shape, or because it fails. (What monkeypatch undoes is hidden there.)
@_INDUCTOR.patch(freezing=True)
@_DYNAMO.patch(recompile_limit=1, suppress_errors=True)
def test_what_is_compiled_reads_the_weights_that_are_written(tmp_path: Path) -> None:
    """And each shape is computed alike in every process, whatever was asked before."""
    checkpoints, layout = opened(tmp_path)
    plain = live(checkpoints, layout)
    made = live(checkpoints, layout, cache_implementation="static", torch_compile=True)
    model, own = made.value.model, plain.value.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    writers = [one.writer(checkpoints, layout) for one in (made, plain)]
    said: list[torch.Tensor] = []
    for genome in (*(seed_recipe(layout.axis.size, k, 2) for k in (0, 1)), child(layout)):
        for writer in writers:
            writer.write(genome)
        for length in (5, 9):
            # Single tokens after a static cache.
            found = say(model, length)[0]
            torch.testing.assert_close(found, say(own, length)[0], rtol=1e-4, atol=1e-4)
        with inference(model):
            # Whole texts, and texts that are kept in a cache that grows.
            torch.testing.assert_close(logits(model), logits(own), rtol=1e-4, atol=1e-4)
            tokens = torch.arange(10).reshape(2, 5)
            kept = model(input_ids=tokens, use_cache=True).logits
        assert torch.equal(kept, own(input_ids=tokens, use_cache=True).logits)
        said.append(logits(model))
    assert not torch.equal(said[0], said[1]) and not torch.equal(said[1], said[2])

    here = asked(model, [5, 9])
    done = subprocess.run(
        [sys.executable, "-c", _FRESH, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(here)


@pytest.mark.slow
@needs_compiler
@own_warning
def test_what_cannot_be_compiled_is_told_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, layout = opened(tmp_path)
    monkeypatch.setitem(module._COMPILING, "no_such_option", True)
    with pytest.raises(ConfigError, match=r"model.torch_compile: torch .* cannot compile here"):
        live(checkpoints, layout, torch_compile=True)


def test_a_deep_copy_computes_with_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, layout = opened(tmp_path)
    monkeypatch.setattr(module, "_require_compiler", lambda: None)
    monkeypatch.setattr(module, "_compiled", lambda own: own)
    made = live(checkpoints, layout, torch_compile=True)
    made.writer(checkpoints, layout).write(child(layout))
    model = made.value.model
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    assert "input_ids" in inspect.signature(model.forward).parameters
    for one, nothing in ((model, False), (other, True)):
        assert bool((logits(one) == 0).all()) is nothing
        assert bool((say(one, 5)[0] == 0).all()) is nothing


@own_warning
def test_what_depends_on_values_is_not_compiled_in_parts() -> None:
    """Parts between could have another shape for each child, and be compiled without end."""

    def own(x: torch.Tensor) -> torch.Tensor:
        return x + (1 if float(x.sum()) > 0 else 2)

    with pytest.raises(Exception, match=r"(?i)data-dependent|unsupported"):
        module._compiled(own)(torch.ones(2))
