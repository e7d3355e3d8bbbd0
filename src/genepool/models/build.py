"""Which live model a run needs, and making it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, TORCH_NAMES, as_float32, floating_named
from genepool.checkpoints.layout import Layout
from genepool.errors import ConfigError, MissingExtraError
from genepool.materialise.cpu import Destination
from genepool.messages import at
from genepool.models.language import is_language_model, read_config
from genepool.models.live import LiveModel


def _torch_name(given: object) -> object:
    code = floating_named(given) if isinstance(given, str) else None
    return given if code is None else TORCH_NAMES[code]


class ModelOptions(BaseModel):
    """What a genome is made into before it is scored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["auto", "arrays", "network", "transformers"] = Field(
        default="auto",
        description="'arrays': tasks get the tensors as plain float32 arrays by name. 'network': "
        "they get a torch network, made by the function in 'network'. 'transformers': a language "
        "model, built from the first seed's config.json (extra 'llm'). By default the network if "
        "there is one, a language model if the first seed is a directory whose config.json names "
        "one, and arrays otherwise.",
    )
    network: str | None = Field(
        default=None,
        description="'module:function' that takes no arguments and returns a torch network whose "
        "parameters and buffers have the checkpoint's names.",
    )
    device: str = Field(
        default="cpu",
        description="Where a network or language model runs, as torch writes it: 'cpu', 'cuda:0'.",
    )
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None, BeforeValidator(_torch_name)
    ] = Field(
        default=None,
        description="What it computes in; by default the dtypes that a network comes with, and for "
        "a language model the one that most of the first seed's weights have.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="Directory with a language model's tokenizer; by default the first seed's.",
    )


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
        ConfigError: the options contradict each other, or the model cannot be made.
        CheckpointError: the model and the checkpoints differ in names or shapes, or a language
            model's files cannot be used.
        MissingExtraError: a network without torch, or a language model without transformers.
    """
    first = checkpoints[0]
    kind = model_kind(options, first)
    if kind == "network":
        _require_package("torch", "torch", "a model with a 'network'")
        from genepool.models.network import build_network

        function = options.network or ""
        return build_network(function, options.device, options.dtype, layout, first, directory)
    if kind == "transformers":
        _require_package("torch", "llm", "a language model")
        _require_package("transformers", "llm", "a language model")
        from genepool.models.transformers import build_language_model

        words = None if options.tokenizer is None else directory / options.tokenizer
        return build_language_model(options.device, options.dtype, words, layout, first)
    if options.device != "cpu" or options.dtype is not None:
        raise ConfigError(
            "model: 'device' and 'dtype' apply to a network or a language model; the tasks of this "
            "run get arrays"
        )
    return _arrays(layout, first)


def model_kind(
    options: ModelOptions, first: Checkpoint
) -> Literal["arrays", "network", "transformers"]:
    """What tasks will be given; only small text files are read.

    Raises:
        ConfigError: the options contradict each other.
        CheckpointError: the first seed's config.json cannot be read.
    """
    kind = options.kind
    if options.network is not None and kind not in ("auto", "network"):
        raise ConfigError(f"model: 'network' does not go with kind '{kind}'; leave out one of them")
    if kind == "network" and options.network is None:
        raise ConfigError("model: kind 'network' needs 'network': 'module:function'")
    if options.network is not None:
        kind = "network"
    elif kind in ("auto", "transformers"):
        config = read_config(first.directory)
        if config is None and kind == "transformers":
            raise ConfigError(
                f"model: kind 'transformers' needs the first seed to be a directory with a "
                f"config.json; {at(first.path)} is none"
            )
        language = config is not None and (kind == "transformers" or is_language_model(config))
        kind = "transformers" if language else "arrays"
    if options.tokenizer is not None and kind != "transformers":
        raise ConfigError("model: 'tokenizer' applies to a language model only")
    return kind


def _require_package(package: str, extra: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)


def _arrays(layout: Layout, first: Checkpoint) -> LiveModel:
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
        return as_float32(tensor.raw, tensor.dtype).reshape(tensor.shape)
    values = tensor.raw.astype(bool) if tensor.dtype == "BOOL" else tensor.raw.copy()
    return values.reshape(tensor.shape)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    # A view: the memory behind it stays writable for genomes, but not for a task by mistake.
    view = array.view()
    view.setflags(write=False)
    return view
