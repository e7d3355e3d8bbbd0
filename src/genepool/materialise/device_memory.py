"""What has room on a device: how much is free, and whether the seeds fit beside the live model."""

from __future__ import annotations

from pathlib import Path

import torch

# Of a device's memory this part is left to the model's work, or as much as the model takes itself,
# if that is more: what it remembers of a conversation, and what lies between its layers.
_WORK = 0.1


def work_bytes(model: int, total: int) -> int:
    """Bytes that are left to the work of a model of `model` bytes, on a device of `total`."""
    return max(model, int(_WORK * total))


def seeds_fit(seeds: int, model: int, free: tuple[int, int] | None) -> bool:
    """Whether seeds fit on a device on which the live model lies already.

    Args:
        seeds: their bytes.
        model: the live model's.
        free: free bytes, and all bytes, of the device; None where that is not known.
    """
    return free is not None and seeds + work_bytes(model, free[1]) <= free[0]


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
