"""Who watches while models are fetched from other machines, which may take hours."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Protocol

from genepool.threads import Progress


class Watcher(Protocol):
    """Who wants to know."""

    def fetching(self, text: str, *, drawn: bool) -> AbstractContextManager[Progress]:
        """What is fetched; called with the fraction that is there, from any thread. Where `drawn`,
        another library draws its own bars meanwhile, and needs the terminal for itself."""
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


@contextlib.contextmanager
def fetching(text: str, *, drawn: bool = False) -> Generator[Progress, None, None]:
    """While something is fetched; see `Watcher`."""
    if not _WATCHERS:
        yield lambda _: None
        return
    with _WATCHERS[-1].fetching(text, drawn=drawn) as advance:
        yield advance
