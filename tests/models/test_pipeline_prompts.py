"""What is drawn from a prompt does not depend on packages that would rewrite it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genepool.models.build import ModelOptions
from genepool.models.image_generator import as_they_are
from genepool.models.kinds import kind_of
from tests.late import diffusers
from tests.models.test_image_generator import family, live
from tests.pipelines import pixart

PROMPT = ("a  b http://c.de",)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PixArtAlphaPipeline", "PixArtSigmaPipeline"])
def test_captions_are_not_rewritten_where_packages_for_it_are_installed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = family(pixart(tmp_path / "seed", kind))
    first = seeds.checkpoints[0]
    without = live(seeds).value.pictures(PROMPT, ("one",))

    def cleaned(*_: Any) -> str:
        return "something else"

    pipeline = getattr(diffusers, kind)
    module = sys.modules[pipeline.__module__]
    monkeypatch.setattr(module, "is_bs4_available", lambda: True)
    monkeypatch.setattr(module, "is_ftfy_available", lambda: True)
    monkeypatch.setattr(pipeline, "_clean_caption", cleaned)
    model = live(seeds)
    assert np.array_equal(model.value.pictures(PROMPT, ("one",)), without)
    told = kind_of(ModelOptions(), first).told
    (line,) = [x for x in told(ModelOptions(), first, PROMPT) if "clean_caption" in x]
    assert line.startswith("prompts are drawn as they are written")


def test_letters_are_not_mended_where_a_package_for_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers.pipelines.kandinsky5 import pipeline_kandinsky_t2i as module

    monkeypatch.setattr(module, "is_ftfy_available", lambda: True)
    monkeypatch.setattr(module, "ftfy", None, raising=False)
    pipeline = object.__new__(diffusers.Kandinsky5T2IPipeline)
    with pytest.raises(AttributeError):
        module.prompt_clean("a  b")
    with as_they_are(pipeline):
        assert module.prompt_clean("a  b") == "a b"
    assert module.is_ftfy_available()
