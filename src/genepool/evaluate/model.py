"""Live models: what tasks score, and the memory that genomes are materialised into."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from genepool.core.genome import Genome
from genepool.errors import ConfigError, MissingExtraError
from genepool.weights.checkpoint import Checkpoint, Tensor
from genepool.weights.dtypes import DTYPES, as_float32
from genepool.weights.layout import Layout
from genepool.weights.materialise import Destination, Materialiser


class ModelOptions(BaseModel):
    """What a genome is made into before it is scored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    network: str | None = Field(
        default=None,
        description="'module:function' that takes no arguments and returns a torch network whose "
        "parameters and buffers have the checkpoint's names. Without it tasks get the tensors as "
        "plain float32 arrays by name.",
    )
    device: str = Field(
        default="cpu", description="Where the network runs, as torch writes it: 'cpu', 'cuda:0'."
    )
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = Field(
        default=None,
        description="What the network computes in; by default the dtypes that it comes with.",
    )


class Writer(Protocol):
    """Writes genomes into a live model."""

    def write(self, genome: Genome) -> None:
        """Compute a genome into the model's memory."""
        ...


@dataclass(frozen=True, eq=False)
class LiveModel:
    """One model in memory, to be filled with genome after genome.

    Attributes:
        value: what tasks are given: a read-only mapping of read-only arrays, or a torch network.
        destinations: memory of the tensors, as `Materialiser` takes it; empty where the network is
            not in plain memory (another device, or strided).
        tensors: the network's tensors, as `DeviceMaterialiser` takes them; empty for arrays.
    """

    value: Any
    destinations: Mapping[str, Destination]
    tensors: Mapping[str, Any]

    def writer(
        self, checkpoints: Sequence[Checkpoint], layout: Layout, threads: int | None = None
    ) -> Writer:
        """What writes genomes over these seeds into the model; see `weights.materialise`.

        Raises:
            InputError, CheckpointError: the seeds or the layout are not those of the model.
        """
        if self.destinations:
            return Materialiser(checkpoints, layout, self.destinations, threads)
        from genepool.weights.torch_tensors import DeviceMaterialiser

        return DeviceMaterialiser(checkpoints, layout, self.tensors, threads)


def build_model(
    options: ModelOptions, layout: Layout, checkpoints: Sequence[Checkpoint], directory: Path
) -> LiveModel:
    """Make room for one model of this layout.

    Args:
        options: which kind of model.
        layout: of the seeds.
        checkpoints: the seeds; tensors that do not merge come from the first.
        directory: the run file's folder, where the network's module is looked for.

    Raises:
        ConfigError: the options contradict each other, or the network cannot be made.
        CheckpointError: the network and the checkpoints differ in names or shapes.
        MissingExtraError: a network without torch.
    """
    if options.network is not None:
        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError("torch", "torch", "a model with a 'network'")
        from genepool.evaluate.torch_model import build_network

        return build_network(
            options.network, options.device, options.dtype, layout, checkpoints[0], directory
        )
    if options.device != "cpu" or options.dtype is not None:
        raise ConfigError("model: 'device' and 'dtype' apply to a 'network', and none is named")
    return _arrays(layout, checkpoints[0])


def _arrays(layout: Layout, first: Checkpoint) -> LiveModel:
    value: dict[str, NDArray[Any]] = {}
    destinations: dict[str, Destination] = {}
    for slot in layout.slots:
        memory = np.zeros(slot.stop - slot.start, dtype=np.float32)
        destinations[slot.name] = Destination("F32", memory)
        value[slot.name] = _read_only(memory.reshape(slot.shape))
    for name in layout.carried:
        value[name] = _read_only(_carried(first.tensors[name]))
    return LiveModel(MappingProxyType(value), MappingProxyType(destinations), {})


def _carried(tensor: Tensor) -> NDArray[Any]:
    if DTYPES[tensor.dtype].floating:
        return as_float32(tensor.raw, tensor.dtype).reshape(tensor.shape)
    values = tensor.raw.astype(bool) if tensor.dtype == "BOOL" else tensor.raw.copy()
    return values.reshape(tensor.shape)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    # A view: the memory behind it stays writable for genomes, but not for a task by mistake.
    view = array.view()
    view.setflags(write=False)
    return view
