"""Torch networks as classifiers: which examples of a fixed set get their label right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.errors import EvaluationError
from genepool.messages import failures_as, one_line

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


class NetworkScorer:
    """Forward passes over one fixed set of examples; not for several threads at once.

    The last bits of an example's logits may depend on the shape of its batch and on its place in it
    (an optimised loop treats the rows at its end in another way), but not on what stands at the
    other places. So all passes have one shape, and example i always stands at place i modulo the
    batch size. A pass is not full if the examples asked do not fill all places equally: for a
    random choice of ten times the batch size about a third more passes are made than are needed.
    """

    def __init__(self, inputs: Float32, labels: Int64, ids: Sequence[str], batch: int) -> None:
        """Prepare.

        Args:
            inputs: float32[X, ...], each example shaped as the network expects it.
            labels: int64[X].
            ids: X names, for messages.
            batch: examples per forward pass.
        """
        self._inputs = inputs
        self._labels = labels
        self._ids = ids
        self._largest = int(labels.max())
        self._buffer = np.empty((batch, *inputs.shape[1:]), dtype=np.float32)

    def correct(self, network: torch.nn.Module, rows: Int64) -> Float32:
        """Score a network: 1 where the first largest logit is the label's, else 0.

        Args:
            network: called with a tensor of shape (batch, ...) in its own dtype on its own device;
                returns logits (batch, classes).
            rows: int64[n], in range.

        Returns:
            float32[n].

        Raises:
            EvaluationError: the network fails, or its logits have the wrong shape or hold NaN.
        """
        out = np.empty(rows.size, dtype=np.float32)
        device, dtype = _place(network)
        for examples, asked in self._passes(rows):
            np.take(self._inputs, examples, axis=0, out=self._buffer)
            logits = self._forward(network, device, dtype)
            places = np.flatnonzero(asked >= 0)
            wrong = places[np.isnan(logits[places]).any(axis=1)]
            if wrong.size:
                example = self._ids[int(examples[wrong[0]])]
                raise EvaluationError(
                    f"the network's logits for example '{one_line(example)}' hold NaN"
                )
            right = logits.argmax(axis=1) == self._labels[examples]
            out[asked[places]] = right[places]
        return out

    def _passes(self, rows: Int64) -> Iterator[tuple[Int64, Int64]]:
        """(example at each place, its position in `rows` or -1 if it only fills the place)."""
        batch = self._buffer.shape[0]
        places = rows % batch
        order = np.argsort(places, kind="stable")
        counts = np.bincount(places, minlength=batch)
        number = np.arange(rows.size) - (np.cumsum(counts) - counts)[places[order]]
        filling = np.arange(batch, dtype=np.int64) % self._labels.size
        examples = np.tile(filling, (int(counts.max(initial=0)), 1))
        asked = np.full_like(examples, -1)
        examples[number, places[order]] = rows[order]
        asked[number, places[order]] = order
        return zip(examples, asked, strict=True)

    def _forward(
        self, network: torch.nn.Module, device: torch.device, dtype: torch.dtype
    ) -> NDArray[np.float64]:
        batch = torch.from_numpy(self._buffer).to(device=device, dtype=dtype)  # pyright: ignore
        what = f"the network failed on a batch of shape {self._buffer.shape}"
        with failures_as(EvaluationError, what), torch.inference_mode():
            logits: Any = network(batch)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise EvaluationError(
                f"expected logits of shape (examples, classes) from the network; got {got}"
            )
        if logits.shape[0] != self._buffer.shape[0]:
            raise EvaluationError(
                f"expected logits for {self._buffer.shape[0]} examples from the network; "
                f"got {logits.shape[0]}"
            )
        if self._largest >= logits.shape[1]:
            raise EvaluationError(
                f"the network has {logits.shape[1]} outputs, but label {self._largest} occurs in "
                "the data"
            )
        # float64 holds every float dtype exactly, so that ties stay ties.
        return logits.to(device="cpu", dtype=torch.float64).numpy()


def _place(network: torch.nn.Module) -> tuple[torch.device, torch.dtype]:
    for tensor in network.parameters():
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
