"""Which device each worker process has."""

from __future__ import annotations

from dataclasses import replace

from genepool.errors import ConfigError, MissingExtraError
from genepool.messages import one_line
from genepool.run.run_file import Given, Run


def worker_devices(run: Run) -> tuple[str, ...]:
    """The device of each worker process, device after device; empty where none are named.

    Raises:
        ConfigError: a device is not there, or is of another kind than `model.device`.
        MissingExtraError: devices other than the CPU need torch.
    """
    config = run.config
    if config.devices is None:
        return ()
    kind = _kind(config.model.device)
    there = {"cpu"} if kind == "cpu" else _there(kind)
    named = sorted(there, key=_number) if config.devices == "auto" else config.devices
    where = f"{run.where('devices')}: devices"
    for device in named:
        if _kind(device) != kind:
            raise ConfigError(
                f"{where}: '{one_line(device)}' is another kind of device than 'model.device' says "
                f"('{one_line(config.model.device)}'); all workers must compute the same bits"
            )
        if device not in there:
            listed = ", ".join(sorted(there, key=_number)) or f"no {kind} device"
            raise ConfigError(
                f"{where}: '{one_line(device)}' is not there; this machine has {listed}"
            )
    if not named:
        raise ConfigError(f"{where}: this machine has no {kind} device ('model.device')")
    return tuple(device for device in named for _ in range(config.workers or 1))


def on_device(given: Given, device: str) -> Given:
    """The run file with a live model on another device; for the worker that has it."""
    model = {**given.data.get("model", {}), "device": device}
    return replace(given, data={**given.data, "model": model})


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _there(kind: str) -> set[str]:
    try:
        from genepool.materialise.device_memory import device_names
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", f"a model on '{one_line(kind)}'") from None
    return set(device_names(kind))
