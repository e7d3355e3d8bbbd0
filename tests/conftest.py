"""Settings and fixtures that all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Models here are tiny: threads that wait for each other would take thirty times what one takes. It
# is set before torch is imported, and processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a time. In CI the same examples are drawn every time, so that a submission fails
# for what it changed.
settings.register_profile("genepool", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("genepool"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "genepool")

# Modules and tests stay to the end: the garbage collector need not walk through them, neither while
# they come nor each time after that.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds a file or folder of shared/, where reference numbers and data lie that are not ours.

    shared/ is the folder that GENEPOOL_SHARED names, else the one beside the checkout. Where the
    file is absent, the test is skipped, or fails if GENEPOOL_SHARED is set (`make test-shared`).
    """
    named = os.environ.get("GENEPOOL_SHARED")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"

    def find(path: str) -> Path:
        found = root / path
        if not found.exists():
            text = f"needs {path} of the shared folder (GENEPOOL_SHARED names it); looked in {root}"
            (pytest.fail if named else pytest.skip)(text)
        return found

    return find


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses `shared` is marked so; what needs a CUDA device is skipped where none is."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            reason = "needs a CUDA device, and there is none here"
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)
