"""The evaluator `classifier`: 1 for every example whose largest logit is its label's, else 0."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from genepool.errors import ConfigError, EvaluationError
from genepool.messages import at, count
from genepool.settings import Section
from genepool.tasks import datasets
from genepool.tasks.checks import checked_indices, content_digest
from genepool.tasks.datasets import Labelled
from genepool.tasks.stored import StoredTask, class_by_class, copies_told, train_size
from genepool.tasks.task import evaluator

if TYPE_CHECKING:
    from genepool.tasks.classifier.mlp import ArrayModel, Mlp
    from genepool.tasks.classifier.network_scorer import NetworkScorer

_HELD_OUT = 0.2
_BATCH = 16


class ClassifierOptions(Section):
    """Options of the evaluator `classifier`."""

    data: str | None = Field(
        default=None,
        description="This is 'digits' (scikit-learn's 8x8 digits, values 0 to 16, stored order), "
        "or an .npz file with arrays x and y and, if it has a test set, x_test and y_test. "
        "Without 'data' and 'images' it is digits.",
    )
    images: str | None = Field(
        default=None,
        description="This .npy or IDX file (.gz is allowed) holds the examples, instead of 'data'.",
    )
    labels: str | None = Field(
        default=None,
        description="This .npy or IDX file holds the labels of 'images', which count from 0.",
    )
    test_images: str | None = Field(
        default=None,
        description="This .npy or IDX file holds the held-out examples that belong to 'images'.",
    )
    test_labels: str | None = Field(
        default=None, description="This .npy or IDX file holds the labels of 'test_images'."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="This share of the examples is held out, from the end in stored order; by "
        "default it is 0.2, or the data's own test set is held out where there is one.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Members are selected by the first so many examples only."
    )
    scale: float = Field(
        default=1.0,
        allow_inf_nan=False,
        description="Every input is multiplied by this, for example 0.00392156862 for bytes to "
        "become 0 to 1.",
    )
    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        description="A network gets each example in this shape, for example [1, 28, 28]; by "
        "default it gets it as stored. A model of plain arrays always gets it flat.",
    )
    batch: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="A forward pass of a network takes so many examples (16 by default). All "
        "passes have this size and every example its place in them, so that a score does not "
        "depend on what else is asked. A model of plain arrays does not need it.",
    )


@evaluator("classifier")
class Classifier(StoredTask):
    """Images (or any inputs) with one label each.

    The model is either a mapping of plain float32 arrays, `<layer>.weight` [in, out] and
    `<layer>.bias` [out], taken as an MLP with ReLU between the layers (`x @ W + b`, layers in depth
    order of their names), or a torch network whose call on a batch gives logits (batch, classes).
    On equal logits the first counts.
    """

    Options = ClassifierOptions

    def __init__(self, options: ClassifierOptions, directory: Path) -> None:
        """Read the data.

        Raises:
            ConfigError: options that contradict each other, or data that cannot be used.
            MissingExtraError: digits without scikit-learn.
        """
        train, test = _split(options, directory)
        stored = train.labels
        if options.limit is not None:
            train = Labelled(train.inputs[: options.limit], train.labels[: options.limit])
        with np.errstate(over="ignore"):
            inputs = np.concatenate([train.inputs, test.inputs]) * np.float32(options.scale)
        if not bool(np.isfinite(inputs).all()):
            raise ConfigError(f"scale: {options.scale} makes inputs overflow float32")
        if options.shape is not None:
            if math.prod(options.shape) != math.prod(inputs.shape[1:]):
                raise ConfigError(
                    f"shape: {list(options.shape)} has "
                    f"{count(math.prod(options.shape), 'value')}, but an example has "
                    f"{math.prod(inputs.shape[1:])} (shape {list(inputs.shape[1:])})"
                )
            inputs = inputs.reshape(inputs.shape[0], *options.shape)
        sides = ([hash(row.tobytes()) for row in side.inputs] for side in (train, test))
        self.notices = class_by_class(stored, train.labels, test.labels) + copies_told(*sides)
        self._inputs = inputs
        self._labels = np.concatenate([train.labels, test.labels])
        self._batch = options.batch
        n = train.labels.size
        # The batch too: another may change the last bits of a network's logits.
        settings = f"{n} {self._batch or _BATCH}"
        digest = content_digest(["classifier 1", settings, self._inputs, self._labels])
        ids = (*(f"train-{i}" for i in range(n)), *(f"test-{i}" for i in range(test.labels.size)))
        super().__init__(ids, n, digest)
        self._mlp: Mlp | None = None
        self._network: NetworkScorer | None = None

    @property
    def binary(self) -> bool:
        """True."""
        return True

    @property
    def labels(self) -> tuple[str, ...]:
        """The class of each selection example, as text."""
        return tuple(str(label) for label in self._labels[: self._n].tolist())

    @property
    def batch(self) -> int:
        """Blocks of examples that are multiples of this waste nothing."""
        return self._batch or _BATCH

    def score(
        self, model: Any, indices: NDArray[np.int64], *, held_out: bool = False
    ) -> NDArray[np.float32]:
        """See `Task.score`. A network that changes itself when called is not supported.

        Raises:
            EvaluationError: the model does not fit the data, fails, or gives NaN.
        """
        first, last = self._range(held_out)
        if isinstance(model, Mapping):
            if indices.dtype != np.int64 or indices.ndim != 1:
                indices = checked_indices(indices, sys.maxsize)
            return self.mlp().correct(cast("ArrayModel", model), indices, first, last)
        rows = checked_indices(indices, last - first) + first
        return self._scorer(model).correct(model, rows)

    def mlp(self) -> Mlp:
        """What scores models of plain arrays, in compiled code."""
        if self._mlp is None:
            from genepool.tasks.classifier.mlp import Mlp

            flat = self._inputs.reshape(self._labels.size, -1)
            self._mlp = Mlp(flat, self._labels, self._ids)
        return self._mlp

    def _scorer(self, model: object) -> NetworkScorer:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(model, torch.nn.Module):
            raise EvaluationError(
                "the classifier scores a mapping of arrays or a torch network; got "
                f"{type(model).__name__}"
            )
        if self._network is None:
            from genepool.tasks.classifier.network_scorer import NetworkScorer

            self._network = NetworkScorer(
                self._inputs, self._labels, self._ids, self._batch or _BATCH
            )
        return self._network


def _split(options: ClassifierOptions, directory: Path) -> tuple[Labelled, Labelled]:
    data, test = _read(options, directory)
    if test is not None:
        if options.held_out is not None:
            raise ConfigError(
                "held_out: the data have a test set of their own; leave 'held_out' out"
            )
        if test.inputs.shape[1:] != data.inputs.shape[1:]:
            raise ConfigError(
                f"held-out examples have shape {test.inputs.shape[1:]}, selection examples "
                f"{data.inputs.shape[1:]}"
            )
        return data, test
    share = _HELD_OUT if options.held_out is None else options.held_out
    n = train_size(data.labels.size, share)
    return (
        Labelled(data.inputs[:n], data.labels[:n]),
        Labelled(data.inputs[n:], data.labels[n:]),
    )


def _read(options: ClassifierOptions, directory: Path) -> tuple[Labelled, Labelled | None]:
    files = {
        name: getattr(options, name)
        for name in ("images", "labels", "test_images", "test_labels")
        if getattr(options, name) is not None
    }
    if options.data is not None and files:
        raise ConfigError(f"'data' and '{next(iter(files))}' exclude each other; give one of them")
    if not files:
        if options.data in (None, "digits"):
            return datasets.digits(), None
        # It answers for names that are too long or hold NUL, too.
        if not os.path.exists(file := directory / options.data):  # noqa: PTH110
            raise ConfigError(f"data: expected 'digits' or an .npz file; no such file: {at(file)}")
        return datasets.read_npz(file)
    for one, other in (("images", "labels"), ("test_images", "test_labels")):
        if (one in files) != (other in files):
            given, missing = (one, other) if one in files else (other, one)
            raise ConfigError(f"'{given}' needs '{missing}' beside it")
    if "images" not in files:
        raise ConfigError("'test_images' needs 'images' beside it")

    def pair(images: str, labels: str) -> Labelled:
        return datasets.labelled(
            datasets.read_array(directory / files[images]),
            datasets.read_array(directory / files[labels]),
            f"{files[images]}, {files[labels]}",
        )

    train = pair("images", "labels")
    return train, pair("test_images", "test_labels") if "test_images" in files else None
