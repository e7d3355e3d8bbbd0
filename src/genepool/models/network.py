"""Networks that the user's function makes, as live models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.naming import unwrapped
from genepool.errors import CheckpointError, ConfigError, require_packages
from genepool.messages import at, blamed, failures_as, one_line, some
from genepool.models.kind import Building, Kind, Options, refuse_others
from genepool.models.live import LiveModel
from genepool.models.user_code import load_function

if TYPE_CHECKING:
    import torch


def _is_meant(options: Options, _first: Checkpoint) -> bool:
    return options.network is not None


def _check(options: Options, _first: Checkpoint) -> None:
    if options.network is None:
        raise ConfigError("model: kind 'network' needs 'network': 'module:function'")
    refuse_others(options, ("network",))


def _build(building: Building) -> LiveModel:
    """Make a network, ready to be filled: in evaluation mode, without gradients.

    Parameters and buffers are matched to the checkpoint's tensors by name. Those of the network
    that the checkpoint lacks must be tied to one that it has. Tensors of the checkpoint that do not
    merge, and that the network lacks, are passed over.

    Raises:
        ConfigError: the function cannot be found or fails, what it returns is no network, or the
            device or dtype cannot be used.
        CheckpointError: the network and the checkpoints differ in names or shapes.
    """
    require_packages("torch", "a model with a 'network'", "torch")
    import torch

    from genepool.models.filled import WHICH_ARCHITECTURE, filled_by_genomes

    options, layout, first = building.options, building.layout, building.first
    dtype = options.dtype
    network = _make(building)
    what = f"model: the network cannot be put on device '{one_line(options.device)}'"
    with failures_as(ConfigError, f"{what} as {dtype}" if dtype else what):
        device = torch.device(options.device)
        network.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
    network.eval()
    network.requires_grad_(False)
    named = dict(network.named_parameters(remove_duplicate=False))
    held = {**named, **dict(network.named_buffers(remove_duplicate=False))}
    held = {unwrapped(name): tensor for name, tensor in held.items()}
    pair = f"network '{options.network}' does not fit {at(first.path)}"
    if missing := [slot.name for slot in layout.slots if slot.name not in held]:
        raise CheckpointError(f"{pair}: the network has no {some(missing)}; {WHICH_ARCHITECTURE}")
    saved = [unwrapped(name) for name in network.state_dict()]
    return filled_by_genomes(network, held, saved, pair, layout, first, network)


def _make(building: Building) -> torch.nn.Module:
    import torch

    function = building.options.network or ""
    make = load_function(function, building.directory)
    what = f"network '{function}' failed when it was made"
    with failures_as(ConfigError, what, told=partial(blamed, function=make)):
        network = make()
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(
            f"network '{function}': expected it to return a torch network (torch.nn.Module); "
            f"got {type(network).__name__}"
        )
    return network


NETWORK = Kind(
    name="network",
    help="they get a torch network, made by the function in 'network'.",
    is_meant=_is_meant,
    check=_check,
    build=_build,
)
