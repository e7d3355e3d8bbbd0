"""Image generators in one file as live models: they draw what their pipelines draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genepool.errors import CheckpointError, ConfigError
from tests.models.test_image_generator import IDS, PROMPTS, family, live
from tests.pipelines import single_file, tiny_pipeline


def test_a_file_draws_what_its_pipeline_draws(tmp_path: Path) -> None:
    places = [tiny_pipeline(tmp_path / name, seed=n, like=5) for n, name in enumerate("ab")]
    files = [single_file(place, place.with_suffix(".safetensors")) for place in places]
    whole, single = family(*places, whole={"vae": 0}), family(*files)
    drawn = []
    for number in range(2):
        expected = live(whole, number, guidance=2.0).value.pictures(PROMPTS, IDS)
        model = live(single, number, guidance=2.0, configs=str(places[0])).value
        drawn.append(model.pictures(PROMPTS, IDS))
        assert np.array_equal(drawn[-1], expected)
    assert not np.array_equal(*drawn)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    place = tiny_pipeline(tmp_path / "a")
    file = single_file(place, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded as a single file by diffusers"):
        live(family(file), configs=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"model\.configs is for seeds that are single files"):
        live(family(place), configs=str(place))
