"""Scripts that start worker processes are imported again in each of these, by Python itself.

One that is not made for it calls genepool there once more, before the worker could begin its work.
"""

from __future__ import annotations

import sys

# With which such a worker ends, for its parent to know why.
RESTARTED = 77


def refuse_restart() -> None:
    """End a worker process that is calling what started it.

    Raises:
        SystemExit: this is a process of `multiprocessing` that is still importing the main script.
    """
    processes = sys.modules.get("multiprocessing.process")
    # What multiprocessing itself looks at before it refuses to start a process from such a one.
    if processes is not None and getattr(processes.current_process(), "_inheriting", False):
        raise SystemExit(RESTARTED)
