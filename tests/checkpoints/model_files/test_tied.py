"""Heads that are but copies of the embeddings, and code that models bring along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import genepool
from genepool.checkpoints.family import find_source, make_family, open_source
from tests.build import save
from tests.lms import rewrite_config, write_lm

HEADS = {"llama": "lm_head.weight", "gpt2": "lm_head.weight"}
EMBEDDINGS = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}


def with_head(seed: Path, kind: str, difference: float = 0.0) -> None:
    """Store the embeddings once more, as the head."""
    file = seed / "model.safetensors"
    tensors = load_file(file)
    assert HEADS[kind] not in tensors
    tensors[HEADS[kind]] = tensors[EMBEDDINGS[kind]].clone() + difference
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("copies", [(True, True), (True, False), (False, True)])
def test_a_copy_of_the_embeddings_is_no_tensor_of_its_own(
    tmp_path: Path, kind: str, copies: tuple[bool, bool]
) -> None:
    a, b = seeds = [write_lm(tmp_path / name, number, kind) for number, name in enumerate("ab")]
    how: dict[str, Any] = {"ratio": 0.3, "split": 0.5}
    genepool.merge(a, b, tmp_path / "plain", **how)
    for seed, copy in zip(seeds, copies, strict=True):
        rewrite_config(seed, tie_word_embeddings=True)
        if copy:
            with_head(seed, kind)
    genepool.merge(a, b, tmp_path / "merged", **how)
    merged = load_file(tmp_path / "merged/model.safetensors")
    plain = load_file(tmp_path / "plain/model.safetensors")
    assert merged.keys() == plain.keys()
    assert all(torch.equal(merged[name], plain[name]) for name in plain)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"))
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_another_head_is_merged_and_told(tmp_path: Path, dtype: torch.dtype) -> None:
    seeds = [write_lm(tmp_path / name, number) for number, name in enumerate("ab")]
    for seed in seeds:
        with_head(seed, "llama", 0.5)
        tensors = load_file(seed / "model.safetensors")
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(dtype)
        save_file(tensors, seed / "model.safetensors", {"format": "pt"})
    family = make_family([open_source(find_source(str(seed), tmp_path)) for seed in seeds])
    assert "lm_head.weight" in {slot.name for slot in family.layout.slots}
    assert sum("is not the embeddings" in notice for notice in family.notices) == 2
    for seed in seeds:
        rewrite_config(seed, tie_word_embeddings=False)
    family = make_family([open_source(find_source(str(seed), tmp_path)) for seed in seeds])
    assert all("in F64, which are rounded" in notice for notice in family.notices)
    # Equal, but not tied: each goes its own way.
    for seed in seeds:
        (seed / "model.safetensors").unlink()
        write_lm(seed, 1)
        with_head(seed, "llama")
        rewrite_config(seed, tie_word_embeddings=False)
    family = make_family([open_source(find_source(str(seed), tmp_path)) for seed in seeds])
    assert "lm_head.weight" in {slot.name for slot in family.layout.slots}


@pytest.mark.parametrize(
    ("kind", "besides"),
    [
        *(("gemma", {}), ("gpt2", {}), ("llama", {"tie_word_embeddings": True}), ("opt", {})),
        ("nomic_bert", {}),  # A constant of its class, which no file has.
        ("encoder-decoder", {"tie_word_embeddings": False, "decoder": {"model_type": "opt"}}),
    ],
)
def test_a_key_that_is_absent_ties_by_default(
    tmp_path: Path, kind: str, besides: dict[str, Any]
) -> None:
    head, embeddings = "lm_head.weight", "model.embed_tokens.weight"
    config = {"model_type": kind, **besides}
    for name, copied in (("a", True), ("b", False)):
        words = torch.randn(6, 4)
        tensors = {embeddings: words, "model.layers.0.mlp.weight": torch.randn(4, 4)}
        save(tmp_path / name, {**tensors, **({head: words.clone()} if copied else {})})
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    opened = [open_source(find_source(str(tmp_path / name), tmp_path)) for name in "ab"]
    assert head not in opened[0].tensors
    assert make_family(opened).notices == ()
    # Llama's default is the other one: the copy is a tensor of its own there.
    (tmp_path / "a/config.json").write_text(json.dumps({"model_type": "llama"}))
    assert head in open_source(find_source(str(tmp_path / "a"), tmp_path)).tensors
    # Of a class that nobody knows it is told.
    (tmp_path / "a/config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    unknown = open_source(find_source(str(tmp_path / "a"), tmp_path))
    assert head in unknown.tensors
    (notice,) = make_family([unknown]).notices
    assert "no config.json says whether it is tied" in notice


def test_code_that_stays_behind_is_told(tmp_path: Path) -> None:
    seeds = [write_lm(tmp_path / name, number) for number, name in enumerate("ab")]

    def told() -> list[str]:
        opened = [open_source(find_source(str(seed), tmp_path)) for seed in seeds]
        return list(make_family(opened).notices)

    assert told() == []
    for seed in seeds:
        rewrite_config(seed, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
        (seed / "modeling_own.py").write_text("raise RuntimeError")
    (notice,) = told()
    assert notice.startswith(f"{seeds[0]} brings code of its own ('modeling_own.py')")


@pytest.mark.parametrize(
    ("names", "copies"),
    [
        # BERT and its kind store the bias of their head twice, too.
        (
            ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
            ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
        ),
        (("model.decoder.embed_tokens.weight",), ("proj_out.weight",)),
        (
            ("shared.weight",),
            ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        ),
        (("model.shared.weight",), ("model.decoder.embed_tokens.weight",)),
    ],
)
def test_copies_under_other_names(
    tmp_path: Path, names: tuple[str, ...], copies: tuple[str, ...]
) -> None:
    words, bias = torch.randn(6, 4), torch.randn(6)
    tensors = {n: (bias if n.endswith("bias") else words).clone() for n in (*names, *copies)}
    tensors["encoder.layers.0.mlp.weight"] = torch.randn(6, 4)
    save(tmp_path / "a", tensors)
    for tied in (True, False):
        (tmp_path / "a/config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
        held = open_source(find_source("a", tmp_path)).tensors
        assert held.keys() == tensors.keys() - (copies if tied else ())
    # What only looks like a copy stays.
    for number, name in enumerate(copies, 1):
        tensors[name][0] += number / 1000
    save(tmp_path / "a", tensors)
    (tmp_path / "a/config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    assert open_source(find_source("a", tmp_path)).tensors.keys() == tensors.keys()
