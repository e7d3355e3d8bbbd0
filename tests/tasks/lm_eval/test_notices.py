"""What is told of lm-eval tasks: as they open, and as their prompts are first asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quick import quick
from tests.tasks.lm_eval.test_evaluator import live, opened, write_task


def write_reviews(directory: Path, answers: list[str]) -> None:
    """The test split, with these answers."""
    lines = [
        json.dumps(
            {
                "text": f"{n} =",
                "answer": answer,
                "choices": ["a", "b", "c"],
                "gold": "abc".find(answer),
            }
        )
        for n, answer in enumerate(answers)
    ]
    (directory / "test.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize("kind", quick(["multiple_choice", "generate_until"], (0,)))
@pytest.mark.parametrize(
    ("answers", "options", "told"),
    [
        ("a" * 10 + "b" * 10, {"limit": 10}, "for selection have 1 label of 2; store"),
        ("a" * 10 + "b" * 10 + "c" * 10, {"limit": 25}, None),
        ("a" * 8 + "b" * 8 + "c" * 8, {"limit": 10}, "for selection have 2 labels of 3"),
        ("a" * 10 + "b" * 10, {"held_out": 0.5}, "have 1 label, and the held-out ones 1"),
        ("ab" * 10, {"limit": 1}, None),
        ("a" * 10 + "b" * 10, {}, None),
    ],
)
def test_it_is_told_where_a_limit_leaves_one_class(
    kind: str, answers: str, options: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    write_task(tmp_path, kind)
    write_reviews(tmp_path, [*answers])
    notices = opened(tmp_path, task="sums.yaml", **options).notices
    assert [*notices] == [] if told is None else told in notices[0]


def test_hidden_answers_are_told(tmp_path: Path) -> None:
    write_task(tmp_path)
    write_reviews(tmp_path, [*"abcz"] * 5)  # The index of z is -1.
    (notice,) = opened(tmp_path, task="sums.yaml").notices
    assert notice.startswith("5 of 20 examples have no right answer among the choices")
    write_task(tmp_path, doc_to_target="answer")
    write_reviews(tmp_path, [*"abcz"] * 5)
    (notice,) = opened(tmp_path, task="sums.yaml", limit=10).notices
    assert notice.startswith("2 of 10 examples")


def test_answers_of_their_own_are_no_classes(tmp_path: Path) -> None:
    write_task(tmp_path, "generate_until")
    write_reviews(tmp_path, [str(number) for number in range(20)])
    assert opened(tmp_path, task="sums.yaml", limit=10).notices == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cut"),
    [("generate_until", 4), ("multiple_choice", 2), ("loglikelihood_rolling", 0)],
)
def test_prompts_that_are_cut_and_special_tokens_in_examples_are_told_once(
    kind: str, cut: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = live(tmp_path, max_position_embeddings=32)
    write_task(tmp_path, kind)
    # A token begins each text, four are generated, and the last one of a choice is not read.
    texts = ["1 " * (length - 2) + "=" for length in (28, 29, 32, 33, 40)]
    texts[0] = texts[0].replace("1", "</s>", 1)
    lines = [{"text": text, "answer": "1", "choices": ["1", "2"], "gold": 0} for text in texts]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bounds = [1.0, 2000.0] if kind == "loglikelihood_rolling" else None
    task = opened(tmp_path, task="sums.yaml", bounds=bounds, batch=2)
    for places in ([0], [4, 1], [0, 1, 2, 3, 4]):
        task.score(value, np.array(places))
    *long, special = caplog.messages
    assert "1 of 5 examples holds special tokens" in special and "'</s>'" in special
    assert len(long) == (cut > 0)
    have = "has" if cut == 1 else "have"
    assert all(f"{cut} of 5 prompts {have} more tokens" in line for line in long)


@pytest.mark.parametrize(
    ("task", "given", "told"),
    [
        ({"do_sample": False}, {"temperature": 0.5}, "do_sample is false where the task says how"),
        ({}, {"temperature": 0.5, "do_sample": False}, "do_sample is false; say"),
        ({"do_sample": False}, {"temperature": 0.5, "do_sample": True}, None),
        ({}, {"temperature": 0.5}, None),
        ({"do_sample": False}, {"temperature": 0.0}, None),
    ],
)
def test_a_temperature_that_is_passed_over_is_told(
    task: dict[str, Any], given: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    name = write_task(tmp_path, "generate_until", generation_kwargs={"until": ["="], **task})
    notices = opened(tmp_path, task=name, generation=given).notices
    assert [*notices] == [] if told is None else told in notices[0]
