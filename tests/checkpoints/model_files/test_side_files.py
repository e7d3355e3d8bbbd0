"""What lies beside the weights in folders: the further modules of sentence-transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import genepool
from genepool.checkpoints.files import hub
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
