"""Hostile and unfit seeds: each ends in one clear line, exit code 1 or 2, and no files written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from genepool.checkpoints.family import find_source, open_source
from tests.cli import run_cli
from tests.runs import write_run

CONFIG = {"model_type": "llama", "vocab_size": 6, "hidden_size": 4, "tie_word_embeddings": False}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "base"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def model(directory: Path, seed: int = 0, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {
        "model.embed_tokens.weight": floats(6, 4, seed=seed),
        "model.layers.0.mlp.weight": floats(4, 8, seed=seed + 1),
        "lm_head.weight": floats(6, 4, seed=seed + 2),
    }
    save_file(arrays, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
    words = {f"w{n}": n for n in range(6)}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    return directory


def adapter(directory: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {
        "model.layers.0.mlp.lora_A.weight": floats(2, 8),
        "model.layers.0.mlp.lora_B.weight": floats(4, 2),
        **(tensors or {}),
    }
    named = {f"base_model.model.{k}": v for k, v in arrays.items() if v is not None}
    save_file(named, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({**ADAPTER, **config}))
    return directory


def refused(arguments: list[str], message: str) -> str:
    """Run a command that must fail, and what it said."""
    code, out, error = run_cli(arguments)
    assert code in (1, 2), (code, out, error)
    assert out == ""
    (line,) = error.splitlines()
    assert line.startswith("genepool: ")
    assert line.isprintable()
    assert message in line, line
    assert not Path("out").exists()
    return line


def merging(a: str, b: str, *more: str) -> list[str]:
    return ["merge", a, b, "--ratio", "0.5", "-o", "out", *more]


Adapters = dict[str, tuple[dict[str, Any], dict[str, Any], str]]
# What is changed in the adapter's tensors and configuration, and what is said.
ADAPTERS: Adapters = {
    "IA3": ({}, {"peft_type": "IA3"}, 'peft_type is "IA3"; genepool folds adapters of type'),
    "LoHa": ({}, {"peft_type": "LOHA"}, 'peft_type is "LOHA"'),
    "no type": ({}, {"peft_type": None}, "peft_type is null"),
    "some other bias": ({}, {"bias": "odd"}, 'bias is "odd", which genepool does not fold'),
    "a bias that the file lacks": (
        {},
        {"lora_bias": True},
        "lora_bias is true, and the file lacks",
    ),
    "a bias that is not announced": (
        {"model.layers.0.mlp.lora_B.bias": floats(4)},
        {},
        "lora_bias is false, and the file holds",
    ),
    "a bias that the base lacks": (
        {"model.layers.0.mlp.lora_B.bias": floats(4)},
        {"lora_bias": True},
        "changes 'model.layers.0.mlp.bias', which the base",
    ),
    "an option of the future": ({}, {"spin": {"a": 1}}, 'spin is {"a": 1}, which genepool does'),
    "replicated layers": ({}, {"layer_replication": [[0, 1]]}, "layer_replication is [[0, 1]]"),
    "parameters": ({}, {"target_parameters": ["x"]}, 'target_parameters is ["x"]'),
    "PiSSA": ({}, {"init_lora_weights": "pissa"}, "also changes the base's weights"),
    "a rank of text": ({}, {"r": "2"}, 'r: expected a whole number from 1; got "2"'),
    "a rank of nothing": ({}, {"r": 0}, "r: expected a whole number from 1; got 0"),
    "another rank": ({}, {"r": 3}, "gives the rank 3"),
    "an alpha of text": ({}, {"lora_alpha": "x"}, 'lora_alpha: expected a number; got "x"'),
    "patterns in a list": ({}, {"rank_pattern": ["a"]}, "rank_pattern: expected an object"),
    "a pattern that is none": ({}, {"alpha_pattern": {"(": 1}}, "'(' is not a regular expression"),
    "no B": ({"model.layers.0.mlp.lora_B.weight": None}, {}, "lacks 'lora_B'"),
    "DoRA without magnitudes": ({}, {"use_dora": True}, "use_dora is true, and the file lacks"),
    "magnitudes without DoRA": (
        {"model.layers.0.mlp.lora_magnitude_vector": floats(4)},
        {},
        "use_dora is false, and the file holds",
    ),
    "too few magnitudes": (
        {"model.layers.0.mlp.lora_magnitude_vector": floats(3)},
        {"use_dora": True},
        "lora_magnitude_vector has shape [3]; expected 4 values",
    ),
    "of another base, by shape": (
        {"model.layers.0.mlp.lora_A.weight": floats(2, 9)},
        {},
        "is the adapter of another base?",
    ),
    "of another base, by name": (
        {
            "model.layers.7.mlp.lora_A.weight": floats(2, 8),
            "model.layers.7.mlp.lora_B.weight": floats(4, 2),
        },
        {},
        "changes 'model.layers.7.mlp.weight', which the base",
    ),
    "a resized vocabulary": (
        {"lm_head.weight": floats(8, 4)},
        {},
        "has shape [8, 4], and 'lm_head.weight' of the base",
    ),
    "whole numbers": (
        {"model.layers.0.mlp.lora_A.weight": np.ones((2, 8), dtype=np.int64)},
        {},
        "has dtype I64; expected one of F64, F32, F16, BF16",
    ),
    "trained tokens that nothing names": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": floats(1, 4)},
        {},
        "has shape [1, 4]; expected a row of 'model.embed_tokens.weight' of the base, of shape "
        "[6, 4], for each of 0 trainable_token_indices",
    ),
    "trained tokens of another module": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": floats(1, 4)},
        {"trainable_token_indices": {"lm_head": [1]}},
        "for each of 0 trainable_token_indices",
    ),
    "a trained token twice": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": floats(2, 4)},
        {"trainable_token_indices": [3, 3]},
        "for each of 2 trainable_token_indices",
    ),
    "trained tokens beyond the vocabulary": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": floats(1, 4)},
        {"trainable_token_indices": [6]},
        "model.resize_token_embeddings(7)",
    ),
    "trained tokens of text": (
        {},
        {"trainable_token_indices": {"embed_tokens": ["a"]}},
        "trainable_token_indices: expected whole numbers from 0, or lists of them by module",
    ),
    "trained tokens below 0": ({}, {"trainable_token_indices": [-1]}, "expected whole numbers"),
    "trained tokens of a number": ({}, {"trainable_token_indices": 7}, "expected whole numbers"),
    "low rank inside trained tokens": (
        {"model.embed_tokens.token_adapter.base_layer.lora_embedding_A": floats(2, 6)},
        {},
        "a kind of tensor that genepool does not fold",
    ),
    "a base that is missing": ({}, {"base_model_name_or_path": "./gone"}, "base of the adapter"),
    "a base that is itself": ({}, {"base_model_name_or_path": "adapter"}, "is an adapter too"),
    "no base": ({}, {"base_model_name_or_path": None}, "names no base model"),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_that_cannot_be_folded(tmp_path: Path, case: str) -> None:
    tensors, config, message = ADAPTERS[case]
    model(tmp_path / "base")
    adapter(tmp_path / "adapter", tensors, **config)
    line = refused(merging("adapter", "base"), message)
    assert "adapter" in line
    assert not list(tmp_path.glob("cache/adapters/*.safetensors"))
    write_run(tmp_path, seeds=["adapter", "base"])
    assert "run.yaml, line" in refused(["evolve", "run.yaml"], message)


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "configuration, no JSON": (
        lambda d: (d / "adapter_config.json").write_text("{"),
        "adapter_config.json: cannot be read as JSON",
    ),
    "configuration, a list": (
        lambda d: (d / "adapter_config.json").write_text("[1]"),
        "expected a JSON object; got list",
    ),
    "configuration, a key twice": (
        lambda d: (d / "adapter_config.json").write_text('{"r": 1, "r": 2}'),
        "the name 'r' occurs twice",
    ),
    "weights cut short": (
        lambda d: cut(d / "adapter_model.safetensors", 200),
        "not a valid safetensors file",
    ),
    "weights missing": (
        lambda d: (d / "adapter_model.safetensors").unlink(),
        "holds adapter_config.json but no adapter_model.safetensors",
    ),
    "weights that link out": (
        lambda d: (
            (d / "adapter_model.safetensors").rename(d.parent / "x.safetensors"),
            (d / "adapter_model.safetensors").symlink_to("../x.safetensors"),
        ),
        "refused, because it links out of its directory",
    ),
    "a pickle": (
        lambda d: (d / "adapter_model.safetensors").rename(d / "adapter_model.bin"),
        "convert it with: python -c ",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_adapters(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    model(tmp_path / "base")
    damage(adapter(tmp_path / "adapter"))
    refused(merging("adapter", "base"), message)


def test_an_adapter_that_unties(tmp_path: Path) -> None:
    model(tmp_path / "base", tie_word_embeddings=True)
    arrays = {"model.embed_tokens.weight": floats(6, 4), "model.layers.0.mlp.weight": floats(4, 8)}
    save_file(arrays, tmp_path / "base/model.safetensors")
    adapter(tmp_path / "adapter", {"model.embed_tokens.weight": floats(6, 4, seed=9)})
    refused(merging("adapter", "base"), "to its output head, so that folding would change both")


def test_a_base_where_none_belongs(tmp_path: Path) -> None:
    model(tmp_path / "base")
    write_run(tmp_path, seeds=[{"path": "base", "base": "base"}])
    refused(["evolve", "run.yaml"], "a base is given, but this is no adapter")


def test_no_place_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "base")
    adapter(tmp_path / "adapter")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "file"))
    refused(merging("adapter", "base"), "the cache cannot be written")


@pytest.mark.slow
def test_a_pickle_and_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = tmp_path / "with 'quotes' $HOME"
    folder.mkdir()
    base = load_file(model(tmp_path / "base") / "model.safetensors")
    names = sorted(base)
    torch.save({name: base[name] for name in names[:2]}, folder / "pytorch_model-1.bin")
    torch.save({name: base[name] for name in names[2:]}, folder / "pytorch_model-2.bin")
    torch.save({"step": 3}, folder / "optimizer.pt")
    line = refused(merging(str(folder), "base"), "may hold a pickle, which genepool does not load")
    command = shlex.split(line.split("convert it with: ")[1])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert (
        open_source(find_source(str(folder), tmp_path)).digest()
        == open_source(find_source("base", tmp_path)).digest()
    )
    single = folder / "pytorch_model-1.bin"
    line = refused(merging(str(single), "base"), "a zip archive, as torch.save writes it")
    command = shlex.split(line.split("convert it with: ")[1])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert set(load_file(folder / "pytorch_model-1-converted.safetensors")) == set(names[:2])


@pytest.mark.parametrize("around", ["state_dict", "model", "module", None])
def test_the_command_converts_what_training_saves(tmp_path: Path, around: str | None) -> None:
    weights = load_file(model(tmp_path / "base") / "model.safetensors")
    kept = {"epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(weights if around is None else {around: weights, **kept}, tmp_path / "last.ckpt")
    line = refused(merging("last.ckpt", "base"), "a zip archive, as torch.save writes it")
    code = shlex.split(line.split("convert it with: ")[1])[2]
    exec(compile(code, "command", "exec"), {})
    converted = load_file(tmp_path / "last-converted.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gone.gguf", None, "no such file or directory"),
        ("folder.gguf/x.gguf", None, "no such file or directory"),
        ("text.gguf", b"not a model", "named like a GGUF file, but does not begin like one"),
        ("empty.gguf", b"", "does not begin like one"),
        ("short.gguf", b"GGUF\x03\x00\x00\x00", "transformers cannot unpack this GGUF file"),
        ("wild.gguf", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "transformers cannot unpack"),
    ],
)
def test_gguf_files_that_are_none(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    model(tmp_path / "base")
    if data is not None:
        (tmp_path / name).write_bytes(data)
    refused(merging(name, "base"), message)
    assert not list(tmp_path.glob("cache/gguf/*/*"))


def test_a_gguf_file_that_is_cut_short(tmp_path: Path) -> None:
    from tests.run.test_language_seeds import write_gguf

    model(tmp_path / "base")
    write_gguf(tmp_path / "model.gguf")
    whole = (tmp_path / "model.gguf").read_bytes()
    for share in (0.02, 0.3, 0.9):
        (tmp_path / "model.gguf").write_bytes(whole[: int(len(whole) * share)])
        refused(merging("model.gguf", "base"), "transformers cannot unpack this GGUF file")
        assert not list(tmp_path.glob("cache/gguf/*/*"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.gguf").write_bytes(whole)
    refused(merging("folder", "base"), "it holds 'model.gguf': name that file itself")


def test_an_adapter_in_a_gguf_file_is_no_model(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.ones((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(merging("lora.gguf", "lora.gguf"), "holds an adapter and no model; give the adapter")


@pytest.mark.slow
def test_gguf_files_that_hold_less_or_more_than_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    from tests.run.test_language_seeds import write_gguf

    add = gguf.GGUFWriter.add_tensor

    def write(name: str, left_out: str = "-", further: str = "", size: int = 0) -> None:
        def some(writer: Any, tensor: str, values: Any) -> None:
            if not tensor.startswith(left_out):
                add(writer, tensor, values)
            if further and tensor == "output_norm.weight":
                add(writer, further, np.ones(size, dtype=np.float32))

        monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", some)
        write_gguf(tmp_path / name)

    # transformers made up what was missing, other numbers each time.
    for name, part in (("x-00001-of-00002.gguf", "blk.1."), ("y.gguf", "output_norm")):
        write(name, part)
        refused(merging(name, name), "is it one of several parts of a model")
        assert not list(tmp_path.glob("cache/gguf/*/*"))
    write("biases.gguf", further="blk.0.attn_q.bias", size=32)
    write("positions.gguf", further="rope_freqs.weight", size=4)
    for name, told in (("biases", "over 32 numbers"), ("positions", "'rope_freqs.weight'")):
        for _ in range(2):
            (notice,) = open_source(find_source(f"{name}.gguf", tmp_path)).notices
            assert "transformers passes over" in notice
            assert told in notice


def test_one_part_of_a_model_is_no_model(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        whole = model(tmp_path / name, seed=number) / "model.safetensors"
        whole.rename(whole.with_name("model-00001-of-00002.safetensors"))
    refused(merging("a", "b"), "one of several parts of a model, and no model.safetensors.index")
    index = {"weight_map": {"x": "model-00002-of-00002.safetensors"}}
    (tmp_path / "a/other.safetensors.index.json").write_text(json.dumps(index))
    refused(merging("a", "b"), "names the shard 'model-00002-of-00002.safetensors', which is miss")
    part = "model-00001-of-00002.safetensors"
    code, _, error = run_cli(merging(f"a/{part}", f"b/{part}"))
    assert code == 0
    assert f"a/{part}: is one of several parts of a model, and nothing else of it" in error
    for name in ("a", "b"):
        file = tmp_path / name / part
        file.rename(file.with_name("model-00001-of-00001.safetensors"))
        (file.parent / "other.safetensors.index.json").unlink(missing_ok=True)
    assert not open_source(find_source("a", tmp_path)).notices


@pytest.mark.parametrize("kind", ["two modules", "two weights", "a module and a weight", "depth"])
def test_an_adapter_of_a_larger_model(tmp_path: Path, kind: str) -> None:
    bare = {"layers.0.mlp.weight": floats(4, 8), "mlp.weight": floats(4, 8, seed=1)}
    (tmp_path / "base").mkdir()
    save_file(bare, tmp_path / "base/model.safetensors")
    parts = {"lora_A.weight": floats(2, 8), "lora_B.weight": floats(4, 2)}
    whole = {"weight": floats(4, 8)}
    one, two = {
        "two modules": (parts, parts),
        "two weights": (whole, whole),
        "a module and a weight": (parts, whole),
        "depth": ({}, parts),
    }[kind]
    places = (
        "vision.layers.0.mlp",
        "text.layers.0.mlp" if kind != "depth" else "text.layers.1.mlp",
    )
    named = {
        f"{p}.{n}": v for p, held in zip(places, (one, two), strict=True) for n, v in held.items()
    }
    absent = {"model.layers.0.mlp.lora_A.weight": None, "model.layers.0.mlp.lora_B.weight": None}
    adapter(tmp_path / "adapter", {**absent, **named})
    refused(
        merging("adapter", "base"),
        "which the base" if kind == "depth" else "would both change 'layers.0.mlp.weight'",
    )


def test_factors_of_adapters_that_merge_as_they_are(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        adapter(tmp_path / name, {"model.layers.0.mlp.lora_B.weight": floats(4, 2, seed=seed)})
    file = "adapter_model.safetensors"
    code, _, error = run_cli(merging(f"a/{file}", f"b/{file}"))
    assert code == 0
    assert f"a/{file}: holds the factors of a LoRA, which merge as they are" in error


def test_the_file_of_an_adapter(tmp_path: Path) -> None:
    model(tmp_path / "base")
    adapter(tmp_path / "own")
    file, told = "own/adapter_model.safetensors", "is the file of an adapter; name the folder"
    refused(merging("base", file), told)
    refused(merging(file, "base", "--partial"), told)
    refused(
        merging("base", file), "trained on: {path: ..., base: ...} in a run file, --adapter-base"
    )
    refused(merging(file, "base", "--adapter-base", "base"), "name the folder that holds it")


def test_an_adapter_beside_whole_weights_is_told(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        model(tmp_path / name, seed=number)
    (tmp_path / "b/adapter_config.json").write_text(json.dumps(ADAPTER))
    code, _, error = run_cli(merging("b", "a"))
    assert code == 0
    assert "b: holds whole weights and an adapter's adapter_config.json" in error
    assert not Path("out/adapter_config.json").exists()


def hub(tmp_path: Path, arguments: list[str], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a process for which the Hub is a port that is closed."""
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", "genepool", *arguments],
        capture_output=True,
        text=True,
        env={**kept, **closed, **environment},
        cwd=tmp_path,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_id_that_cannot_be_reached(tmp_path: Path, environment: dict[str, str]) -> None:
    model(tmp_path / "base")
    code, error = hub(tmp_path, merging("some-org/some-model", "base"), **environment)
    assert code == 1
    (line,) = error.splitlines()
    assert "'some-org/some-model': no such file or directory; as an id of the" in line
    assert "hf download some-org/some-model" in line


@pytest.mark.slow
def test_a_model_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    model(tmp_path / "base")
    repository = tmp_path / "hub/hub/models--some-org--some-model"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    model(snapshot, seed=5)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123456789" * 4)
    for name in ("some-org/some-model", "some-org/some-model@main"):
        out = name[-4:]
        arguments = ["merge", name, "base", "--ratio", "0", "-o", out, "--json"]
        code, error = hub(tmp_path, arguments, HF_HUB_OFFLINE="1")
        assert (code, error) == (0, "")
        found = load_file(tmp_path / out / "model.safetensors")
        assert all(
            torch.equal(found[name], tensor)
            for name, tensor in load_file(snapshot / "model.safetensors").items()
        )
    code, error = hub(tmp_path, merging("some-org/some-model@v9", "base"), HF_HUB_OFFLINE="1")
    assert code == 1
    assert "'some-org/some-model@v9'" in error
    # A folder of that name here is meant, if there is one.
    (tmp_path / "some-org").mkdir()
    refused(
        merging("some-org/some-model", "base"), "some-org/some-model: no such file or directory"
    )


def test_seeds_that_do_not_fit(tmp_path: Path) -> None:
    model(tmp_path / "base")
    model(tmp_path / "arch", model_type="qwen2")
    refused(merging("base", "arch"), 'model_type is "qwen2" against "llama"')
    model(tmp_path / "vocabulary", vocab_size=7)
    refused(merging("base", "vocabulary"), "vocab_size is 7 against 6")
    words = {f"w{n}": n for n in (0, 1, 2, 4, 3, 5)}
    swapped = {**words, "w3": 4, "w4": 3}
    (model(tmp_path / "tokens") / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": swapped}})
    )
    refused(merging("base", "tokens"), "token 'w3' has id 4 against 3")
    (model(tmp_path / "none") / "tokenizer.json").unlink()
    refused(
        merging("base", "none", "--vocabulary", "common"), "needs a config.json with vocab_size"
    )
    (model(tmp_path / "broken") / "config.json").write_text('{"a"')
    refused(merging("base", "broken"), "config.json: cannot be read as JSON")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    model(tmp_path / "base")
    (tmp_path / "other").mkdir()
    save_file({"x.layers.0.weight": floats(3, 3)}, tmp_path / "other/model.safetensors")
    refused(merging("base", "other", "--partial"), "shares no tensor of the same name and shape")
    refused(merging("base", "other", "--rename", "y.=z."), "'y.=z.': with it no model has more")
    refused(merging("base", "other", "--rename", "y."), "--rename: expected OLD=NEW")
    two = {"lm_head.weight": floats(2), "a.weight": floats(2), "a.lm_head.weight": floats(2)}
    save_file(two, tmp_path / "other/model.safetensors")
    refused(merging("base", "other", "--rename", "a.=b."), "'a.=b.': with it no model has more")
    two["x.lm_head.weight"] = floats(2)
    del two["lm_head.weight"]
    save_file(two, tmp_path / "other/model.safetensors")
    both = ("--rename", "a.=", "--rename", "x.=")
    refused(merging("base", "other", *both), "every tensor needs a name of its own")
    code, _, error = run_cli(merging("base", "other", "--vocabulary", "some"))
    assert code == 2
    assert "'same', 'common'" in error
    write_run(tmp_path, seeds=[{"path": "base", "rename": {"a": 1}}])
    refused(["evolve", "run.yaml"], "seeds.0.rename.a")
    write_run(tmp_path, seeds=[{"path": ""}])
    refused(["evolve", "run.yaml"], "seeds.0.path")


GUISES: dict[str, Callable[[Path], str]] = {
    "an adapter that adds nothing": lambda here: str(
        adapter(here / "other", {"model.layers.0.mlp.lora_B.weight": floats(4, 2) * 0})
    ),
    "a link": lambda here: ((here / "other").symlink_to(here / "base"), str(here / "other"))[1],
    "a roundabout path": lambda here: str(here / "base/../base/."),
    "files of other sizes": lambda here: _in_two_files(here / "base", here / "other"),
}


def _in_two_files(directory: Path, target: Path) -> str:
    held = load_file(directory / "model.safetensors")
    target.mkdir()
    where: dict[str, str] = {}
    for number, (name, tensor) in enumerate(sorted(held.items())):
        where[name] = f"model-{number + 1:05d}-of-{len(held):05d}.safetensors"
        save_file({name: tensor.numpy()}, target / where[name])
    index = {"metadata": {}, "weight_map": where}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json"):
        (target / name).write_bytes((directory / name).read_bytes())
    return str(target)


@pytest.mark.parametrize("guise", GUISES)
def test_one_model_in_two_guises(tmp_path: Path, guise: str) -> None:
    model(tmp_path / "base")
    seeds = [str(tmp_path / "base"), {"name": "other", "path": GUISES[guise](tmp_path)}]
    task = {"name": "t", "evaluator": "function", "function": "operator:itemgetter"}
    given = {"seeds": seeds, "tasks": [{**task, "examples": "e.json"}], "budget": 2}
    file = write_run(tmp_path, **given, model={"kind": "arrays"})
    (tmp_path / "e.json").write_text("[1, 2]")
    code, _, error = run_cli(["evolve", str(file)])
    assert code == 1
    last = error.strip().splitlines()[-1]
    assert "all seeds have the same weights, so that every child would be a copy of it" in last


TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "cut short": (b"{", "cannot be read as JSON"),
    "a vocabulary in a list": (b'{"model": {"vocab": [1, 2]}}', "'model.vocab' is not what"),
    "an id of text": (
        b'{"model": {"vocab": {}}, "added_tokens": [{"id": "7", "content": "x"}]}',
        "'7|the id 7|added_tokens",
    ),
    "a token with the id of another": (
        b'{"model": {"vocab": {"w0": 1, "w1": 0, "w2": 2, "w3": 3, "w4": 4, "w5": 5}}}',
        "token 'w0' has id 1 against 0",
    ),
    "a token beyond all": (
        b'{"model": {"vocab": {"w0": 0, "w1": 1, "w2": 2, "w3": 3, "w4": 4, "w5": 5}}, '
        b'"added_tokens": [{"id": 1000000000000000000, "content": "z"}]}',
        "has besides the tokens 'z'",
    ),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_do_not_fit(tmp_path: Path, case: str) -> None:
    content, words = TOKENIZERS[case]
    model(tmp_path / "a")
    (model(tmp_path / "b", seed=5) / "tokenizer.json").write_bytes(content)
    for pair in (["a", "b"], ["b", "a"]):
        code, _, error = run_cli(["merge", *pair, "--ratio", "0.5", "-o", "out"])
        assert (code, error.count("\n")) == (1, 1), error
        assert pair == ["b", "a"] or re.search(words, error), error
        assert not (tmp_path / "out").exists()
