"""Networks: an example's logits have the same bits whatever it is asked with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genepool.errors import EvaluationError
from genepool.tasks.classifier.network_scorer import NetworkScorer
from tests.nets import inputs


class Recorder(torch.nn.Module):
    """Remembers the logits of every example it was given, in bits."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: dict[bytes, set[bytes]] = {}
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self.inner(batch)
        self.shapes.add(tuple(batch.shape))
        for example, row in zip(batch, logits, strict=True):
            key = example.double().numpy().tobytes()
            self.seen.setdefault(key, set()).add(row.double().numpy().tobytes())
        return logits


class Attention(torch.nn.Module):
    """A transformer layer over 8 tokens of 8 values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 32, batch_first=True)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(batch.reshape(-1, 8, 8)).flatten(1))


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    nn = torch.nn
    made = {
        "linear": lambda: nn.Linear(64, 10),
        "deep": lambda: nn.Sequential(
            # Tanh over rows of odd length: a row's bits depend on its place in the batch.
            nn.Linear(64, 300),
            nn.ReLU(),
            nn.Linear(300, 77),
            nn.Tanh(),
            nn.Linear(77, 10),
        ),
        "convolution": lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, stride=2),
            nn.Flatten(),
            nn.Linear(72, 10),
        ),
        "attention": Attention,
    }[kind]()
    return made.eval()


@pytest.mark.parametrize("batch", [1, 13, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "deep", "convolution", "attention"])
def test_logits_do_not_depend_on_the_neighbours(kind: str, dtype: torch.dtype, batch: int) -> None:
    count = 50
    x = inputs(count, 64, zeros=0.3)
    recorder = Recorder(network(kind).to(dtype)).eval()
    scorer = NetworkScorer(
        x, np.zeros(count, dtype=np.int64), [str(i) for i in range(count)], batch
    )
    draws = np.random.default_rng(0)
    for _ in range(3):
        order = draws.permutation(count)
        for block in np.split(order, np.sort(draws.integers(0, count, size=4))):
            scorer.correct(recorder, block)
    assert recorder.shapes == {(batch, 64)}
    assert len(recorder.seen) == count
    assert {len(bits) for bits in recorder.seen.values()} == {1}


def scorer(labels: int = 0) -> NetworkScorer:
    return NetworkScorer(inputs(6, 4, 0), np.full(6, labels), [f"e{i}" for i in range(6)], 4)


class Returns(torch.nn.Module):
    """Gives what it is told to."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, batch: torch.Tensor) -> object:
        return self.value(batch) if callable(self.value) else self.value


def test_the_first_of_equal_logits_counts() -> None:
    equal = Returns(torch.ones(4, 3))
    assert scorer(0).correct(equal, np.arange(6)).tolist() == [1] * 6
    assert scorer(1).correct(equal, np.arange(6)).tolist() == [0] * 6


def test_near_ties_in_float64_are_told_apart() -> None:
    close = torch.tensor([[1.0, 1.0 + 2**-50]], dtype=torch.float64).repeat(4, 1)
    assert scorer(1).correct(Returns(close), np.arange(3)).tolist() == [1, 1, 1]


def _nan_for_the_third(batch: torch.Tensor) -> torch.Tensor:
    logits = torch.zeros(4, 3)
    logits[2, 1] = float("nan")
    return logits


def _fails(batch: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("mat1 and mat2\nshapes")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (_nan_for_the_third, "example 'e2' hold NaN"),
        (_fails, "batch of shape (4, 4): RuntimeError: mat1 and mat2"),
        (torch.ones(4), "shape (examples, classes) from the network; got (4,)"),
        (torch.ones(3, 5), "expected logits for 4 examples from the network; got 3"),
        ({"logits": 1}, "got dict"),
        (torch.ones(4, 1), "the network has 1 outputs, but label 2 occurs"),
    ],
)
def test_bad_logits_are_named(value: object, words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        scorer(2).correct(Returns(value), np.arange(6))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_fills_up_a_batch_is_not_judged() -> None:
    # Only places 0 and 1 are asked: NaN at place 2 belongs to nobody.
    got = scorer(0).correct(Returns(_nan_for_the_third), np.arange(2))
    assert got.tolist() == [1, 1]


def test_every_example_keeps_its_place() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    places: dict[int, set[int]] = {i: set() for i in range(10)}

    def note(batch: torch.Tensor) -> torch.Tensor:
        for place, example in enumerate(batch[:, 0].int().tolist()):
            places[example].add(place)
        return torch.cat([batch, batch + 1], dim=1)

    labels = np.arange(10) % 2
    made = NetworkScorer(x, labels, [str(i) for i in range(10)], 4)
    for rows in ([9, 1, 5], [5], list(range(10)), [3, 7, 7, 3, 3], []):
        got = made.correct(Returns(note), np.array(rows, dtype=np.int64))
        assert got.tolist() == [float(row % 2) for row in rows]
    assert places == {i: {i % 4} for i in range(10)}


def test_all_in_order_take_the_fewest_passes() -> None:
    recorder = Recorder(network("linear"))
    passes: list[int] = []
    recorder.register_forward_hook(lambda *_: passes.append(1))
    made = NetworkScorer(inputs(50, 64, 0), np.zeros(50, dtype=np.int64), [""] * 50, 16)
    made.correct(recorder, np.arange(50))
    assert len(passes) == 4
