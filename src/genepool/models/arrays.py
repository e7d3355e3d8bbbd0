"""Plain arrays as live models: tensors by name, float32, which tasks may read but not change."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES
from genepool.errors import ConfigError
from genepool.materialise.cpu import Destination
from genepool.models.kind import Building, Kind, Options, refuse_others
from genepool.models.live import LiveModel


def _check(options: Options, _first: Checkpoint) -> None:
    refuse_others(options, ())
    if options.device != "cpu" or options.dtype is not None:
        raise ConfigError(
            "model: 'device' and 'dtype' apply to a network or a language model; the tasks of this "
            "run get arrays"
        )


def _build(building: Building) -> LiveModel:
    layout, first = building.layout, building.first
    value: dict[str, NDArray[Any]] = {}
    destinations: dict[str, Destination | None] = {}
    for slot in layout.slots:
        whole = first.tensors[slot.name]
        memory = np.zeros(whole.raw.size, dtype=np.float32)
        destinations[slot.name] = Destination("F32", memory)
        value[slot.name] = _read_only(memory.reshape(whole.shape))
    for name in layout.carried:
        value[name] = _read_only(_carried(first.tensors[name]))
    return LiveModel(MappingProxyType(value), MappingProxyType(destinations), {})


def _carried(tensor: Tensor) -> NDArray[Any]:
    if DTYPES[tensor.dtype].floating:
        return tensor.floats()
    values = tensor.raw.astype(bool) if tensor.dtype == "BOOL" else tensor.raw.copy()
    return values.reshape(tensor.shape)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    # A view: the memory behind it stays writable for genomes, but not for a task by mistake.
    view = array.view()
    view.setflags(write=False)
    return view


ARRAYS = Kind(
    name="arrays",
    help="tasks get the tensors as plain float32 arrays by name.",
    is_meant=lambda _options, _first: True,
    check=_check,
    build=_build,
)
