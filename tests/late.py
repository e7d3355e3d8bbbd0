"""Packages that take seconds to import, in test modules that all workers collect."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """A package that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):
            raise AttributeError(name)  # pytest looks whether a name in a module is a fixture
        return getattr(importlib.import_module(self._name), name)


diffusers, peft = Late("diffusers"), Late("peft")
