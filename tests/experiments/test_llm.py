"""The experiment with language models runs, at a tiny size and with a model made from nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments/llm"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the experiment has run: its models, pools and page."""
    folder = tmp_path_factory.mktemp("llm")
    done = subprocess.run(
        [
            *(sys.executable, str(FOLDER / "run.py"), "smoke"),
            *("--work", str(folder / "work"), "--out", str(folder)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_experiment_runs(made: Path) -> None:
    found = json.loads((made / "results.json").read_text())
    labels = {"slerp", "ga", "no-attraction", "no-split", "m2n2"}
    assert labels <= set(found["miniature"]["rows"])
    assert found["miniature"]["runs"] == 2
    assert {"base", "maths", "shopping", "slerp", "m2n2"} == set(found["smollm2"]["rows"])
    # The champion's directory alone gives the scores that the pool recorded; so does its recipe.
    assert found["verify"]["train examples"] == 24 + 16
    assert found["verify"]["train scores that differ"] == 0
    assert found["verify"]["test scores that differ"] == 0
    assert found["verify"]["rebuilt tensors that differ"] == 0 < found["verify"]["tensors"]
    assert 0 < found["breakdown"]["share of the forward pass"] < 1
    assert (made / "champions.png").stat().st_size > 10_000


GENERATE = """
import json, sys
from pathlib import Path
import torch
import data
from miniature import opened
from scoring import encoded, exact

work = Path(sys.argv[1])
model, tokenizer = opened(work / "models/maths")


def said(example):
    prompt, answer = encoded(tokenizer, example)
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(answer) + 1,
        do_sample=False, eos_token_id=None,
    )
    return [tokenizer.decode([token]) for token in out[0, len(prompt):].tolist()]


examples = data.read(work / "examples", "maths", "tune")[:40]
for example in examples[::2]:
    example["answer"] = said(example)[0]
generated = []
for example in examples:
    *answer, after = said(example)
    right = answer == example["answer"].split() and not after[:1].isalnum()
    generated.append(float(right))
print(json.dumps([generated, exact(model, tokenizer, examples)]))
"""


@pytest.mark.slow
def test_scores_are_those_of_greedy_generation(made: Path) -> None:
    command = [sys.executable, "-c", GENERATE, str(made / "work")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    generated, scored = json.loads(done.stdout.splitlines()[-1])
    assert generated == scored
    assert 0 < sum(generated) < len(generated)
