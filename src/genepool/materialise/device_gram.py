"""Inner products of the seeds by a device: the sums of `kernels.inner_products`, by torch.

Each operation rounds on its own, as the CPU's do: a product of two float32 values is exact in
float64, and sums carry what they round off along (two-sum, Knuth).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.materialise.torch import TORCH_DTYPES

# Elements of each seed at a time; what is needed on the device is about a hundred bytes for each.
_AT_ONCE = 2**22


def is_there(device: str) -> bool:
    """Whether a device is there, and computes in float64."""
    kind, _, index = device.partition(":")
    if kind != "cuda" or not torch.cuda.is_available():
        return False
    return not index or (index.isdecimal() and int(index) < torch.cuda.device_count())


def inner_products(
    checkpoints: Sequence[Checkpoint],
    layout: Layout,
    edges: NDArray[np.int64],
    device: str,
) -> NDArray[np.float64]:
    """Sums of products of the seeds over the stretches between edges.

    Args:
        checkpoints: the K seeds.
        layout: of these seeds.
        edges: int64[n+1], from 0 to D: each tensor's beginning, and places at equal distances
            inside it.
        device: where it is computed.

    Returns:
        float64[n, P, 2]: for the P = K (K + 1) / 2 pairs i <= j, row by row, the sum over each
        stretch and what rounding it left out. Not finite where a seed is not finite.
    """
    there = torch.device(device)
    seeds = len(checkpoints)
    parts: list[torch.Tensor] = []
    for slot in layout.slots:
        inside = edges[(edges >= slot.start) & (edges < slot.stop)]
        count = slot.stop - slot.start
        block = int(inside[1] - inside[0]) if inside.size > 1 else count
        step = block * max(1, _AT_ONCE // block)
        tensors = [checkpoint.tensors[slot.name] for checkpoint in checkpoints]
        for start in range(0, count, step):
            stop = min(start + step, count)
            values = [
                _blocks(t.raw[start:stop], TORCH_DTYPES[t.dtype], block, there) for t in tensors
            ]
            pairs = [_sum(values[i] * values[j]) for i in range(seeds) for j in range(i, seeds)]
            parts.append(torch.stack(pairs, dim=1).cpu())
    return torch.cat(parts).numpy()


def _blocks(
    raw: NDArray[np.generic], dtype: torch.dtype, block: int, device: torch.device
) -> torch.Tensor:
    """float64[blocks, block rounded up to a power of two], zeros after the last element."""
    bytes_ = torch.empty(raw.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    bytes_.numpy()[:] = np.frombuffer(raw, dtype=np.uint8)
    # float64 seeds are merged as float32, and so they are measured.
    found = bytes_.to(device).view(dtype).to(torch.float32).to(torch.float64)
    count = found.numel()
    rows = -(-count // block)
    whole = torch.zeros(rows * block, dtype=torch.float64, device=device)
    whole[:count] = found
    width = 1 << (block - 1).bit_length()
    return torch.nn.functional.pad(whole.view(rows, block), (0, width - block))


def _sum(high: torch.Tensor) -> torch.Tensor:
    """The sum of each row, float64[rows, power of two] to float64[rows, 2]: half by half."""
    low = torch.zeros_like(high[:, :1])
    while high.shape[1] > 1:
        left, right = high.chunk(2, dim=1)
        total = left + right
        part = total - left
        error = (left - (total - part)) + (right - part)
        if low.shape[1] > 1:
            before = low.chunk(2, dim=1)
            error = error + (before[0] + before[1])
        low = error
        high = total
    total = high + low
    return torch.cat([total, low - (total - high)], dim=1)
