"""Torch models as live models: their tensors are matched to those of the seeds by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch

from genepool.checkpoints.files.checkpoint import Checkpoint, Tensor
from genepool.checkpoints.files.dtypes import DTYPES, as_float32
from genepool.checkpoints.layout import Layout
from genepool.errors import CheckpointError, ConfigError, InputError
from genepool.materialise.cpu import Destination
from genepool.materialise.torch import destination
from genepool.messages import one_line, some
from genepool.models.live import LiveModel

WHICH_ARCHITECTURE = "is it the architecture that the seeds were saved from?"


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
    matched = _match(held, saved, pair, layout, first)
    for name in layout.carried:
        if name in matched and DTYPES[first.tensors[name].dtype].floating:
            _fill(matched.pop(name), first.tensors[name])
    passed_over = [slot.name for slot in layout.slots if slot.name not in matched]
    tensors = {**matched, **dict.fromkeys(passed_over)}
    return LiveModel(value, _destinations(tensors), MappingProxyType(tensors), module)


def _match(
    held: Mapping[str, torch.Tensor],
    saved: Sequence[str],
    pair: str,
    layout: Layout,
    first: Checkpoint,
) -> dict[str, torch.Tensor]:
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
            f"{pair}: {some(differing)} {'has' if len(differing) == 1 else 'have'} another shape: "
            f"'{one_line(name)}' is {list(held[name].shape)} in the network and "
            f"{list(shapes[name])} in the checkpoint"
        )
    return matched


def _memory(tensor: torch.Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.data_ptr()


def _fill(tensor: torch.Tensor, source: Tensor) -> None:
    # The network may hold the constant in another dtype than the file.
    values = torch.from_numpy(as_float32(source.raw, source.dtype))  # pyright: ignore
    tensor.copy_(values.reshape(tensor.shape))


def _destinations(
    tensors: Mapping[str, torch.Tensor | None],
) -> Mapping[str, Destination | None]:
    try:
        return MappingProxyType(
            {name: None if held is None else destination(held) for name, held in tensors.items()}
        )
    except InputError:  # on another device, or strided
        return {}


class Unchanged:
    """Looks whether a task has left a model as it was: its mode, and the tensors that genomes are
    written into.

    A network that a function has put elsewhere (`half()`, `to(...)`, a new parameter) computes with
    other tensors from then on, which no genome reaches: all models would score alike.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        """Note where the tensors are, and which modules are in training mode."""
        self._module, self._places = module, _places(module.state_dict())
        self._modes = [
            (name, part, part.training)
            for name, part in cast("list[tuple[str, torch.nn.Module]]", [*module.named_modules()])
        ]

    def sample(self) -> dict[str, bytes]:
        """Some values of each tensor, to be compared by `look`."""
        return {name: _some_values(part) for name, part in self._module.state_dict().items()}

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
        places = _places(self._module.state_dict())
        moved = [name for name, place in self._places.items() if places.get(name) != place]
        if moved:
            raise ConfigError(
                f"{what} has put {some(moved)} of the model elsewhere, or into another dtype (as "
                "half(), to(...) and new parameters do), so that no other model could be scored "
                "after this one; say 'dtype' and 'device' below 'model' in the run file, or let "
                "it work on a copy (copy.deepcopy)"
            )
        now = {} if sample is None else self.sample()
        changed = [name for name, values in (sample or {}).items() if now.get(name) != values]
        if changed:
            raise ConfigError(
                f"{what} has changed the values of {some(changed)} of the model, so that scores "
                "would depend on what was asked before; put back what it changes, or let it work "
                "on a copy (copy.deepcopy)"
            )


def _places(parts: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, torch.dtype]]:
    return {name: (part.data_ptr(), part.dtype) for name, part in parts.items()}


def _some_values(part: torch.Tensor) -> bytes:
    """A thousand of them at most, far apart."""
    if not part.numel():
        return b""
    step = -(-part.numel() // 1000)
    picked = part.detach().reshape(-1)[::step].contiguous()
    return picked.view(torch.uint8).cpu().numpy().tobytes()
