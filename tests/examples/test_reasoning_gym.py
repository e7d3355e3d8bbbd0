"""The example with puzzles of reasoning-gym, where that is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.lms import tiny_config, write_tokenizer

FOLDER = Path(__file__).parents[2] / "examples/reasoning_gym"


@pytest.fixture
def puzzles(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Without the package, the example's own folder goes by its name, as a package without a file.
    if pytest.importorskip("reasoning_gym").__file__ is None:
        pytest.skip("pip install reasoning-gym")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("puzzles")


def test_puzzles_are_made_from_a_seed_and_scored_by_reasoning_gym(
    puzzles: Any, tmp_path: Path
) -> None:
    made, others = puzzles.examples(), puzzles.held_out()
    assert len({e["id"] for e in (*made, *others)}) == 300
    assert puzzles.examples() == made
    right = [puzzles._puzzles.score_answer(e["puzzle"]["answer"], e["puzzle"]) for e in made]
    assert right == [1.0] * 200
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(tiny_config())
    write_tokenizer(tmp_path)
    words: Any = transformers.AutoTokenizer.from_pretrained(str(tmp_path), padding_side="left")
    scores = puzzles.score(model.eval(), words, made[:5])
    # A model of random weights solves none, and is not asked to.
    assert len(scores) == 5 and all(0 <= score < 1 for score in scores)
