"""What has room on a device: how much is free, and whether the seeds fit beside the live model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from genepool.checkpoints.files.dtypes import DTYPES, floating_named
from genepool.checkpoints.layout import Layout

# Of a device's memory this part is left to the model's work, or as much as the model takes itself,
# if that is more: what it remembers of a conversation, and what lies between its layers.
_WORK = 0.1


def work_bytes(model: int, total: int) -> int:
    """Bytes that are left to the work of a model of `model` bytes, on a device of `total`."""
    return max(model, math.ceil(_WORK * total))


def seeds_fit(seeds: int, model: int, free: tuple[int, int] | None) -> bool:
    """Whether seeds fit on a device on which the live model lies already.

    Args:
        seeds: their bytes.
        model: the live model's.
        free: free bytes, and all bytes, of the device; None where that is not known.
    """
    return free is not None and seeds + work_bytes(model, free[1]) <= free[0]


def device_names(kind: str) -> list[str]:
    """The devices of a kind that this machine has, as torch writes them: `cuda:0`, `cuda:1`."""
    if kind == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if kind == "mps" and torch.backends.mps.is_available():
        return ["mps"]
    return []


def device_needed(model: int, seeds: int) -> int:
    """Bytes of the smallest device that holds a model, its work, and seeds; these may be 0."""
    return max(2 * model + seeds, math.ceil((model + seeds) / (1 - _WORK)))


def free_bytes(device: torch.device) -> tuple[int, int] | None:
    """Free bytes, and all bytes, of a device; None where that is not known."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What torch keeps for later is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept, total
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return max(0, total - torch.mps.driver_allocated_memory()), total
    return None


def free_host_bytes() -> int | None:
    """Bytes of the host's memory that may be taken, files in memory counted as free; None where
    that is not known."""
    found: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        found += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
        # Of a container.
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        found += [int(limit)] if limit.isdigit() else []
    except OSError:
        pass
    return min(found, default=None)


def model_bytes(layout: Layout, dtype: str | None) -> int:
    """Bytes of what merges of a model, in a dtype (by its code), or in those of the first seed."""
    return sum((slot.stop - slot.start) * DTYPES[dtype or slot.dtype].size for slot in layout.slots)


@dataclass(frozen=True, slots=True)
class Taken:
    """What takes memory of a device.

    Attributes:
        device: as torch writes it.
        total: its bytes; None where that is not known.
        model: bytes of the live model.
        half: bytes that the model would take in 16 bits.
        seeds: bytes of the seeds, if they lie there or were to; 0 otherwise.
    """

    device: str
    total: int | None
    model: int
    half: int
    seeds: int


def taken(layout: Layout, device: str, dtype: str | None, seeds: int) -> Taken:
    """What takes memory of a device, of a model in a dtype as torch writes it (None: its own)."""
    free = free_bytes(torch.device(device))
    code = None if dtype is None else floating_named(dtype)
    model, half = model_bytes(layout, code), model_bytes(layout, "BF16")
    return Taken(device, None if free is None else free[1], model, min(model, half), seeds)


def told(doing: str, taken: Taken) -> str:
    """One line for a user: what has no room, what takes how much, and what would fit."""
    whole = "" if taken.total is None else f", which has {_gb(taken.total)} in all"
    parts = [f"the model takes {_gb(taken.model)}"]
    remedies: list[str] = []
    if taken.seeds:
        parts.append(f"the seeds on the device {_gb(taken.seeds)}")
        remedies.append(f"'model: {{seeds: host}}' ({_gb(taken.seeds)} less)")
    if doing == "to score":
        remedies.append("in a new pool a smaller 'batch' of the task")
    if taken.half < taken.model:
        remedies.append(
            f"in a new pool 'model: {{dtype: bfloat16}}' (the model in {_gb(taken.half)})"
        )
    if not remedies or (taken.total is not None and taken.half >= taken.total):
        remedies.append(f"a device of {_gb(device_needed(taken.half, 0))} or more")
    return (
        f"there is no memory left {doing} on device '{taken.device}'{whole}: {', '.join(parts)}, "
        f"and the rest is the model's work. What may help: {'; '.join(remedies)}"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
