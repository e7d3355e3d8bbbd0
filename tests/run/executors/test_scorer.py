"""What tasks give back, and what they leave of the model, is looked at before it counts."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from genepool.errors import ConfigError, EvaluationError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.progress import Silence
from genepool.tasks.classifier.evaluator import Classifier
from genepool.tasks.task import evaluator
from tests.runs import contents, write_run

_NUMBERS = count()


@evaluator("wrong")
class Wrong(Classifier):
    """A classifier of somebody's own that makes something else of its scores."""

    made: Any = None

    def score(self, model: Any, indices: Any, *, held_out: bool = False) -> Any:
        scores = super().score(model, indices, held_out=held_out)
        return Wrong.made(scores)


def _with(made: Any, directory: Path, **changes: Any) -> Path:
    Wrong.made = staticmethod(made)
    tasks = [{"name": "mine", "evaluator": "wrong", "data": "data.npz"}]
    return write_run(directory, tasks=tasks, budget=5, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda s: np.where(np.arange(s.size) == 3, np.nan, s), "is nan"),
        (lambda s: np.float32(0.5), r"expected 120 scores.*shape \(\)"),
        (lambda s: s[:1], r"expected 120 scores.*shape \(1,\)"),
        (lambda s: s[:, None], r"shape \(120, 1\)"),
        (lambda s: s + 1, "a number from 0 to 1|0 or 1"),
        (lambda s: s / 2, "0 or 1"),
        (lambda s: [str(score) for score in s], "is not a number"),
        (lambda s: None, "NoneType"),
    ],
)
def test_what_an_evaluator_gives_must_be_scores(tmp_path: Path, made: Any, said: str) -> None:
    """NaN was asked for again without end, and what is too short was taken for all examples."""
    file = _with(made, tmp_path)
    with pytest.raises(EvaluationError, match=f"'seed1' cannot be scored: task 'mine': .*{said}"):
        evolve(file)


def test_a_list_of_scores_is_as_good(tmp_path: Path) -> None:
    evolve(_with(lambda s: s, tmp_path / "a"))
    evolve(_with(lambda s: s.tolist(), tmp_path / "b"))
    assert contents(tmp_path / "a" / "pool") == contents(tmp_path / "b" / "pool")


_NETWORK = """
import copy
import torch

examples = list(range(12))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = torch.nn.Module(), torch.nn.Module()
        for part, shape in ((self.hidden, (8, 16)), (self.output, (16, 3))):
            part.weight = torch.nn.Parameter(torch.zeros(shape))
            part.bias = torch.nn.Parameter(torch.zeros(shape[1]))

def made():
    return Net()

def score(net, given):
    {change}
    x = torch.sin(torch.arange(96.0).reshape(12, 8))[given].to(net.hidden.weight.dtype)
    x = torch.tanh(x @ net.hidden.weight + net.hidden.bias) @ net.output.weight + net.output.bias
    out = (x[:, 0] > x[:, 1]).tolist()
    {after}
    return out
"""


def _network(directory: Path, change: str = "pass", after: str = "pass") -> Path:
    name = f"changing_{next(_NUMBERS)}"
    pytest.importorskip("torch")
    directory.mkdir()
    (directory / f"{name}.py").write_text(_NETWORK.format(change=change, after=after))
    tasks = [{"name": "mine", "evaluator": "function", "function": f"{name}:score"}]
    model = {"network": f"{name}:made"}
    return write_run(directory, tasks=tasks, model=model, budget=12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("net.half()", "'hidden.weight', .* elsewhere, or into another dtype"),
        ("net.double().float()", "elsewhere"),
        ("net.output.bias = torch.nn.Parameter(net.output.bias.clone())", "'output.bias' .*elsewh"),
        ("net.output.weight.data = net.output.weight.data * 2", "'output.weight' .*elsewhere"),
        ("net.output.weight.data.mul_(-1)", "the values of 'output.weight' .*would depend"),
        ("net.hidden.bias.add_(1)", "the values of 'hidden.bias'"),
        ("net.train()", "another mode .*'the whole', 'hidden', 'output'.*would depend"),
        ("net.output.train()", "another mode .*'output'"),
    ],
)
def test_a_function_that_changes_the_network(tmp_path: Path, change: str, said: str) -> None:
    """Every later model was written where nobody read it any more, so that all scored alike."""
    file = _network(tmp_path / "run", change)
    with pytest.raises(ConfigError, match=f"task 'mine' has .*{said}"):
        evolve(file)
    with Pool(tmp_path / "run" / "pool") as pool:
        assert pool.seeds_scored == 0


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ("net.output.weight.data.mul_(-1)", "the values of 'output.weight'"),
        ("net.hidden.bias.add_(1)", "the values of 'hidden.bias'"),
        ("net.train()", "another mode"),
    ],
)
def test_a_function_that_changes_the_network_later(tmp_path: Path, later: str, said: str) -> None:
    change = f"score.asked = getattr(score, 'asked', 0) + 1\n    if score.asked == 7: {later}"
    file = _network(tmp_path / "run", change)
    with pytest.raises(ConfigError, match=f"has .*{said}"):
        evolve(file)
    with Pool(tmp_path / "run" / "pool") as pool:
        assert pool.evaluations == 3  # The fourth is the seventh call: two seeds, and one again.


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ("net.train()", "net.eval()"),
        ("net = copy.deepcopy(net).half().float()", "pass"),
        ("kept = net.output.bias.clone(); net.output.bias.add_(1)", "net.output.bias.copy_(kept)"),
        ("net.eval().to('cpu').float()", "pass"),
    ],
)
def test_a_function_that_leaves_the_network_as_it_was(
    tmp_path: Path, change: str, after: str
) -> None:
    evolve(_network(tmp_path / "run", change, after))
    with Pool(tmp_path / "run" / "pool") as pool:
        assert pool.evaluations == 12
        scores = {r.scores.tobytes() for r in pool.records() if r.scores is not None}
        assert len(scores) > 2


_DRAWING = """
import random, time
import numpy as np

examples = list(range(8))
own = np.random.default_rng(0)

def score(model, given):
    bias = min(1.0, abs(float(model["hidden.bias"].sum())))
    return [min(1.0, (bias + 1) / 2 * draw(n)) for n in given]

def draw(n):
    {draw}
"""


def _drawing(directory: Path, draw: str, **changes: Any) -> Path:
    name = f"drawing_{next(_NUMBERS)}"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(_DRAWING.format(draw=draw))
    tasks = [{"name": "mine", "evaluator": "function", "function": f"{name}:score"}]
    return write_run(directory, tasks=tasks, budget=5, **changes)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        ("return random.random()", r"\('random'\).*Draw from .* as random.Random\(0\)"),
        ("return np.random.rand()", r"\('numpy.random'\).*numpy.random.default_rng\(0\)"),
        ("import torch; return float(torch.rand(()))", r"\('torch'\).*torch.Generator\(\).manual"),
        ("import torch; return float(torch.dropout(torch.ones(()), 0.5, True))", r"\('torch'\)"),
        # Ties that are broken by chance, which may well break them alike.
        ("return random.choice([0, 1]) if n > 4 else 0.5", r"of 8 differs?, the first is"),
    ],
)
def test_scores_by_random_numbers_of_all_are_refused(tmp_path: Path, draw: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"task 'mine' draws random numbers that .*{said}"):
        evolve(_drawing(tmp_path, draw))
    with Pool(tmp_path / "pool") as pool:
        assert pool.evaluations <= 3  # Where chance breaks ties alike.


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        "random.seed(n); return random.random()",
        "np.random.seed(n); return np.random.rand()",
        "import torch; torch.manual_seed(n); return float(torch.rand(()))",
        "import torch; [*torch.utils.data.DataLoader([1, 2], shuffle=True)]; return 1",
        "return float(np.random.default_rng(n).random())",
    ],
)
def test_random_numbers_that_repeat_are_none_of_our_business(tmp_path: Path, draw: str) -> None:
    result = evolve(_drawing(tmp_path, draw))
    assert result.status["evaluations"] == 5


class _Told(Silence):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.mark.parametrize(
    ("draw", "changes"),
    [
        ("return own.random()", {}),
        ("return time.perf_counter_ns() % 997 / 997", {}),
        ("return random.random()", {"changed_scores": "tell"}),
    ],
)
def test_other_scores_that_do_not_repeat_are_told(
    tmp_path: Path, draw: str, changes: dict[str, Any]
) -> None:
    """It was noticed where a run went on, and not where it began."""
    told = _Told()
    evolve(_drawing(tmp_path, draw, **changes), progress=told)
    (note,) = [text for text in told.notices if "twice" in text]
    assert note.startswith("task 'mine' does not give the same scores twice")
    assert "selected by luck" in note


class _Own:
    """An evaluator as somebody writes it who looked at few pages."""

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        fault: str = ""

    samples: Any = tuple("abcdefgh")
    held_out: Any = ()
    digest: Any = "digest"
    binary: Any = False

    def __init__(self, options: Options, directory: Path) -> None:
        self._fault = options.fault
        for name, value in _FAULTS.get(options.fault, {}).items():
            setattr(self, name, value)
        if options.fault == "opening":
            raise KeyError("absent")

    def score(self, model: Any, indices: Any, *, held_out: bool = False) -> Any:
        if self._fault == "scoring":
            raise SystemExit(3)
        return np.minimum(1, abs(float(model["hidden.bias"].sum())) * (indices + 1) / 8)

    def measures(self, model: Any) -> dict[str, float]:
        if self._fault == "measuring":
            raise ValueError("nothing to measure")
        return {"bias": float(model["hidden.bias"].sum())}


class _OwnPath(_Own):
    class Options(_Own.Options):
        place: Path
        count: int = 0
        least: float = 0.0


_FAULTS: dict[str, dict[str, Any]] = {
    "twice": {"samples": ("a", "a")},
    "held out and not": {"held_out": ("h", "i")},
    "one text": {"samples": "abc"},
    "no examples": {"samples": ()},
    "numbers": {"samples": (1, 2, 3), "digest": 12345},
    "no digest": {"digest": None},
    "binary": {"binary": "no"},
    "blocks": {"blocks": np.arange(8)[::-1]},
    "batch": {"batch": 0},
    "labels": {"labels": ("x",)},
}


@pytest.mark.parametrize("guard", [False, True])
def test_numbers_in_place_of_texts_are_kept_as_texts(tmp_path: Path, guard: bool) -> None:
    """SQLite makes texts of them, and the rows then were not what had been written."""
    evaluator("own-of-tests")(_Own)
    mine = {"name": "mine", "evaluator": "own-of-tests", "fault": "numbers"}
    other = {"name": "clouds", "evaluator": "classifier", "data": "data.npz"}
    tasks = [other, {**mine, "guard": True}] if guard else [mine, other]
    for budget in (3, 6):
        evolve(write_run(tmp_path, tasks=tasks, budget=budget))
    with Pool(tmp_path / "pool") as pool:
        assert pool.evaluations == 6


def test_options_of_a_mapping_may_be_paths(tmp_path: Path) -> None:
    evaluator("own-with-a-path")(_OwnPath)
    write_run(tmp_path)
    run: dict[str, Any] = {
        "pool": str(tmp_path / "pool"),
        "seeds": [str(tmp_path / f"seed{number}.safetensors") for number in (1, 2)],
        "tasks": [{"name": "mine", "evaluator": "own-with-a-path"}],
    }
    options = {"place": tmp_path, "count": np.int64(3), "least": float("-inf")}
    run["tasks"][0].update(options)
    assert evolve(run, budget=3).session == 3
    assert evolve(run, budget=3).session == 0
    again = evolve(run, budget=5)
    assert (again.session, again.notices) == (2, ())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("scoring", r"SystemExit: 3 \(in .*test_scorer.py, line \d+\)"),
        ("opening", r"KeyError: 'absent' \(in .*test_scorer.py, line \d+\)"),
        ("measuring", r"ValueError: nothing to measure \(in .*test_scorer.py, line \d+\)"),
        ("twice", "examples 0 and 1 have the same id 'a'"),
        ("held out and not", "examples 7 and 8 have the same id 'h'"),
        ("one text", "'samples' of the evaluator: expected ids"),
        ("no examples", "'samples' of the evaluator: expected at least one example; got none"),
        ("no digest", "'digest' of the evaluator: expected a text; got None"),
        ("binary", "'binary' of the evaluator: expected True or False; got 'no'"),
        ("blocks", "'blocks' of the evaluator: expected"),
        ("batch", "'batch' of the evaluator: expected a number from 1; got 0"),
        ("labels", "'labels' of the evaluator: expected one for each"),
    ],
)
def test_faults_of_an_evaluator_of_ones_own_are_one_line(
    tmp_path: Path, fault: str, said: str
) -> None:
    """Held-out examples that were selected by, and blocks that fall, were taken without a word."""
    evaluator("own-of-tests")(_Own)
    task = {"name": "mine", "evaluator": "own-of-tests", "fault": fault}
    with pytest.raises(ConfigError, match=f"task 'mine': .*{said}") as caught:
        evolve(write_run(tmp_path, tasks=[task], budget=3))
    assert "\n" not in str(caught.value)
