"""A live model: what tasks score, and the memory that genomes are materialised into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.core.genome import Genome
from genepool.errors import EvaluationError
from genepool.materialise.cpu import Destination, Materialiser, SeedsPlace
from genepool.messages import one_line


class Writer(Protocol):
    """Writes genomes into a live model."""

    def write(self, genome: Genome) -> None:
        """Compute a genome into the model's memory."""
        ...


@runtime_checkable
class Answering(Protocol):
    """A live model's value that answers when it is asked, so that its answers can be judged."""

    @property
    def of_seeds(self) -> Callable[[Callable[[], Any]], list[Any]] | None:
        """See `kind.OfSeeds`; None where there are no seeds at hand."""
        ...

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a user's function is given, before the examples."""
        ...

    def asked(self) -> AbstractContextManager[list[Any]]:
        """A context in which the model is asked: answers repeat, and numbers are looked at.

        It gives a list to which all that the model answers is added.

        Raises:
            EvaluationError: the model gave NaN or infinity, whatever was made of it.
        """
        ...

    def garbage(self, answers: Sequence[Any]) -> Mapping[str, Sequence[str]]:
        """Answers that no sane model gives: what is wrong with them -> how each is shown, or ""."""
        ...


@runtime_checkable
class Drawing(Protocol):
    """A live model's value that draws pictures."""

    def pictures(self, prompts: Sequence[str], ids: Sequence[str]) -> NDArray[np.uint8]:
        """Draw one picture for each prompt, all in one batch.

        The noise of a picture depends on its id alone. Its last bits may depend on what else is in
        the batch: whoever scores pictures draws in fixed blocks.

        Args:
            prompts: n texts.
            ids: n names of examples.

        Returns:
            uint8[n, H, W, 3].

        Raises:
            EvaluationError: the model cannot draw.
        """
        ...


def refuse_one_colour(ids: Sequence[str], pictures: NDArray[np.uint8]) -> None:
    """Refuse a picture that shows nothing, by the id of its example.

    Raises:
        EvaluationError: there is one among uint8[n, H, W, 3].
    """
    for name, picture in zip(ids, pictures, strict=True):
        if (picture == picture[0, 0]).all():
            colour = picture[0, 0].tolist()
            text = f"the picture for example '{one_line(name)}' is of one colour, {colour}"
            raise EvaluationError(text)


class SpreadWriter:
    """Writes into a model that lies on several devices: what lies on each is computed there."""

    def __init__(self, parts: Sequence[Any]) -> None:
        """`parts`: one `DeviceMaterialiser` for each device."""
        self._parts = parts

    @property
    def resident_bytes(self) -> int:
        """Bytes of the seeds that lie on the devices."""
        return sum(part.resident_bytes for part in self._parts)

    def write(self, genome: Genome) -> None:
        """See `Writer`."""
        for part in self._parts:
            part.write(genome)


def _devices(tensors: Mapping[str, Any]) -> list[Any]:
    """The devices on which tensors lie; the CPU is none."""
    places = [tensor.device for tensor in tensors.values() if tensor is not None]
    return [*dict.fromkeys(place for place in places if place.type != "cpu")]


def _parted(tensors: Mapping[str, Any], devices: Sequence[Any]) -> list[dict[str, Any]]:
    """All names for each device, with None for what others write; the first has the CPU's too."""

    def owner(tensor: Any) -> Any:
        return tensor.device if tensor.device in devices else devices[0]

    return [
        {
            name: None if tensor is None or owner(tensor) != device else tensor
            for name, tensor in tensors.items()
        }
        for device in devices
    ]


@dataclass(frozen=True, eq=False)
class LiveModel:
    """One model in memory, to be filled with genome after genome.

    Attributes:
        value: what tasks are given: a read-only mapping of read-only arrays, a torch network, or a
            `LanguageModel`.
        destinations: memory of the tensors, as `Materialiser` takes it; empty where the network is
            not in plain memory (another device, or strided).
        tensors: the network's tensors, as `CopyingMaterialiser` takes them; empty for arrays.
        module: the torch module that the value computes with, for who looks whether it is still as
            it was built; None where tasks cannot change it.
    """

    value: Any
    destinations: Mapping[str, Destination | None]
    tensors: Mapping[str, Any]
    module: Any = None

    def writer(
        self,
        checkpoints: Sequence[Checkpoint],
        layout: Layout,
        threads: int | None = None,
        *,
        as_exported: bool = True,
        seeds: SeedsPlace = "auto",
    ) -> Writer:
        """What writes genomes over these seeds into the model; see `materialise`.

        By default the model holds what loading an exported checkpoint would give. On devices it is
        computed there, with `seeds` where that option of the run file says.

        Raises:
            InputError, CheckpointError: the seeds or the layout are not those of the model.
        """
        if self.destinations:
            return Materialiser(
                checkpoints, layout, self.destinations, threads, as_exported=as_exported
            )
        if devices := _devices(self.tensors):
            from genepool.materialise.device import DeviceMaterialiser

            parts = [
                DeviceMaterialiser(
                    checkpoints, layout, part, threads, as_exported=as_exported, seeds=seeds
                )
                for part in _parted(self.tensors, devices)
            ]
            return parts[0] if len(parts) == 1 else SpreadWriter(parts)
        from genepool.materialise.torch import CopyingMaterialiser

        return CopyingMaterialiser(
            checkpoints, layout, self.tensors, threads, as_exported=as_exported
        )
