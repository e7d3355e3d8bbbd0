"""User code by name: `module:function`, importable from the run file's folder."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import all_suffixes
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from genepool.errors import ConfigError
from genepool.messages import at, blamed, one_line, pass_on, shown, some


def load_object(name: str, directory: Path) -> Any:
    """Import `module:function` (or `package.module:Class.method`).

    The folder goes to the front of Python's search path and stays there, as for a script, so that
    the module can import its neighbours, later too.

    Args:
        name: the module's dotted name, a colon, and the attribute in it.
        directory: the run file's folder.

    Raises:
        ConfigError: the name is malformed, there is no such module or attribute, importing it
            fails, or Python has already loaded another module of that name.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not _dotted(module_name) or not _dotted(attribute):
        raise ConfigError(
            f"'{one_line(name)}': expected 'module:function', such as 'my_module:score' for the "
            "function score in my_module.py"
        )
    module = _load_module(module_name, directory)
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(
            f"'{name}': module '{module_name}' ({_file(module)}) has no '{attribute}'; "
            f"it has {some(public, limit=8) or 'nothing public'}"
        ) from error


def load_function(name: str, directory: Path) -> Any:
    """`load_object`, and it must be callable.

    Raises:
        ConfigError: as `load_object`, or the object cannot be called.
    """
    found = load_object(name, directory)
    if not callable(found):
        raise ConfigError(
            f"'{name}': expected a function; got {type(found).__name__} {shown(found)}"
        )
    return found


def _dotted(name: str) -> bool:
    return bool(name) and all(part.isidentifier() for part in name.split("."))


def _load_module(name: str, directory: Path) -> ModuleType:
    folder = str(directory.resolve())
    if sys.path[:1] != [folder]:
        sys.path[:] = [folder, *(other for other in sys.path if other != folder)]
    # A file written since Python last listed the folder must be seen.
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"importing '{name}' failed: {blamed(error)}") from error
        raise ConfigError(
            f"there is no module '{name}': looked for {name.replace('.', '/')}.py in "
            f"{at(directory)} and among the installed packages"
        ) from error
    except BaseException as error:
        pass_on(error)
        # SystemExit too: a script without a main guard must not end the run without a word.
        raise ConfigError(f"importing '{name}' failed: {blamed(error)}") from error
    _require_from_folder(name, Path(folder))
    return module


def _require_from_folder(name: str, folder: Path) -> None:
    """Refuse what Python has loaded from elsewhere where the folder has files of that name."""
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        path, loaded = folder.joinpath(*parts[:number]), sys.modules[".".join(parts[:number])]
        own = [
            file
            for stem in (path, path / "__init__")
            for suffix in all_suffixes()
            if (file := stem.with_name(stem.name + suffix)).is_file()
        ]
        file = getattr(loaded, "__file__", None)
        if own and (file is None or Path(file).resolve() not in [one.resolve() for one in own]):
            raise ConfigError(
                f"'{name}': {at(own[0])} cannot be used, because Python has already loaded another "
                f"module '{loaded.__name__}' ({_file(loaded)}); rename yours"
            )


def _file(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return at(Path(file)) if file else "built in"
