"""Who watches while models are fetched from other machines, which may take hours."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Protocol

from genepool.threads import Progress


class Watcher(Protocol):
    """Who wants to know."""

    def fetching(self, text: str) -> AbstractContextManager[Progress]:
        """What is fetched; called with the fraction that is there."""
        ...

    def aside(self) -> AbstractContextManager[object]:
        """Another library draws its own bars meanwhile, and needs the terminal for itself."""
        ...


_WATCHERS: list[Watcher] = []


@contextlib.contextmanager
def watched_by(watcher: Watcher) -> Generator[None, None, None]:
    """What this process fetches is told to the watcher."""
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


def fetching(text: str) -> AbstractContextManager[Progress]:
    """While something is fetched; see `Watcher`."""
    if _WATCHERS:
        return _WATCHERS[-1].fetching(text)
    return contextlib.nullcontext(lambda _: None)


def aside() -> AbstractContextManager[object]:
    """While another library draws; see `Watcher`."""
    return _WATCHERS[-1].aside() if _WATCHERS else contextlib.nullcontext()
