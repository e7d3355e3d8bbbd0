"""Merges of models of the Hub, which lie in its cache: adapters' bases, and revisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file

from genepool.errors import InputError
from genepool.output.by_hand import merge
from genepool.output.rebuild import rebuild
from tests.attacks.test_seeds import adapter, model
from tests.output.test_recipe_file import front_matter


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def on_the_hub(place: Path, name: str, revision: str = "main") -> Path:
    """The folder of a model in the Hub's cache, which is still to be written."""
    home = place / "hub" / f"models--{name.replace('/', '--')}"
    commit = f"{len(list(home.glob('snapshots/*'))):040x}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    return home / "snapshots" / commit


def test_an_adapter_of_the_hub_is_folded_into_the_base_that_is_given(tmp_path: Path) -> None:
    named, mine = model(tmp_path / "named", 1), model(tmp_path / "mine", 2)
    adapter(on_the_hub(tmp_path, "org/lora"), base_model_name_or_path=str(named))
    whole = model(on_the_hub(tmp_path, "org/whole"), 3)
    done = merge("org/lora", mine, tmp_path / "out", ratio=0.0, adapter_base=str(mine))
    (notice,) = done.notices
    assert f"and it is folded into {mine}: is that what it was trained on?" in notice
    kept = "model.embed_tokens.weight"  # which the adapter leaves alone

    def same(folder: Path, other: Path) -> bool:
        one, two = (load_file(place / "model.safetensors")[kept] for place in (folder, other))
        return np.allclose(one, two, rtol=1e-6)

    assert same(done.directory, mine)
    # The same for a mapping; and a whole model beside it is opened as it is.
    given = {"path": "org/lora"}
    done = merge(given, "org/whole", tmp_path / "2", ratio=0.0, adapter_base=str(mine))
    assert same(done.directory, mine)
    done = merge(given, "org/whole", tmp_path / "3", ratio=1.0, adapter_base=str(mine))
    assert same(done.directory, whole)
    with pytest.raises(InputError, match="none of the models is an adapter"):
        merge("org/whole", mine, tmp_path / "no", ratio=0.5, adapter_base=str(mine))


def test_a_recipe_keeps_the_revision_that_was_named(tmp_path: Path) -> None:
    model(on_the_hub(tmp_path, "org/m"), 1)
    model(on_the_hub(tmp_path, "org/m", "v1"), 2)
    model(tmp_path / "b", 3)
    done = merge("org/m@v1", tmp_path / "b", tmp_path / "out", ratio=0.5)
    assert [seed["hub"] for seed in done.details["seeds"]] == ["org/m@v1", None]
    again = rebuild(done.directory, tmp_path / "again", seeds={"b": tmp_path / "b"})
    for place in (done.directory, again.directory):
        page = (place / "README.md").read_text()
        assert front_matter(page)["base_model"] == ["org/m", "b"]
        assert "| org/m@v1 |" in page
    one, other = ((x.directory / "model.safetensors").read_bytes() for x in (done, again))
    assert one == other
    # Both revisions of one model are one model for the Hub.
    done = merge("org/m@v1", "org/m", tmp_path / "both", ratio=0.5)
    assert [seed["hub"] for seed in done.details["seeds"]] == ["org/m@v1", "org/m"]
    assert front_matter((done.directory / "README.md").read_text())["base_model"] == ["org/m"]
    rebuild(done.directory, tmp_path / "more", seeds={})
