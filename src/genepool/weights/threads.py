"""How many threads to use."""

from __future__ import annotations

import os
import sys


def available_threads() -> int:
    """Cores that this process may run on."""
    if sys.platform == "linux":
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
