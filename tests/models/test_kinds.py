"""Each kind of live model is one value; which one a run needs follows from options and seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.errors import ConfigError
from genepool.models.build import ModelOptions
from genepool.models.kinds import KINDS, kind_of
from genepool.output.by_hand import merge
from tests.build import save


def seed(folder: Path, config: dict[str, object] | None) -> Checkpoint:
    save(folder, {"w": torch.zeros(3)})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
BERT = {"model_type": "bert", "architectures": ["BertModel"]}


@pytest.mark.parametrize(
    ("config", "kind", "library"),
    [
        (None, "arrays", ""),
        (BERT, "arrays", "transformers"),
        (LLAMA, "transformers", "transformers"),
    ],
)
def test_a_seed_says_its_kind(
    config: dict[str, object] | None, kind: str, library: str, tmp_path: Path
) -> None:
    first = seed(tmp_path / "seed", config)
    assert kind_of(ModelOptions(), first).name == kind
    assert kind_of(ModelOptions(network="a:b"), first).name == "network"
    merge(first.path, seed(tmp_path / "other", config).path, tmp_path / "out", ratio=0.5)
    assert (tmp_path / "out/config.json").exists() == (config is not None)
    said = f'library_name: "{library}"' in (tmp_path / "out/README.md").read_text()
    assert said == bool(library)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "network"}, "needs 'network'"),
        ({"kind": "arrays", "network": "a:b"}, "does not go with kind 'arrays'"),
        ({"kind": "transformers", "network": "a:b"}, "does not go with kind 'transformers'"),
        ({"kind": "transformers"}, "needs the first seed to be a directory with a config.json"),
        ({"network": "a:b", "tokenizer": "c"}, "'tokenizer' applies to a language model only"),
        ({"device": "cuda"}, "the tasks of this run get arrays"),
    ],
)
def test_options_of_another_kind_are_refused(
    options: dict[str, str], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text):
        kind_of(ModelOptions.model_validate(options), seed(tmp_path / "seed", None))


def test_what_the_pool_pins_is_said_by_the_kind(tmp_path: Path) -> None:
    first = seed(tmp_path / "seed", LLAMA)
    other = tmp_path / "words"
    other.mkdir()
    (other / "vocab.txt").write_text("a")
    options = ModelOptions(tokenizer="words")
    parts = kind_of(options, first).pinned_files(options, first, tmp_path)
    assert {name for name, part in parts.items() if part.digest} == {"configuration", "tokenizer"}
    assert parts["tokenizer"].place == other and parts["configuration"].place == first.directory
    (other / "vocab.txt").write_text("b")
    assert kind_of(options, first).pinned_files(options, first, tmp_path) != parts


def test_every_kind_has_a_name_and_says_what_tasks_are_given() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) and "auto" not in names
    described = ModelOptions.model_fields["kind"].description or ""
    assert all(f"With '{kind.name}' {kind.help}" in described for kind in KINDS)
