"""Functions of the user's: the contract, every source of examples, and what can go wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from genepool.errors import ConfigError, EvaluationError
from genepool.tasks.example_files import example_ids, read_examples
from genepool.tasks.function import Function
from genepool.tasks.task import open_task
from genepool.testing.tasks import check_task

_MODULE = """
import time
import numpy as np

examples = [{"id": f"q{i}", "value": i / 8} for i in range(8)]
array = np.arange(6.0).reshape(3, 2)
text = "abc"

def made():
    return ({"value": i} for i in range(3)) and [{"value": i} for i in range(3)]

def fails_to_make():
    raise OSError("disk on fire")

def score(model, examples):
    bias = float(model["bias"][0])
    if np.isnan(bias):
        raise ValueError("the bias is NaN")
    return [abs(example["value"] - bias) % 1 for example in examples]

def right(model, examples):
    bias = float(model["bias"][0])
    return [bias == bias and example["value"] > bias if bias == bias else bias
            for example in examples]

def count(model, examples):
    return [len(examples) / 100] * len(examples)

def changes(model, examples):
    model["bias"][0] += 0.125
    return score(model, examples)

def slow(model, examples):
    while True:
        time.sleep(0.001)

def quits(model, examples): raise SystemExit(4)
def stops(model, examples): raise KeyboardInterrupt
def short(model, examples): return [0.5]
def large(model, examples): return [0.5] * (len(examples) - 1) + [1.5]
def none(model, examples): return None
def alone(examples): return [0.5] * len(examples)
def adds(model, examples): return [example["value"] + "" for example in examples]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "gp_task", raising=False)
    (tmp_path / "gp_task.py").write_text(_MODULE)
    return tmp_path


def opened(folder: Path, function: str = "score", **options: Any) -> Function:
    """The task, opened like the run layer does."""
    task = open_task("function", {"function": f"gp_task:{function}", **options}, folder)
    assert isinstance(task, Function)
    return task


def test_held_out_examples_that_are_selection_examples_too_are_told(folder: Path) -> None:
    """Under another id; without ids they are refused."""
    (folder / "more.json").write_text(
        json.dumps([{"id": "x", "value": 0.25}, {"value": 9, "id": 1}])
    )
    (told,) = opened(folder, held_out_examples="more.json").notices
    assert told.startswith("1 of 2 held-out examples also stands among the selection examples")
    assert opened(folder, held_out=0.5).notices == ()
    # An example that is but its id is no copy of others.
    (folder / "ids.json").write_text(json.dumps([{"id": 1}, {"id": 2}]))
    assert opened(folder, examples="ids.json", held_out=0.5).notices == ()


def model(bias: float = 0.25) -> dict[str, Any]:
    return {"bias": np.array([bias], dtype=np.float32)}


class TestContract:
    def test_continuous(self, folder: Path) -> None:
        def open_it() -> Function:
            return opened(folder, held_out=0.25)

        task = open_it()
        assert task.samples == tuple(f"q{i}" for i in range(6))
        assert task.held_out == ("q6", "q7")
        assert not task.binary
        check_task(task, model(), reopen=open_it)
        assert task.score(model(), np.array([4, 2])).tolist() == [0.25, 0]

    def test_binary(self, folder: Path) -> None:
        task = opened(folder, "right", binary=True)
        assert task.binary
        check_task(task, model(0.5), broken=model(float("nan")))

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            ("count", "when asked in another order|when asked in a block|when asked alone"),
            ("changes", "when asked a second time"),
        ],
    )
    def test_functions_that_break_it_are_found(
        self, folder: Path, function: str, words: str
    ) -> None:
        with pytest.raises(AssertionError, match=words):
            check_task(opened(folder, function), model())


class TestExamples:
    def test_the_modules_own_by_default(self, folder: Path) -> None:
        assert len(opened(folder).samples) == 8
        assert opened(folder).digest == opened(folder, examples="gp_task:examples").digest

    def test_files(self, folder: Path) -> None:
        values = [{"value": i, "text": f"line {i}\u2028é"} for i in range(5)]
        lines = "\n".join(json.dumps(v, ensure_ascii=False) for v in values)
        (folder / "e.jsonl").write_text("\ufeff" + lines + "\n\n", encoding="utf-8")
        (folder / "e.json").write_text(json.dumps(values))
        assert read_examples("e.jsonl", folder) == read_examples("e.json", folder) == values
        one, other = opened(folder, examples="e.jsonl"), opened(folder, examples="e.json")
        assert one.samples == other.samples and one.digest == other.digest

    def test_arrays(self, folder: Path) -> None:
        rows = np.arange(6.0).reshape(3, 2)
        np.save(folder / "e.npy", rows)
        np.savez(folder / "e.npz", x=rows, y=np.array(["a", "b", "c"]))
        for got, row in zip(read_examples("e.npy", folder), rows, strict=True):
            np.testing.assert_array_equal(got, row)
            with pytest.raises(ValueError, match="read-only"):
                got[0] = 1
        (first, *_) = read_examples("e.npz", folder)
        assert set(first) == {"x", "y"} and first["y"] == "a"
        assert len(opened(folder, examples="e.npz").samples) == 3

    def test_objects(self, folder: Path) -> None:
        assert read_examples("gp_task:made", folder) == [{"value": i} for i in range(3)]
        assert len(read_examples("gp_task:array", folder)) == 3

    def test_held_out_examples_of_their_own(self, folder: Path) -> None:
        (folder / "h.jsonl").write_text('{"id": "h1", "value": 0.5}\n{"id": 2, "value": 1}\n')
        task = opened(folder, held_out_examples="h.jsonl", limit=3)
        assert task.samples == ("q0", "q1", "q2") and task.held_out == ("h1", "2")
        assert task.score(model(), np.array([0]), held_out=True).tolist() == [0.25]

    def test_ids_come_from_content_where_there_are_none(self) -> None:
        examples = ["a", "b", 1, True, None, 1.0, [1], {"x": 1}, {"x": np.arange(2)}, b"a"]
        ids, digests = example_ids(examples)
        assert ids == digests and len(set(ids)) == len(examples)
        again, _ = example_ids([{"y": 2, "x": 1}])
        assert again == example_ids([{"x": 1, "y": 2}])[0]

    def test_whatever_changes_scores_changes_the_digest(self, folder: Path) -> None:
        base = [{"id": i, "value": i / 4} for i in range(4)]
        variants: dict[str, tuple[list[Any], dict[str, Any]]] = {
            "same": (base, {}),
            "order": (base[::-1], {}),
            "content": ([*base[:3], {"id": 3, "value": 0.1}], {}),
            "id": ([*base[:3], {"id": 4, "value": 0.75}], {}),
            "fewer": (base[:3], {}),
            "split": (base, {"held_out": 0.5}),
            "limit": (base, {"limit": 2}),
            "binary": (base, {"binary": True}),
            "function": (base, {"function": "gp_task:right"}),
        }
        digests = set[str]()
        for name, (examples, options) in variants.items():
            (folder / f"{name}.json").write_text(json.dumps(examples))
            options = {"function": "gp_task:score", **options, "examples": f"{name}.json"}
            digests.add(open_task("function", options, folder).digest)
        assert len(digests) == len(variants)


_GREEDY = """
import numpy as np

ROWS = [{{"id": n, "said": ["q"], "deep": {{"x": [n]}}, "seen": np.zeros(2)}} for n in range(6)]

def examples():
    return ROWS

def score(model, examples):
    out = []
    for example in examples:
        {change}
        example["said"].append("a")
        example["seen"][0] += 1
        out.append(1 / len(example["said"]) / example["seen"][0])
    return out
"""


@pytest.mark.parametrize(
    "change",
    ["pass", "example.pop('deep')['x'].clear()", "example['deep']['x'].append(example['said'])"],
)
def test_a_function_that_changes_its_examples(tmp_path: Path, change: str) -> None:
    """The next model was asked what the one before had made of them, and scored less."""
    (tmp_path / "greedy.py").write_text(_GREEDY.format(change=change))
    task = open_task("function", {"function": "greedy:score"}, tmp_path)
    for indices in (np.arange(6), np.array([4, 2]), np.arange(6)):
        assert task.score({}, indices).tolist() == [0.5] * indices.size
    sys.modules.pop("greedy")


_GREEDY_OF_ITS_OWN = """
from collections import OrderedDict, namedtuple

class Words(list):
    pass

Question = namedtuple("Question", "name said")
examples = [
    Question("a", []), OrderedDict(said=[]), {"deep": Question("b", [])}, [Question("c", [])],
    Words(["d"]),
]

def score(model, examples):
    return [1 / (1 + len(grown(example))) for example in examples]

def grown(held):
    if isinstance(held, Words):
        held.append("more")
        return held
    if not isinstance(held, Question):
        held = held.get("said") if "said" in held else held["deep"] if "deep" in held else held[0]
    said = held if type(held) is list else held.said
    said.append("more")
    return said
"""


def test_a_function_that_changes_examples_of_classes_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(_GREEDY_OF_ITS_OWN)
    task = open_task("function", {"function": "greedy:score"}, tmp_path)
    for _ in range(2):
        assert task.score({}, np.arange(5)) == pytest.approx([1 / 2] * 4 + [1 / 3])
    sys.modules.pop("greedy")


class TestFailures:
    @pytest.mark.parametrize(
        ("function", "options", "words"),
        [
            ("score", {}, "function 'gp_task:score' failed: ValueError: the bias is NaN"),
            ("quits", {}, "failed: SystemExit: 4"),
            ("short", {}, "expected 8 scores, one per example; got list of shape (1,)"),
            ("large", {}, "the score of example 'q7' is 1.5"),
            ("none", {}, "got NoneType"),
            ("alone", {}, "(it is called as function(model, examples))"),
            ("right", {}, "the score of example 'q0' is nan"),
            ("slow", {"time_limit": 0.05}, "longer than the time limit of 0.05 seconds"),
        ],
    )
    def test_nothing_is_made_up(
        self, folder: Path, function: str, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(EvaluationError) as caught:
            opened(folder, function, **options).score(model(float("nan")), np.arange(8))
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_other_mistakes_are_not_blamed_on_the_call(self, folder: Path) -> None:
        with pytest.raises(EvaluationError, match="TypeError: unsupported") as caught:
            opened(folder, "adds").score(model(0), np.arange(8))
        assert "it is called as" not in str(caught.value)

    def test_a_claim_of_binary_is_checked(self, folder: Path) -> None:
        with pytest.raises(EvaluationError, match=r"'q1' is 0\.125; expected 0 or 1"):
            opened(folder, binary=True).score(model(0), np.arange(8))

    def test_ctrl_c_passes_through(self, folder: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            opened(folder, "stops", time_limit=10).score(model(), np.arange(8))

    def test_nothing_asked_is_not_a_call(self, folder: Path) -> None:
        got = opened(folder, "none").score(model(), np.arange(0))
        assert got.shape == (0,) and got.dtype == np.float32

    @pytest.mark.parametrize(
        "options",
        [{"held_out": 1.0}, {"limit": 0}, {"time_limit": 0}, {"time_limit": float("inf")},
         {"binary": "yes"}, {"examples": 3}, {"extra": 1}],
    )  # fmt: skip
    def test_values_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Function.Options.model_validate({"function": "a:b", **options})

    def test_contradictions(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="exclude each other"):
            opened(folder, held_out=0.1, held_out_examples="gp_task:made")
