"""What lies beside the weights in folders: modules of sentence-transformers, more tokenizers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import genepool
from genepool.checkpoints.family import make_family
from genepool.checkpoints.files import hub
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.model_files.side_files import side_files
from tests.build import contents, save

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {
        "idx": 3,
        "name": "3",
        "path": "3_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]


def sentences(directory: Path, seed: int, mode: str = "cls") -> Path:
    torch.manual_seed(seed)
    save(directory, {"embeddings.word_embeddings.weight": torch.randn(6, 4)})
    (directory / "modules.json").write_text(json.dumps(MODULES))
    for name in ("1_Pooling", "2_Dense", "onnx"):
        (directory / name).mkdir()
    (directory / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": mode}))
    (directory / "1_Pooling/run.py").write_text("no")
    (directory / "2_Dense/config.json").write_text("{}")
    save_file({"linear.weight": torch.ones(2, 4)}, directory / "2_Dense/model.safetensors")
    (directory / "onnx/config.json").write_text("no")
    return directory


def test_further_modules_of_sentence_transformers_go_along(tmp_path: Path) -> None:
    a, b = sentences(tmp_path / "a", 0), sentences(tmp_path / "b", 1)
    done = genepool.merge(a, b, tmp_path / "out", ratio=0.5)
    assert done.notices == ()
    written, own = contents(tmp_path / "out"), contents(a)
    modules = {"modules.json", "1_Pooling/config.json"}
    modules |= {"2_Dense/config.json", "2_Dense/model.safetensors"}
    assert written.keys() == {*modules, "README.md", "genepool.json", "model.safetensors"}
    assert all(written[name] == own[name] for name in modules)
    genepool.merge(a, b, tmp_path / "out", ratio=0.5, overwrite=True)


def test_other_modules_and_pickles_are_told(tmp_path: Path) -> None:
    a, b = sentences(tmp_path / "a", 0), sentences(tmp_path / "b", 1, "mean")
    (line,) = genepool.merge(a, b, tmp_path / "out", ratio=0.5).notices
    assert f"{b}: other modules" in line
    # One has none, or another's weights; and what lies elsewhere is not read.
    (b / "modules.json").unlink()
    assert genepool.merge(a, b, tmp_path / "two", ratio=0.5).notices == ()
    (line,) = genepool.merge(b, a, tmp_path / "three", ratio=0.5).notices
    assert f"{a}: other modules" in line
    for path in ("../b", "/etc", ".git", 5, None):
        (a / "modules.json").write_text(json.dumps([{"path": path}]))
        genepool.merge(a, b, tmp_path / "four", ratio=0.5, overwrite=True)
        names = {"modules.json", "README.md", "genepool.json", "model.safetensors"}
        assert contents(tmp_path / "four").keys() == names
    (a / "modules.json").unlink()
    os.mkfifo(a / "modules.json")
    genepool.merge(a, b, tmp_path / "six", ratio=0.5)
    (a / "modules.json").unlink()
    (a / "modules.json").write_text(json.dumps(MODULES))
    (a / "2_Dense/model.safetensors").rename(a / "2_Dense/pytorch_model.bin")
    (line,) = genepool.merge(a, b, tmp_path / "five", ratio=0.5).notices
    assert "2_Dense/pytorch_model.bin: may hold a pickle" in line


def test_the_hub_gives_further_modules_and_no_other_folders() -> None:
    wanted = ("1_Pooling/config.json", "2_Dense/model.safetensors", "config.json", "NOTICE")
    others = (
        "onnx/model.safetensors",
        "16bit/a.safetensors",
        "1_a/b/c.json",
        "assets/b.json",
    )
    utils = pytest.importorskip("huggingface_hub.utils")
    names = [*wanted, *others]
    found = utils.filter_repo_objects(
        names, allow_patterns=hub.PATTERNS, ignore_patterns=hub._UNWANTED
    )
    assert tuple(found) == wanted


def seers(directory: Path, value: float) -> Path:
    """A model whose processor has a tokenizer more, as InstructBLIP's does."""
    save(directory, {"fc.weight": torch.full((2, 2), value)})
    for name in ("qformer_tokenizer", "audio_tokenizer", "old-tokenizer", "tokenizer"):
        (directory / name).mkdir()
        (directory / name / "tokenizer_config.json").write_text("{}")
        (directory / name / "run.py").write_text("no")
        if name != "audio_tokenizer":  # A model of its own, which lies elsewhere.
            (directory / name / "vocab.txt").write_text("a\n")
    save_file({"x": torch.ones(1)}, directory / "audio_tokenizer/model.safetensors")
    return directory


def test_the_further_tokenizers_of_a_processor_go_along(tmp_path: Path) -> None:
    a, b = seers(tmp_path / "a", 1.0), seers(tmp_path / "b", 2.0)
    genepool.merge(a, b, tmp_path / "out", ratio=0.5)
    own = {"qformer_tokenizer/tokenizer_config.json", "qformer_tokenizer/vocab.txt"}
    written = contents(tmp_path / "out")
    assert written.keys() == {*own, "README.md", "genepool.json", "model.safetensors"}
    genepool.merge(a, b, tmp_path / "out", ratio=0.5, overwrite=True)
    # Links lead nowhere else: neither that of a file nor that of the whole folder.
    (a / "qformer_tokenizer/vocab.txt").unlink()
    (a / "qformer_tokenizer/vocab.txt").symlink_to(b / "qformer_tokenizer/vocab.txt")
    with pytest.raises(genepool.errors.CheckpointError, match="links out of its directory"):
        genepool.merge(a, b, tmp_path / "two", ratio=0.5)
    (a / "qformer_tokenizer").rename(tmp_path / "away")
    (a / "protein_tokenizer").symlink_to(b / "qformer_tokenizer")
    with pytest.raises(genepool.errors.CheckpointError, match="links out of its directory"):
        genepool.merge(a, b, tmp_path / "two", ratio=0.5)


def test_other_further_tokenizers_are_told(tmp_path: Path) -> None:
    a, b = seers(tmp_path / "a", 1.0), seers(tmp_path / "b", 2.0)
    assert make_family([open_checkpoint(a), open_checkpoint(b)]).notices == ()
    folder = b / "qformer_tokenizer"
    (folder / "vocab.txt").write_text("b\n")
    (told,) = make_family([open_checkpoint(a), open_checkpoint(b)]).notices
    assert told.startswith(f"{folder}: another tokenizer than in {a}")
    (folder / "vocab.txt").write_text("a\n")
    (folder / "chat_template.jinja").write_text("b")
    (told,) = make_family([open_checkpoint(a), open_checkpoint(b)]).notices
    assert told.startswith(f"{folder} has a chat template and {a / folder.name} has none")
    (folder / "chat_template.jinja").unlink()
    folder.rename(b / "protein_tokenizer")
    (told,) = make_family([open_checkpoint(a), open_checkpoint(b)]).notices
    assert told.startswith(f"{b / 'protein_tokenizer'}: the first seed has none")


def test_the_further_tokenizers_of_an_adapter_come_before_those_of_its_base(tmp_path: Path) -> None:
    base = seers(tmp_path / "base", 1.0)
    first = replace(open_checkpoint(base), tokenizer=tmp_path)
    name = "qformer_tokenizer/vocab.txt"
    assert side_files(first, None)[name] == base / name
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("b\n")
    assert side_files(first, None)[name] == tmp_path / name


def test_the_hub_gives_further_tokenizers_of_processors(tmp_path: Path) -> None:
    utils = pytest.importorskip("huggingface_hub.utils")
    there = ["model.safetensors", "preprocessor_config.json", "qformer_tokenizer/vocab.txt"]
    there += ["qformer_tokenizer/model.safetensors", "qformer_tokenizer/a/b.json"]
    there += ["onnx/config.json", "tokenizer/vocab.txt"]
    for name in ("preprocessor_config.json", "config.json"):
        (tmp_path / name).write_text("{}")
        found: set[str] = set()

        def get(wanted: Sequence[str], unwanted: Sequence[str], found: set[str] = found) -> Path:
            fitting: Iterable[str] = utils.filter_repo_objects(
                there, allow_patterns=[*wanted], ignore_patterns=[*unwanted]
            )
            found |= {*fitting}
            return tmp_path

        hub.fetch_model(get, "")
        tokens = {"qformer_tokenizer/vocab.txt"} if name == "preprocessor_config.json" else set()
        assert found == {"model.safetensors", "preprocessor_config.json"} | tokens
        (tmp_path / name).unlink()


def test_what_lies_about_where_a_model_was_trained_stays_there(tmp_path: Path) -> None:
    a, b = (
        save(tmp_path / n, {"fc.weight": torch.full((2, 2), float(i))})
        for i, n in enumerate("ab", 1)
    )
    kept = {"vocab.json", "merges.txt", "chat_template.jinja", "spiece.model", "bpe.codes"}
    kept |= {"tekken.json", "processor_config.json", "qwen.tiktoken"}
    left = {"train.jsonl", "data.parquet", "x.csv", "events.out.tfevents.1.host", "train.log"}
    left |= {"id_rsa", "secret.env", "Modelfile", "optimizer.pt", "run.sh", "sample.png"}
    # By these vLLM and others take weights for quantised ones.
    left |= {"hf_quant_config.json", "quantize_config.json"}
    for name in kept | left:
        (a / name).write_text("{}")
    genepool.merge(a, b, tmp_path / "out", ratio=0.5)
    written = {"README.md", "genepool.json", "model.safetensors"}
    assert contents(tmp_path / "out").keys() == kept | written
