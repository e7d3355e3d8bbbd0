"""The classifier: the contract over every kind of data and model, and the reference's numbers."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.datasets import load_digits

from genepool.errors import ConfigError, EvaluationError, MissingExtraError
from genepool.tasks import datasets
from genepool.tasks.classifier.evaluator import Classifier
from genepool.tasks.datasets import digits
from genepool.tasks.task import open_task
from genepool.testing.tasks import check_task
from tests.nets import clouds, mlp, specialist

Shared = Callable[[str], Path]


def opened(directory: Path, **options: Any) -> Classifier:
    """A classifier, opened like the run layer does."""
    task = open_task("classifier", options, directory)
    assert isinstance(task, Classifier)
    return task


def write_idx(path: Path, array: NDArray[Any]) -> None:
    """An IDX file, gzipped if its name says so."""
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    code = codes[array.dtype.str[1:]]
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    data += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def bytes_data(count: int = 60) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Small images, 4 x 5, with labels 0..2."""
    draws = np.random.default_rng(3)
    x = draws.integers(0, 256, size=(count, 4, 5)).astype(np.uint8)
    return x, (np.arange(count) % 3).astype(np.uint8)


@pytest.mark.parametrize(
    ("labels", "options", "told"),
    [
        (np.arange(100) // 10, {}, "8 labels, and the held-out ones 2"),
        (np.arange(100) // 10, {"held_out": 0.05}, "10 labels, and the held-out ones 1"),
        (np.arange(100) // 25 * 7 % 4, {}, "4 labels, and the held-out ones 1"),
        (np.arange(100) // 10, {"held_out": 0.0, "limit": 10}, "1 label of 10"),
        (np.arange(100) // 10, {"held_out": 0.0}, None),
        (np.arange(100) % 10, {"limit": 5}, None),
        (np.arange(100) // 50, {"held_out": 0.5}, "1 label, and the held-out ones 1"),
        (np.zeros(100, int), {}, None),
    ],
)
def test_examples_that_are_stored_class_by_class_are_told(
    labels: NDArray[np.int64], options: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    """Held-out examples come from the end, and a limit leaves the first ones."""
    inputs = np.arange(200, dtype=np.float32).reshape(100, 2)
    np.savez(tmp_path / "data.npz", x=inputs, y=labels)
    notices = opened(tmp_path, data="data.npz", **options).notices
    assert [*notices] == [] if told is None else told in notices[0]


def test_held_out_examples_that_are_selection_examples_too_are_told(tmp_path: Path) -> None:
    inputs = np.arange(200, dtype=np.float32).reshape(100, 2)
    inputs[[90, 97]] = inputs[[3, 4]]
    np.savez(tmp_path / "data.npz", x=inputs, y=np.arange(100) % 3)
    (told,) = opened(tmp_path, data="data.npz", held_out=0.1).notices
    assert told.startswith("2 of 10 held-out examples also stand among the selection examples")
    assert opened(tmp_path, data="data.npz", held_out=0.1, limit=3).notices == ()


class Linear(torch.nn.Module):
    """A network over images of any shape."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(features, hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden, classes),
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layers(batch)


class Convolution(torch.nn.Module):
    """A network that wants images of shape (1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, padding=1),
            torch.nn.BatchNorm2d(6),
            torch.nn.GELU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(6, 8, 3),
            torch.nn.Flatten(),
            torch.nn.LayerNorm(32),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(32, 10),
        )

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layers(batch / 16)


class TestContract:
    def test_digits_and_arrays(self, tmp_path: Path) -> None:
        def open_it() -> Classifier:
            return opened(tmp_path)

        check_task(open_it(), mlp((64, 32, 10), 2), reopen=open_it)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_digits_and_a_network(self, tmp_path: Path, dtype: torch.dtype) -> None:
        def open_it() -> Classifier:
            return opened(tmp_path, limit=150, batch=24)

        network = Linear(64, 40, 10).to(dtype).eval()
        check_task(open_it(), network, reopen=open_it)

    def test_digits_and_a_convolution(self, tmp_path: Path) -> None:
        task = opened(tmp_path, limit=150, shape=[1, 8, 8])
        check_task(task, Convolution().eval())

    @pytest.mark.parametrize("with_test", [True, False])
    def test_npz(self, tmp_path: Path, with_test: bool) -> None:
        x, y = clouds()
        more = {"x_test": x[:30], "y_test": y[:30]} if with_test else {}
        np.savez_compressed(tmp_path / "data.npz", x=x, y=y, **more)

        def open_it() -> Classifier:
            return opened(tmp_path, data="data.npz")

        task = open_it()
        assert (len(task.samples), len(task.held_out)) == ((120, 30) if with_test else (96, 24))
        check_task(task, mlp((6, 20, 3), 4), reopen=open_it)

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_idx(self, tmp_path: Path, suffix: str) -> None:
        x, y = bytes_data()
        write_idx(tmp_path / f"x{suffix}", x)
        write_idx(tmp_path / f"y{suffix}", y)
        files = {"images": f"x{suffix}", "labels": f"y{suffix}", "scale": 1 / 255}
        task = opened(tmp_path, **files)
        check_task(task, mlp((20, 8, 3), 1))
        check_task(task, Linear(20, 8, 3).eval())


class TestReference:
    @pytest.mark.parametrize("name", ["digits_0_to_4", "digits_5_to_9"])
    def test_the_specialists_reach_their_accuracies_exactly(
        self, tmp_path: Path, name: str, shared: Shared
    ) -> None:
        published = json.loads(shared("reference/digits.json").read_text())["specialists"][name]
        with np.load(shared("reference/digits_specialists.npz")) as file:
            model = specialist(file["seed0" if name == "digits_0_to_4" else "seed1"])
        task = opened(tmp_path)
        train = task.score(model, np.arange(1437))
        test = task.score(model, np.arange(360), held_out=True)
        assert int(train.sum()) == round(published["train"] * 1437)
        assert int(test.sum()) == round(published["test"] * 360)
        own = np.isin(digits().labels, range(5) if name == "digits_0_to_4" else range(5, 10))
        assert train[own[:1437]].mean() == pytest.approx(published["train_own"], abs=1e-7)
        assert test[own[1437:]].mean() == pytest.approx(published["test_own"], abs=1e-7)
        assert train[~own[:1437]].sum() == published["train_other"] == 0

    def test_a_network_and_arrays_agree(self, tmp_path: Path, shared: Shared) -> None:
        with np.load(shared("reference/digits_specialists.npz")) as file:
            model = specialist(file["seed0"])
        network = Linear(64, 256, 10).eval()
        for layer, name in ((1, "hidden"), (3, "output")):
            linear = network.layers[layer]
            assert isinstance(linear, torch.nn.Linear)
            linear.weight.data = torch.tensor(model[f"{name}.weight"].T.copy())
            linear.bias.data = torch.tensor(model[f"{name}.bias"])
        task = opened(tmp_path)
        for held_out, count in ((False, 1437), (True, 360)):
            rows = np.arange(count)
            one = task.score(model, rows, held_out=held_out)
            other = task.score(network, rows, held_out=held_out)
            np.testing.assert_array_equal(one, other)

    def test_real_mnist(self, tmp_path: Path, shared: Shared) -> None:
        images = shared("data/mnist/t10k-images-idx3-ubyte.gz")
        labels = shared("data/mnist/t10k-labels-idx1-ubyte.gz")
        task = opened(tmp_path, images=str(images), labels=str(labels), held_out=0.1, scale=1 / 255)
        assert (len(task.samples), len(task.held_out)) == (9000, 1000)
        with gzip.open(images) as file:
            pixels = np.frombuffer(file.read()[16:], dtype=np.uint8).reshape(10000, 784)
        with gzip.open(labels) as file:
            digit = np.frombuffer(file.read()[8:], dtype=np.uint8)
        # Class means as a linear classifier: 2 m.x - m.m is largest for the closest mean.
        x = pixels.astype(np.float32) / 255
        means = np.stack([x[:9000][digit[:9000] == c].mean(axis=0) for c in range(10)])
        model = {
            "closest.weight": np.ascontiguousarray(2 * means.T),
            "closest.bias": -(means * means).sum(axis=1),
        }
        got = task.score(model, np.arange(1000), held_out=True)
        distances = ((x[9000:, None] - means) ** 2).sum(axis=2)
        expected = distances.argmin(axis=1) == digit[9000:]
        assert 0.7 < got.mean() < 0.95
        assert (got != expected).mean() < 0.003
        check_task(task, model, at_most=100)


class TestOptions:
    def test_digits_are_the_default_and_unscaled(self, tmp_path: Path) -> None:
        x, y = digits().inputs, digits().labels
        assert x.shape == (1797, 64) and x.dtype == np.float32 and y.dtype == np.int64
        assert (x.min(), x.max()) == (0, 16)
        task = opened(tmp_path)
        assert (len(task.samples), len(task.held_out)) == (1437, 360)
        assert task.digest == opened(tmp_path, data="digits").digest
        assert task.binary

    @pytest.mark.parametrize(
        ("held_out", "train"), [(0, 1797), (0.0, 1797), (0.5, 898), (0.9, 179), (0.999, 1)]
    )
    def test_held_out_comes_from_the_end(self, tmp_path: Path, held_out: float, train: int) -> None:
        task = opened(tmp_path, held_out=held_out)
        assert (len(task.samples), len(task.held_out)) == (train, 1797 - train)
        assert not set(task.samples) & set(task.held_out)

    def test_limit_shortens_training_only(self, tmp_path: Path) -> None:
        whole, part = opened(tmp_path), opened(tmp_path, limit=100)
        assert part.samples == whole.samples[:100]
        assert len(part.held_out) == 360
        model = mlp((64, 10), 1)
        for held_out in (False, True):
            rows = np.arange(100)
            one = whole.score(model, rows, held_out=held_out)
            other = part.score(model, rows, held_out=held_out)
            assert one.tobytes() == other.tobytes()

    def test_whatever_changes_scores_changes_the_digest(self, tmp_path: Path) -> None:
        x, y = clouds()
        variants: dict[str, tuple[Any, Any, dict[str, Any]]] = {
            "same": (x, y, {}),
            "order": (x[::-1], y[::-1], {}),
            "pixel": (np.where(np.arange(x.size).reshape(x.shape) == 7, x + 1, x), y, {}),
            "label": (x, np.where(np.arange(y.size) == 7, 0, y), {}),
            "fewer": (x[:-1], y[:-1], {}),
            "split": (x, y, {"held_out": 0.25}),
            "limit": (x, y, {"limit": 10}),
            "scale": (x, y, {"scale": 2.0}),
            "shape": (x, y, {"shape": [2, 3]}),
            "batch": (x, y, {"batch": 7}),
        }
        digests = set[str]()
        for name, (inputs, labels, options) in variants.items():
            np.savez(tmp_path / f"{name}.npz", x=inputs, y=labels)
            digests.add(opened(tmp_path, data=f"{name}.npz", **options).digest)
        assert len(digests) == len(variants)
        np.savez_compressed(tmp_path / "again.npz", y=y, x=x.astype(np.float64))
        assert opened(tmp_path, data="again.npz").digest in digests

    def test_scale_multiplies_inputs(self, tmp_path: Path) -> None:
        x, y = clouds()
        np.savez(tmp_path / "data.npz", x=x, y=y)
        np.savez(tmp_path / "double.npz", x=2 * x, y=y)
        one = opened(tmp_path, data="data.npz", scale=2.0)
        assert one.digest == opened(tmp_path, data="double.npz").digest

    def test_test_files(self, tmp_path: Path) -> None:
        x, y = bytes_data()
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        write_idx(tmp_path / "t", x[:9].astype(np.float32))
        write_idx(tmp_path / "u.gz", y[:9].astype(np.int32))
        files = {"images": "x.npy", "labels": "y.npy", "test_images": "t", "test_labels": "u.gz"}
        task = opened(tmp_path, **files)
        assert (len(task.samples), len(task.held_out)) == (60, 9)
        model = mlp((20, 3), 2)
        train = task.score(model, np.arange(9))
        assert train.tobytes() == task.score(model, np.arange(9), held_out=True).tobytes()
        with pytest.raises(ConfigError, match="test set of their own"):
            opened(tmp_path, **files, held_out=0.1)

    @pytest.mark.parametrize(
        "options",
        [{"held_out": 1}, {"held_out": -0.1}, {"limit": 0}, {"scale": float("nan")},
         {"shape": [0]}, {"batch": 0}, {"limit": "3"}, {"network": "a:b"}],
    )  # fmt: skip
    def test_values_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Classifier.Options.model_validate(options)

    def test_without_scikit_learn_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"pip install '[^']*\[digits\]"):
            opened(tmp_path)

    def test_digits_are_those_of_scikit_learn_wherever_it_has_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected: Any = load_digits()
        for file in (datasets._DIGITS, "datasets/data/moved.csv.gz"):
            monkeypatch.setattr(datasets, "_DIGITS", file)
            found = digits()
            assert found.inputs.tobytes() == expected.data.astype(np.float32).tobytes()
            assert found.labels.tolist() == expected.target.tolist()
            assert found.labels.dtype == np.int64

    def test_digits_do_not_import_scikit_learn(self) -> None:
        code = (
            "import sys; from genepool.tasks.datasets import digits; digits(); "
            "sys.exit('sklearn' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class TestModels:
    def test_something_else_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(EvaluationError, match="a torch network; got str"):
            opened(tmp_path).score("model", np.arange(2))

    def test_arrays_get_examples_flat_whatever_the_shape(self, tmp_path: Path) -> None:
        model, rows = mlp((64, 20, 10), 1), np.arange(100)
        one = opened(tmp_path).score(model, rows)
        other = opened(tmp_path, shape=[1, 8, 8]).score(model, rows)
        assert one.tobytes() == other.tobytes()
