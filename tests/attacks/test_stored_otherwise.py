"""Seeds that hold the right weights in another form: taken as they are, or refused with a way."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import genepool
from genepool.checkpoints.family import find_source, make_family, open_source
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.files.digests import remember_digests
from genepool.errors import CheckpointError
from tests.build import save
from tests.cli import run_cli
from tests.late import peft
from tests.lms import rewrite_config, tiny_config, write_lm
from tests.runs import write_run

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))


def vision_config(kind: str) -> Any:
    """A tiny model of pictures and text."""
    text = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    if kind == "gemma3":
        return transformers.Gemma3Config(
            text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=5,
            boi_token_index=6, eoi_token_index=7,
        )  # fmt: skip
    if kind == "paligemma":
        return transformers.PaliGemmaConfig(
            text_config={**text, "model_type": "gemma"}, vision_config=vision, projection_dim=16,
            image_token_index=5,
        )  # fmt: skip
    return tiny_config("llava")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma3", "paligemma", "llava"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_adapters_of_vision_models(tmp_path: Path, kind: str, prefixed: bool) -> None:
    torch.manual_seed(1)
    auto: Any = transformers.AutoModelForImageTextToText
    base = auto.from_config(vision_config(kind))
    base.save_pretrained(tmp_path / "base")
    modules = r".*language_model.*\.q_proj" if prefixed else r".*(layers|encoder).*\.q_proj"
    wrapped: Any = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=modules, init_lora_weights=False)
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "expected")
    expected = load_file(tmp_path / "expected/model.safetensors")
    before = load_file(tmp_path / "base/model.safetensors")
    found = open_source(find_source("adapter", tmp_path, base="base"))
    changed = [name for name in expected if not torch.equal(expected[name], before[name])]
    assert changed
    for name, tensor in found.tensors.items():
        values = tensor.floats()
        np.testing.assert_allclose(values, expected[name].numpy(), 2e-5, 1e-6, err_msg=name)


def test_a_digest_is_of_the_names_that_were_opened(tmp_path: Path) -> None:
    words = torch.randn(6, 4)
    save(tmp_path / "a", {"model.embed_tokens.weight": words, "lm_head.weight": words.clone()})
    digests: list[str] = []
    for tied in (False, True, False):
        config = {"model_type": "llama", "tie_word_embeddings": tied}
        (tmp_path / "a/config.json").write_text(json.dumps(config))
        found = open_source(find_source("a", tmp_path))
        digests += remember_digests([found], [{}], tmp_path)
    assert digests[0] == digests[2] != digests[1]


def adapter(directory: Path, module: str) -> Path:
    parts = {"lora_A.weight": torch.ones(1, 3), "lora_B.weight": torch.ones(3, 1)}
    save(directory, {f"base_model.model.{module}.{part}": t for part, t in parts.items()})
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q"]}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("module", ["old.q", "new.inner.q"])
def test_rename_comes_before_folding(tmp_path: Path, module: str) -> None:
    save(tmp_path / "base", {"old.q.weight": torch.zeros(3, 3), "old.k.weight": torch.ones(2)})
    adapter(tmp_path / "adapter", module)
    source = find_source("adapter", tmp_path, base="base", rename={"old.": "new.inner."})
    found = open_source(source)
    assert sorted(found.tensors) == ["new.inner.k.weight", "new.inner.q.weight"]
    assert np.all(found.tensors["new.inner.q.weight"].floats() == 1.0)
    if module != "old.q":
        with pytest.raises(CheckpointError, match=r"'new.inner.q.weight', which the base"):
            open_source(find_source("adapter", tmp_path, base="base"))


@pytest.mark.parametrize(
    ("named", "word"), [("gone/model-bnb-4bit", "the original, where it is"), ("gone", "run file)")]
)
def test_a_base_that_is_not_here(tmp_path: Path, named: str, word: str) -> None:
    own = adapter(tmp_path / "adapter", "q")
    content = json.loads((own / "adapter_config.json").read_text())
    named = str(tmp_path / named)
    content["base_model_name_or_path"] = named
    (own / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="no such file or directory; name another") as caught:
        open_source(find_source("adapter", tmp_path))
    assert "--adapter-base" in str(caught.value) and word in str(caught.value)


def test_experts_one_by_one_and_fused(tmp_path: Path) -> None:
    single = {f"l.0.experts.{n}.up_proj.weight": torch.zeros(3, 3) for n in range(2)}
    a = save(tmp_path / "a", {**single, "l.0.q.weight": torch.zeros(3, 3)})
    fused = {"l.0.experts.gate_up_proj": torch.zeros(2, 3, 3), "l.0.q.weight": torch.zeros(3, 3)}
    b = save(tmp_path / "b", fused)
    for pair in ((a, b), (b, a)):
        with pytest.raises(CheckpointError, match=r"one by one, and the other all together"):
            make_family([open_checkpoint(path) for path in pair])
    adapter(tmp_path / "adapter", "l.0.experts.1.up_proj")
    with pytest.raises(CheckpointError, match="experts one by one, and the other has them fused"):
        open_source(find_source("adapter", tmp_path, base="b"))
    assert open_source(find_source("adapter", tmp_path, base="a")).tensors


def test_the_cache_of_the_hub(tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    save(root / "snapshots/abc", {"w.weight": torch.ones(2)})
    for place in (root, root / "snapshots"):
        with pytest.raises(
            CheckpointError, match=r"snapshots/: name one of them, '.*snapshots/abc"
        ):
            open_checkpoint(place)
    assert open_checkpoint(root / "snapshots/abc").name == "name"


@pytest.mark.parametrize("place", ["_orig_mod.{}", "model._orig_mod.{}"])
def test_names_of_compiled_models(tmp_path: Path, place: str) -> None:
    names = ["q.weight", "k.weight"]
    plain = [save(tmp_path / c, {n: torch.randn(3) for n in names}) for c in "ab"]
    for path in plain:
        held = load_file(path / "model.safetensors")
        (tmp_path / f"compiled-{path.name}").mkdir()
        file = tmp_path / f"compiled-{path.name}/model.safetensors"
        save_file({place.format(n): t for n, t in held.items()}, file)
    opened = [open_source(find_source(f"compiled-{c}", tmp_path)) for c in "ab"]
    expected = [place.replace("_orig_mod.", "").format(n) for n in names]
    assert sorted(opened[0].tensors) == sorted(expected)
    told = make_family(opened).notices
    assert len(told) == 2 and all("torch.compile had wrapped" in text for text in told)
    genepool.merge(tmp_path / "compiled-a", tmp_path / "compiled-b", tmp_path / "out", ratio=0.5)
    assert sorted(load_file(tmp_path / "out/model.safetensors")) == sorted(expected)


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_stubs_of_weights_elsewhere(tmp_path: Path, leaf: str) -> None:
    save(tmp_path / "a", {f"l.0.{leaf}": torch.zeros(0), "norm.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"hold nothing \(shape \[0\]\).*gather the weights"):
        open_checkpoint(tmp_path / "a")
    # Other empty tensors are what some models have.
    save(tmp_path / "b", {"steps": torch.zeros(0), "norm.weight": torch.ones(3)})
    assert open_checkpoint(tmp_path / "b").tensors


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_the_byte_order(tmp_path: Path, encoding: str) -> None:
    seeds = [write_lm(tmp_path / name, number) for number, name in enumerate("ab")]
    content = json.loads((seeds[0] / "config.json").read_text())
    (seeds[0] / "config.json").write_text(json.dumps(content), encoding=encoding)
    assert (seeds[0] / "config.json").read_bytes()[:2] in (codecs.BOM_UTF8[:2], codecs.BOM_UTF16)
    genepool.merge(seeds[0], seeds[1], tmp_path / "out", ratio=0.5)
    assert json.loads((tmp_path / "out/config.json").read_text("utf-8")) == content
    genepool.merge(seeds[0], seeds[1], tmp_path / "half", ratio=0.5, dtype="BF16")
    assert json.loads((tmp_path / "half/config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    auto: Any = transformers.AutoModelForCausalLM
    assert auto.from_pretrained(str(tmp_path / "out")).config.hidden_size == 16
    rewrite_config(seeds[1], rms_norm_eps=0.5)
    with pytest.raises(CheckpointError, match=r"rms_norm_eps is 0\.5 against"):
        genepool.merge(seeds[0], seeds[1], tmp_path / "no", ratio=0.5)


@pytest.mark.parametrize(
    "name",
    [
        *("seeds/x.safetensors", "org/y.gguf", "a/pytorch_model.bin", "seeds/x.safetensor"),
        *("org/x.onnx", "a/flax_model.msgpack", "a/model.tar.gz", "seeds\\x.safetensors", "org/"),
    ],
)
def test_a_missing_file_is_no_id_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file") as caught:
        open_source(find_source(name, tmp_path))
    assert "Hub" not in str(caught.value)
    assert find_source("org/name-GGUF", tmp_path).path == "org/name-GGUF"


@pytest.mark.parametrize("address", ["https://huggingface.co/org/name", "hf://org/name"])
@pytest.mark.parametrize("place", ["a seed", "a base", "a model"])
def test_an_address_is_no_path(tmp_path: Path, address: str, place: str) -> None:
    seeds: list[Any] = ["seed1.safetensors", "seed2.safetensors"]
    if place == "a seed":
        seeds[0] = address
    elif place == "a base":
        seeds[0] = {"path": "adapter", "base": address}
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter/adapter_config.json").write_text("{}")
    file = write_run(tmp_path, seeds=seeds, budget=2)
    given = ["evolve", str(file)]
    if place == "a model":
        seed = str(tmp_path / "seed1.safetensors")
        given = ["merge", seed, address, "--ratio", "0.5", "-o", str(tmp_path / "out")]
    code, _, error = run_cli(given)
    assert (code, error.count("\n")) == (1, 1), error
    assert f"'{address}': is an address of the Hugging Face Hub; give the model's id" in error


@pytest.mark.parametrize(
    ("place", "who"),
    [
        ("_fsdp_wrapped_module.{}", "FSDP had"),
        ("model._checkpoint_wrapped_module.{}", "the checkpointing of activations had"),
        ("_orig_mod._fsdp_wrapped_module.{}", "torch.compile and FSDP had"),
    ],
)
def test_names_of_wrapped_models(tmp_path: Path, place: str, who: str) -> None:
    prefix = "model." if place.startswith("model.") else ""
    plain = save(tmp_path / "a", {f"{prefix}{n}": torch.randn(3) for n in ("q.weight", "k.weight")})
    held = load_file(plain / "model.safetensors")
    wrapped = {place.format(n.removeprefix(prefix)): -t for n, t in held.items()}
    save(tmp_path / "b", wrapped)
    done = genepool.merge(tmp_path / "a", tmp_path / "b", tmp_path / "out", ratio=0.5)
    assert any(f"{who} wrapped" in text for text in done.details["notices"])
    assert {*load_file(tmp_path / "out/model.safetensors")} == {*held}


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("checkpoint-500/model.safetensors", "a folder in it does: name 'checkpoint-500' itself"),
        ("last/adapter_model.safetensors", "name 'last' itself"),
        ("global_step5/mp_rank_00_model_states", "'global_step5' is a part of a model whose train"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "'pytorch_model_fsdp_0' is a part of a model"),
        ("__0_0.distcp", "gather the weights first, with accelerate merge-weights"),
        ("notes.md", "expected model.safetensors or model.safetensors.index.json"),
    ],
)
def test_what_training_leaves(tmp_path: Path, inside: str, words: str) -> None:
    (tmp_path / "a" / inside).parent.mkdir(parents=True)
    (tmp_path / "a" / inside).write_bytes(b"0123")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "a")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
