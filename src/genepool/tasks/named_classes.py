"""Classes that users name: registered by a decorator, by entry points, or as `module:Class`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from genepool.errors import ConfigError, GenepoolError
from genepool.faults import in_a_line
from genepool.messages import failures_as, one_line, some
from genepool.models.user_code import load_object

_Class = TypeVar("_Class", bound=type[Any])
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


class NamedClasses:
    """The classes of one kind, by name. Each has a pydantic model `Options`."""

    def __init__(self, kind: str, group: str) -> None:
        """Begin with none.

        Args:
            kind: what the classes are, for messages.
            group: of the entry points that name more of them.
        """
        self._kind = kind
        self._group = group
        self._registered: dict[str, type[Any]] = {}

    def register(self, name: str) -> Callable[[_Class], _Class]:
        """A decorator that makes a class known by a name (lower case letters, digits, `-`, `_`).

        A package makes its classes known without being imported first by an entry point in the
        group; one in a module beside the run file can also be named `module:Class` there.

        Raises:
            ConfigError: the name is malformed or taken by another class, or the class has no
                `Options`.
        """

        def register(cls: _Class) -> _Class:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{self._kind} name '{one_line(name)}': expected lower case letters, digits, "
                    "'-' and '_', starting with a letter"
                )
            checked = self._require(name, cls)
            taken = self._registered.get(name)
            if taken is not None and _origin(taken) != _origin(checked):
                raise ConfigError(
                    f"{self._kind} '{name}' is already registered by {_origin(taken)}; "
                    f"give {_origin(checked)} another name"
                )
            self._registered[name] = checked
            return cls

        return register

    def find(self, name: str, directory: Path | None = None) -> type[Any]:
        """The class of that name; its module is imported only now. Its `Options` are a pydantic
        model, and it is called as `cls(options, directory)`.

        Args:
            name: as registered, as an entry point says, or `module:Class`.
            directory: where such a module is looked for first; None means the current folder.

        Raises:
            ConfigError: there is none (the message lists those there are), two packages claim the
                name, or its module cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        if ":" in name:
            return self._require(name, load_object(name, directory or Path.cwd()))
        found = {point.value: point for point in self._points() if point.name == name}
        if not found:
            known = self.names()
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ConfigError(
                f"there is no {self._kind} '{one_line(name)}'; {hint}known are "
                f"{some(known, limit=20)}"
            )
        if len(found) > 1:
            raise ConfigError(
                f"{self._kind} '{name}' is claimed by {len(found)} installed packages: "
                f"{some(sorted(found))}; uninstall all but one"
            )
        (point,) = found.values()
        what = f"{self._kind} '{name}' ({point.value}) cannot be loaded"
        with failures_as(ConfigError, what, passing=GenepoolError):
            loaded = point.load()
        # The decorator on the class, if there is one, has registered the same class by now.
        return self._registered.setdefault(name, self._require(name, loaded))

    def names(self) -> tuple[str, ...]:
        """The names that `find` knows, sorted."""
        return tuple(sorted({*self._registered, *(point.name for point in self._points())}))

    def options(self, name: str, found: type[Any], given: Mapping[str, Any]) -> Any:
        """Options for a class, checked.

        Raises:
            ConfigError: they do not fit it; the message names the option.
        """
        try:
            return found.Options.model_validate(dict(given))
        except ValidationError as error:
            what = f"{self._kind} '{name}'"
            raise ConfigError(in_a_line(error, found.Options, dict(given), what)) from error

    def _points(self) -> list[metadata.EntryPoint]:
        return list(metadata.entry_points(group=self._group))

    def _require(self, name: str, loaded: object) -> type[Any]:
        options = getattr(loaded, "Options", None)
        if not (isinstance(loaded, type) and isinstance(options, type)) or not issubclass(
            options, BaseModel
        ):
            raise ConfigError(
                f"{self._kind} '{name}': expected a class with a pydantic model 'Options'; "
                f"got {one_line(loaded)}"
            )
        if options.model_config.get("extra") != "forbid":
            raise ConfigError(
                f"{self._kind} '{name}': its Options must forbid unknown keys: "
                "model_config = ConfigDict(extra='forbid')"
            )
        return cast("type[Any]", loaded)


def _origin(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
