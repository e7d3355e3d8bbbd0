"""Torch models as live models: their tensors are matched to those of the seeds by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cache
from operator import is_
from types import MappingProxyType
from typing import Any, cast

import torch

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES
from genepool.checkpoints.layout import Layout
from genepool.errors import CheckpointError, ConfigError, InputError
from genepool.materialise.cpu import Destination
from genepool.materialise.device_memory import device_names, free_bytes
from genepool.materialise.torch import TORCH_DTYPES, destination
from genepool.messages import agreeing, failures_as, one_line, some
from genepool.models.kind import AUTO, Options
from genepool.models.live import LiveModel

WHICH_ARCHITECTURE = "is it the architecture that the seeds were saved from?"


@contextlib.contextmanager
def same_draws() -> Generator[None, None, None]:
    """Without gradients, and with the same random numbers of torch each time.

    The process's own random numbers go on afterwards as if nothing had been drawn.
    """
    with cast("Any", torch.random).fork_rng(), torch.inference_mode():
        for seed in _seeding():
            seed(0)
        yield


@cache
def _seeding() -> tuple[Callable[[int], Any], ...]:
    """What `torch.manual_seed` calls, but for devices that are not there: for each of those it
    writes down where it was called from, which takes it a millisecond."""
    found: list[Callable[[int], Any]] = [torch.default_generator.manual_seed]
    if torch.cuda.is_available():
        found.append(torch.cuda.manual_seed_all)
    if torch.backends.mps.is_available():
        found.append(torch.mps.manual_seed)
    if (xpu := getattr(torch, "xpu", None)) is not None and xpu.is_available():
        found.append(xpu.manual_seed_all)
    return tuple(found)


def filled_by_genomes(
    value: Any,
    held: Mapping[str, torch.Tensor],
    saved: Sequence[str],
    pair: str,
    layout: Layout,
    first: Checkpoint,
    module: torch.nn.Module | None = None,
) -> LiveModel:
    """A live model whose tensors are matched to the checkpoint's by name.

    Args:
        value: what tasks are given.
        held: the network's tensors by the checkpoint's names; what the layout merges and is not
            among them is passed over.
        saved: those of `held` that a checkpoint of the network must have, or have tied to others.
        pair: what does not fit what, for messages.
        layout: of the seeds.
        first: the first seed; it gives the tensors that do not merge.
        module: see `LiveModel`.

    Raises:
        CheckpointError: the network and the checkpoint differ in names, ties or shapes.
    """
    names = (*(slot.name for slot in layout.slots), *layout.carried)
    matched = {name: held[name] for name in names if name in held}
    owners: dict[tuple[torch.device, int], str] = {}
    for name, tensor in matched.items():
        if tensor.numel():
            other = owners.setdefault(_memory(tensor), name)
            if other != name:
                raise CheckpointError(
                    f"{pair}: the network ties {some([other, name])}, which the checkpoint stores "
                    "as two tensors that would be merged apart; save the seeds again with tied "
                    "weights stored once, or untie the network"
                )
    extra = [
        name
        for name in saved
        if name in held and name not in matched and _memory(held[name]) not in owners
    ]
    if extra:
        raise CheckpointError(f"{pair}: the checkpoint has no {some(extra)}; {WHICH_ARCHITECTURE}")
    shapes = {name: first.tensors[name].shape for name in matched}
    differing = [name for name in matched if tuple(held[name].shape) != shapes[name]]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{pair}: {some(differing)} {agreeing(len(differing), 'has', 'have')} another shape: "
            f"'{one_line(name)}' is {list(held[name].shape)} in the network and "
            f"{list(shapes[name])} in the checkpoint"
        )
    for name in layout.carried:
        if name in matched and DTYPES[first.tensors[name].dtype].floating:
            _fill(matched.pop(name), first.tensors[name])
    passed_over = [slot.name for slot in layout.slots if slot.name not in matched]
    tensors = {**matched, **dict.fromkeys(passed_over)}
    destinations: dict[str, Destination | None] = {}
    with contextlib.suppress(InputError):  # on another device, or strided
        destinations = {n: None if t is None else destination(t) for n, t in tensors.items()}
    return LiveModel(value, MappingProxyType(destinations), MappingProxyType(tensors), module)


def _memory(tensor: torch.Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.data_ptr()


def _fill(tensor: torch.Tensor, source: Tensor) -> None:
    # The network may hold the constant in another dtype than the file.
    tensor.copy_(torch.from_numpy(source.floats()))  # pyright: ignore


def own_dtype(layout: Layout) -> torch.dtype:
    """The dtype that most of the seeds' weights have."""
    sizes: dict[str, int] = {}
    for slot in layout.slots:
        sizes[slot.dtype] = sizes.get(slot.dtype, 0) + slot.stop - slot.start
    return TORCH_DTYPES[max(sizes, key=lambda code: sizes[code])]


def put_on(model: Any, options: Options) -> None:
    """Put a language model on its device, or its modules on several, as accelerate spreads it.

    Raises:
        ConfigError: a device is not there, is of another kind than `options.device` or has no
            room, the map names what is no module, or it takes apart what must stay together.
    """
    where = f"device '{one_line(options.device)}'"
    if options.device_map is not None:
        where = "the devices of 'device_map'"
    what = f"model: the language model cannot be put on {where}"
    with failures_as(ConfigError, what, passing=ConfigError):
        if options.device_map is None:
            model.to(device=torch.device(options.device))
            return
        _spread(model, options.device, options.device_map)
        # What accelerate does not notice shows when the model computes.
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=model.device))


def _spread(model: Any, device: str, given: Mapping[str, str]) -> None:
    accelerate: Any = importlib.import_module("accelerate")
    kind = torch.device(device).type
    if given == {"": AUTO}:
        given = _evenly(model, kind)
    known = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    for name, place in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"model.device_map: the model has no '{one_line(name)}'{hint}")
        # Of what lies elsewhere accelerate brings copies over, which no genome reaches.
        if torch.device(place).type != kind:
            raise ConfigError(
                f"model.device_map: '{one_line(name)}' is to lie on '{one_line(place)}', and "
                f"'model.device' says '{one_line(device)}'; all must be of that kind"
            )
    # Of the CPU alone it says that weights lie elsewhere, which is not so.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    tied = _tied(model)
    accelerate.dispatch_model(model, device_map=dict(given), force_hooks=True)
    apart = [names for names in tied if names not in _tied(model)]
    if apart:
        raise ConfigError(
            f"model.device_map: {some(apart[0])} are one tensor, which genomes are written into "
            "once, and lie on several devices; put them on one"
        )


def _tied(model: Any) -> list[list[str]]:
    """Names of parameters that are one tensor, a list for each tensor that has several."""
    owners: dict[tuple[torch.device, int], list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        owners.setdefault(_memory(tensor), []).append(name)
    return [names for names in owners.values() if len(names) > 1]


def _evenly(model: Any, kind: str) -> dict[str, str]:
    """Modules to devices, about as many bytes on each; what must be on one device stays whole."""
    utils: Any = importlib.import_module("accelerate.utils")
    names = device_names(kind)
    if kind != "cuda" or not names:
        raise ConfigError(
            f"model.device_map: 'auto' is for GPUs of CUDA, and 'model.device' says '{kind}' or "
            "there is none; leave it out"
        )
    free = [free_bytes(torch.device(name)) for name in names]
    room = {number: found[0] if found else 0 for number, found in enumerate(free)}
    whole: Any = getattr(model, "_no_split_modules", None)
    limits = utils.get_balanced_memory(model, {**room, "cpu": 0}, no_split_module_classes=whole)
    found = utils.infer_auto_device_map(model, limits, no_split_module_classes=whole)
    if not all(isinstance(place, int) for place in found.values()):
        raise ConfigError(
            f"model.device_map: {len(names)} GPUs have no room for the model; 'dtype: bfloat16' "
            "takes less"
        )
    return {name: names[place] for name, place in found.items()}


class Unchanged:
    """Looks whether a task has left a model as it was: its mode, and the tensors that genomes are
    written into.

    A network that a function has put elsewhere (`half()`, `to(...)`, a new parameter) computes with
    other tensors from then on, which no genome reaches: all models would score alike.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Note where the tensors are, and which modules are in training mode."""
        self._module, self._places = module, _places(_tensors(module))
        self._keys = [*_keys(module)]
        self._parts = [holder[name] for holder, name in self._keys]
        self._saved = [part for part in self._parts if isinstance(part, torch.Tensor)]
        self._addresses = _addresses(self._saved)
        self._modes = [
            (name, part, part.training)
            for name, part in cast("list[tuple[str, torch.nn.Module]]", [*module.named_modules()])
        ]

    def sample(self) -> dict[str, bytes]:
        """Some values of each tensor, to be compared by `look`."""
        return {name: _some_values(part) for name, part in _tensors(self._module).items()}

    def look(self, what: str, sample: Mapping[str, bytes] | None) -> None:
        """Refuse a model that was changed.

        Args:
            what: what has been done with it, for the message.
            sample: of before; None: values are not looked at.

        Raises:
            ConfigError: naming a tensor or a module.
        """
        other = [name or "the whole" for name, part, mode in self._modes if part.training != mode]
        if other:
            raise ConfigError(
                f"{what} has left the model in another mode than it was given (train() or eval(); "
                f"modules {some(other)}), so that scores would depend on what was asked before; "
                "call model.eval() at its end, or let it work on a copy (copy.deepcopy)"
            )
        # By names it takes a large model milliseconds, for each block of examples.
        held = (holder.get(name) for holder, name in self._keys)
        if not all(map(is_, held, self._parts)) or _addresses(self._saved) != self._addresses:
            places = _places(_tensors(self._module))
            moved = [name for name, place in self._places.items() if places.get(name) != place]
            if moved:
                raise ConfigError(
                    f"{what} has put {some(moved)} of the model elsewhere, or into another dtype "
                    "(as half(), to(...) and new parameters do), so that no other model could be "
                    "scored after this one; say 'dtype' and 'device' below 'model' in the run "
                    "file, or let it work on a copy (copy.deepcopy)"
                )
        now = {} if sample is None else self.sample()
        changed = [name for name, values in (sample or {}).items() if now.get(name) != values]
        if changed:
            raise ConfigError(
                f"{what} has changed the values of {some(changed)} of the model, so that scores "
                "would depend on what was asked before; put back what it changes, or let it work "
                "on a copy (copy.deepcopy)"
            )


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What `state_dict` holds, without what `get_extra_state` of a module makes, of any kind."""
    return {
        name: part
        for name, part in module.state_dict().items()
        if isinstance(part, torch.Tensor) and not name.endswith("_extra_state")
    }


def _keys(module: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Modules, parameters and buffers within a module, but for buffers that are not saved: what
    holds each, and its name there."""
    for each in module.modules():
        inside = vars(each)
        for kind in ("_modules", "_parameters", "_buffers"):
            for name in inside[kind]:
                if kind != "_buffers" or name not in inside["_non_persistent_buffers_set"]:
                    yield inside[kind], name


def _addresses(parts: Sequence[torch.Tensor]) -> list[tuple[int, torch.dtype]]:
    return [(part.data_ptr(), part.dtype) for part in parts]


def _places(parts: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, torch.dtype]]:
    return dict(zip(parts, _addresses([*parts.values()]), strict=True))


def _some_values(part: torch.Tensor) -> bytes:
    """A thousand of them at most, far apart."""
    if not part.numel():
        return b""
    step = -(-part.numel() // 1000)
    picked = part.detach().reshape(-1)[::step].contiguous()
    return picked.view(torch.uint8).cpu().numpy().tobytes()
