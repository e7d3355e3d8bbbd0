"""LoRA adapters as seeds: compared with peft's own merge of the same adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from genepool.checkpoints.family import find_source, open_source
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.errors import CheckpointError
from tests import language
from tests.build import bits
from tests.late import peft

# transformers and peft warn of their own future.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def gpt2(seed: int) -> Any:
    config = transformers.GPT2Config(
        vocab_size=48, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    return language.build(transformers.GPT2LMHeadModel, config, seed)


def adapted(directory: Path, model: Any, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    """Save a base and an adapter with random weights; what peft merges them to."""
    base = model.to(dtype)
    language.save(base, directory / "base")
    wrapped = peft.get_peft_model(base, peft.LoraConfig(**options))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name or parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
                if "magnitude" in name:
                    parameter.abs_().add_(0.5)
    wrapped.save_pretrained(directory / "adapter")
    return wrapped.merge_and_unload().state_dict()


def opened(directory: Path) -> Checkpoint:
    return open_source(find_source("adapter", directory, base="base"))


def floats(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, Any]:
    return checkpoint.tensors[name].floats()


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (language.llama, {"r": 4, "lora_alpha": 10, "target_modules": ["q_proj", "up_proj"]}),
    "every linear layer": (language.llama, {"r": 2, "target_modules": "all-linear"}),
    "rank stabilised": (
        language.llama,
        {"r": 8, "use_rslora": True, "target_modules": ["v_proj", "down_proj"]},
    ),
    "patterns": (
        language.llama,
        {
            "r": 4,
            "target_modules": ["q_proj", "k_proj", "o_proj"],
            "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.o_proj": 6},
            "alpha_pattern": {"layers.0.self_attn.k_proj": 32},
        },
    ),
    "whole modules": (
        language.llama,
        {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    ),
    "embedding": (language.llama, {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "dora": (
        language.llama,
        {"r": 4, "use_dora": True, "target_modules": ["q_proj", "k_proj", "down_proj"]},
    ),
    "fan in, fan out": (
        gpt2,
        {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
    "dora on an embedding": (
        language.llama,
        {"r": 4, "use_dora": True, "target_modules": ["embed_tokens", "v_proj"]},
    ),
    "dora, fan in, fan out": (
        gpt2,
        {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "all biases": (gpt2, {"r": 4, "target_modules": ["c_attn"], "bias": "all"}),
    "biases of what is adapted": (gpt2, {"r": 4, "target_modules": ["c_fc"], "bias": "lora_only"}),
    "biases of their own": (
        gpt2,
        {"r": 4, "lora_alpha": 12, "target_modules": ["c_attn"], "lora_bias": True},
    ),
    "biases of both kinds": (
        gpt2,
        {"r": 4, "target_modules": ["c_fc"], "lora_bias": True, "bias": "all"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_is_what_peft_merges(tmp_path: Path, case: str) -> None:
    make, options = CASES[case]
    expected = adapted(tmp_path, make(0), torch.float32, **options)
    base = open_checkpoint(tmp_path / "base")
    found = opened(tmp_path)
    assert found.name == "adapter"
    assert found.directory == tmp_path / "base"
    assert set(found.tensors) == set(base.tensors)
    changed = 0
    for name, tensor in found.tensors.items():
        np.testing.assert_allclose(floats(found, name), expected[name].numpy(), 2e-5, 1e-6, name)
        assert tensor.dtype == base.tensors[name].dtype
        if not np.array_equal(tensor.raw, base.tensors[name].raw):
            changed += 1
            assert not np.allclose(floats(found, name), floats(base, name), atol=1e-3), name
        else:
            # What does not change is not copied: it lies in the base's own mapping.
            assert tensor is found.tensors[name]
            assert any(t is tensor for file in found.files[:-1] for t in file.tensors.values())
    assert changed == len(found.files[-1].tensors) > 0
    assert found.digest() != base.digest()


TIED: dict[str, tuple[dict[str, Any], bool]] = {
    "embeddings alone": ({"modules_to_save": ["embed_tokens"]}, False),
    "embeddings and head": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "head alone": ({"modules_to_save": ["lm_head"]}, False),
    "low rank on the embeddings": ({"target_modules": ["embed_tokens", "q_proj"]}, False),
    "low rank on the head": ({"target_modules": ["lm_head", "q_proj"]}, False),
    "both, kept equal": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "low rank, kept equal": (
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        True,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TIED)
@pytest.mark.parametrize("said", [True, False])
def test_embeddings_that_are_the_head(tmp_path: Path, case: str, said: bool) -> None:
    options, folds = TIED[case]
    model = language.llama(0, tie_word_embeddings=True)
    adapted(tmp_path, model, torch.float32, **{"r": 2, "target_modules": ["q_proj"], **options})
    if not said:  # Tied by default: transformers does not write it.
        file = tmp_path / "base/config.json"
        content = {**json.loads(file.read_text()), "model_type": "gemma"}
        file.write_text(json.dumps({k: v for k, v in content.items() if "tie_word" not in k}))
    if not folds:
        with pytest.raises(CheckpointError, match=r"ties 'model.embed_tokens.weight' to its outp"):
            opened(tmp_path)
        return
    base, found = open_checkpoint(tmp_path / "base"), opened(tmp_path)
    assert set(found.tensors) == set(base.tensors)
    name = "model.embed_tokens.weight"
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    module = "base_model.model.model.embed_tokens"
    if "modules_to_save" in options:
        expected = adapter[f"{module}.weight"].numpy()
    else:
        a, b = (adapter[f"{module}.lora_embedding_{x}"].double() for x in "AB")
        expected = floats(base, name) + 4 * (b @ a).T.numpy()
    np.testing.assert_allclose(floats(found, name), expected, 2e-5, 1e-6)
    assert not np.allclose(floats(base, name), expected, atol=1e-3)


TOKENS: dict[str, tuple[bool, dict[str, Any], bool]] = {
    "a list": (False, {"trainable_token_indices": [40, 3, 47]}, True),
    "by module": (
        False,
        {"trainable_token_indices": {"embed_tokens": [0, 7], "lm_head": [7, 1, 9]}},
        True,
    ),
    "of one module alone": (False, {"trainable_token_indices": {"lm_head": [2]}}, True),
    "of embeddings that are the head": (True, {"trainable_token_indices": [40, 3]}, True),
    "of both, alike": (
        True,
        {
            "trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 2]},
            "ensure_weight_tying": True,
        },
        True,
    ),
    "of both, differently": (
        True,
        {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [2, 3]}},
        False,
    ),
    "of the head alone": (True, {"trainable_token_indices": {"lm_head": [2]}}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_tokens(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    tied, options, folds = TOKENS[case]
    model = language.llama(0, tie_word_embeddings=tied)
    expected = adapted(tmp_path, model, dtype, r=2, target_modules=["v_proj"], **options)
    if not folds:
        with pytest.raises(CheckpointError, match=r"ties 'model.embed_tokens.weight' to its outp"):
            opened(tmp_path)
        return
    base, found = open_checkpoint(tmp_path / "base"), opened(tmp_path)
    assert set(found.tensors) == set(base.tensors)
    rows = options["trainable_token_indices"]
    by_module = rows if isinstance(rows, dict) else {"embed_tokens": rows}
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & set(found.tensors):
        # Nothing is computed: the very numbers of peft.
        np.testing.assert_array_equal(floats(found, name), expected[name].float().numpy(), name)
        changed = (floats(found, name) != floats(base, name)).any(axis=1).nonzero()[0]
        assert changed.tolist() == sorted(by_module.get(name.split(".")[-2], [])), name
    adapted_name = "model.layers.0.self_attn.v_proj.weight"
    assert not np.array_equal(floats(found, adapted_name), floats(base, adapted_name))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [49, 51]},
    ],
    ids=["nothing else", "whole modules", "tokens"],
)
def test_a_vocabulary_that_was_resized_in_training(
    tmp_path: Path, tied: bool, options: dict[str, Any]
) -> None:
    """The line says what to do, and doing it helps."""
    language.save(language.llama(0, tie_word_embeddings=tied), tmp_path / "small")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    torch.manual_seed(5)
    model.resize_token_embeddings(52, mean_resizing=False)
    if tied and "modules_to_save" in options:
        options = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    options = {"r": 2, "target_modules": ["q_proj"], **options}
    # Where peft looks whether the vocabulary was resized.
    model.config._name_or_path = model.name_or_path = str(tmp_path / "small")
    expected = adapted(tmp_path, model, torch.float32, **options)
    with pytest.raises(
        CheckpointError,
        match=r"resized in training\? Then resize the base .*resize_token_embeddings\(52\)",
    ):
        open_source(find_source("adapter", tmp_path, base="small"))
    found = opened(tmp_path)
    for name in found.tensors:
        np.testing.assert_allclose(floats(found, name), expected[name].numpy(), 2e-5, 1e-6, name)
    assert found.tensors["model.embed_tokens.weight"].shape == (52, 32)


def under(directory: Path, file: str, old: str, new: str) -> None:
    """Call the beginnings of all tensors of a file otherwise."""
    path = directory / file
    tensors = {new + n.removeprefix(old): t for n, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["thinker.text.", "transformer.", "a.b.c.model.", ""])
def test_adapters_whose_modules_bear_other_prefixes(tmp_path: Path, prefix: str) -> None:
    adapted(tmp_path, language.llama(0), torch.float32, r=2, target_modules="all-linear")
    expected = opened(tmp_path).digest()
    names = ("base_model.model.model.", f"base_model.model.{prefix}")
    under(tmp_path / "adapter", "adapter_model.safetensors", *names)
    assert opened(tmp_path).digest() == expected


def test_a_prefix_that_fits_only_one_part_of_the_base(tmp_path: Path) -> None:
    adapted(tmp_path, language.llama(0), torch.float32, r=2, target_modules="all-linear")
    expected = opened(tmp_path)
    base = tmp_path / "base/model.safetensors"
    whole = load_file(base)

    def with_tower(names: list[str]) -> None:
        tower = {n.replace("model.", "vision.", 1): whole[n].clone() for n in names}
        save_file({**whole, **tower}, base, metadata={"format": "pt"})

    layers = sorted(n for n in whole if ".layers." in n)
    names = ("base_model.model.model.", "base_model.model.thinker.")
    under(tmp_path / "adapter", "adapter_model.safetensors", *names)
    # The tower has fewer layers: what the adapter changes is not all there.
    with_tower([n for n in layers if ".layers.0." in n])
    found = opened(tmp_path)
    for name, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[name].raw, tensor.raw), name
    assert len(found.tensors) > len(expected.tensors)
    # It has the same modules: either may be meant.
    with_tower(layers)
    with pytest.raises(
        CheckpointError, match=r"changes 'thinker.layers.0.*does not hold.*merge_and_unload\(\)"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_convolutions(tmp_path: Path, dora: bool) -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 1))
    (tmp_path / "base").mkdir()
    save_file(net.state_dict(), tmp_path / "base" / "model.safetensors")
    wrapped = peft.get_peft_model(
        net, peft.LoraConfig(r=2, target_modules=["0", "1"], use_dora=dora)
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
                if "magnitude" in name:
                    parameter.abs_().add_(0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    expected = wrapped.merge_and_unload().state_dict()
    found, base = opened(tmp_path), open_checkpoint(tmp_path / "base")
    for name in expected:
        np.testing.assert_allclose(floats(found, name), expected[name].numpy(), 2e-5, 1e-6, name)
    assert not np.allclose(floats(found, "0.weight"), floats(base, "0.weight"), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_rounding_to_the_dtype_of_the_base(tmp_path: Path, dtype: torch.dtype) -> None:
    adapted(tmp_path, language.llama(0), dtype, r=4, lora_alpha=6, target_modules=["q_proj"])
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    base = load_file(tmp_path / "base/model.safetensors")
    found = opened(tmp_path)
    prefix = "model.layers.1.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{prefix}.lora_{x}.weight"].double() for x in "AB")
    exact = base[f"{prefix}.weight"].double() + 6 / 4 * (b @ a)
    expected = exact.float().to(dtype)
    raw = found.tensors[f"{prefix}.weight"].raw
    assert (raw.view(np.int16) == bits(expected)).mean() > 0.999
    half_steps = (torch.from_numpy(floats(found, f"{prefix}.weight")).double() - exact).abs()
    unit = exact.abs() * (2**-8 if dtype == torch.bfloat16 else 2**-11)
    assert bool((half_steps <= unit * 1.001 + 1e-7).all())


def test_the_cache_serves_again_and_is_safe_to_lose(tmp_path: Path, cache: Path) -> None:
    adapted(tmp_path, language.llama(0), torch.bfloat16, r=4, target_modules=["q_proj"])
    digest = opened(tmp_path).digest()
    (file,) = (cache / "adapters").glob("*.safetensors")
    before = file.stat().st_mtime_ns
    assert opened(tmp_path).digest() == digest
    assert file.stat().st_mtime_ns == before
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert opened(tmp_path).digest() == digest
    assert file.read_bytes() == whole
    file.unlink()
    assert opened(tmp_path).digest() == digest
    # Another alpha is another seed.
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 3}))
    assert opened(tmp_path).digest() != digest


def test_another_base_of_the_same_name_size_and_date_is_folded_anew(tmp_path: Path) -> None:
    options: dict[str, Any] = {"r": 2, "target_modules": ["q_proj"]}
    adapted(tmp_path, language.llama(1), torch.float32, **options)
    base = tmp_path / "base/model.safetensors"
    date = base.stat().st_mtime_ns
    before = opened(tmp_path)
    language.save(language.llama(2), tmp_path / "base")
    os.utime(base, ns=(date, date))
    after = opened(tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert after.digest() != before.digest()
    assert not np.allclose(floats(after, name), floats(before, name))


def test_the_base_that_the_adapter_names(tmp_path: Path) -> None:
    adapted(tmp_path, language.llama(0), torch.float32, r=4, target_modules=["q_proj"])
    config = tmp_path / "adapter/adapter_config.json"
    content = json.loads(config.read_text())
    with pytest.raises(CheckpointError, match="names no base model"):
        find_source("adapter", tmp_path)
    config.write_text(json.dumps({**content, "base_model_name_or_path": "base"}))
    source = find_source("adapter", tmp_path)
    assert source.base == str(tmp_path / "base")
    assert open_source(source).digest() == opened(tmp_path).digest()
    config.write_text(
        json.dumps({**content, "base_model_name_or_path": "org/model", "revision": "v2"})
    )
    assert find_source("adapter", tmp_path).base == "org/model@v2"


def test_a_base_that_is_not_the_one_that_the_adapter_names_is_told(tmp_path: Path) -> None:
    adapted(tmp_path, language.llama(0), torch.float32, r=4, target_modules=["q_proj"])
    config = tmp_path / "adapter/adapter_config.json"
    content = json.loads(config.read_text())

    def told(named: str, revision: str | None = None, base: str = "base") -> tuple[str, ...]:
        said = {**content, "base_model_name_or_path": named, "revision": revision}
        config.write_text(json.dumps(said))
        return open_source(find_source("adapter", tmp_path, base=base)).notices

    for named in (
        "org/base",
        "org/Base",
        "/elsewhere/base",
        "C:\\models\\base\\",
        str(tmp_path / "base"),
    ):
        assert told(named) == ()
    assert told("org/base", "v2") == ()  # A folder does not say of which revision it is.
    for named in ("org/base-instruct", "/elsewhere/checkpoint-500", "C:\\models\\other"):
        (line,) = told(named)
        assert str(tmp_path / "base") in line
        assert named.rpartition("/")[2] in line
    # A folder that is there, and is another one of the same name.
    other = tmp_path / "other/base"
    language.save(language.llama(1), other)
    (line,) = told(str(other))
    assert str(other) in line
    assert str(tmp_path / "base") in line
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "base")
    assert told(str(link)) == ()


@pytest.mark.parametrize(
    ("changes", "lost", "told"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "layers.1.self_attn.v_proj", 1),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "lm_head", 1),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens", 1),
        # There, what was trained is not known by name, or is not all of that name.
        ({"target_modules": r".*\.(q|v)_proj"}, "layers.1.self_attn.v_proj", 0),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0]}, "no such module", 0),
    ],
)
def test_modules_that_were_trained_and_are_not_there_are_told(
    tmp_path: Path, changes: dict[str, Any], lost: str, told: int
) -> None:
    adapted(tmp_path, language.llama(0), torch.float32, r=4, **changes)
    assert opened(tmp_path).notices == ()
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if lost not in n}, file)
    notices = opened(tmp_path).notices
    assert len(notices) == told
    assert all("holds nothing for '" in line and f"{lost}.weight'" in line for line in notices)


def test_an_adapter_of_the_hub_is_called_as_it_is_there(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--skill/snapshots/0123"
    adapted(tmp_path, language.llama(0), torch.float32, r=4, target_modules=["q_proj"])
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "adapter").rename(snapshot)
    assert open_source(find_source(str(snapshot), tmp_path, base="base")).name == "skill"
