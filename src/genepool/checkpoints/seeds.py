"""Seeds as a user names them, in a run file or a call, into open checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.checkpoints.family import Source, find_source, locate
from genepool.checkpoints.files.lora import is_adapter
from genepool.checkpoints.pipelines.lora_files import lora_file
from genepool.documents import at_home, current_folder
from genepool.errors import InputError
from genepool.messages import one_line

if TYPE_CHECKING:
    from genepool.checkpoints.seed_options import SeedOptions

# A path or an id of the Hub, or a mapping with the keys of a seed in a run file.
SeedLike = str | os.PathLike[str] | Mapping[str, Any]


def source_of(seed: SeedOptions, directory: Path) -> Source:
    """Where a seed of a run file is found; relative paths start from `directory`.

    Raises:
        CheckpointError: an adapter without a base, or a base for what is no adapter.
    """
    found = find_source(seed.path, directory, base=seed.base, rename=seed.rename, dtype=seed.dtype)
    return replace(found, variant=seed.variant)


def named_source(seed: SeedLike, adapter_base: str | None) -> Source:
    """Where a seed of a call is found; relative paths start from the current folder.

    Args:
        seed: path, id, or mapping.
        adapter_base: the base of a seed that is an adapter and names none in its mapping.

    Raises:
        InputError: a mapping with unknown keys or wrong values.
        CheckpointError: an adapter without a base, or a base for what is no adapter.
    """
    here = current_folder()
    if not isinstance(seed, Mapping) and (path := os.fspath(seed)):
        # Nothing to validate: a tenth of a second less before a merge begins.
        return find_source(path, here, base=_base_for(path, here, adapter_base))
    options = _validated(seed if isinstance(seed, Mapping) else {"path": seed})
    base = options.base
    if base is None:
        base = _base_for(options.path, here, adapter_base)
    return source_of(options.model_copy(update={"base": base}), here)


def _base_for(path: str, directory: Path, adapter_base: str | None) -> str | None:
    """The base, if the seed is an adapter, or may be one: what lies on the Hub or behind a URL is
    known when it is fetched, and a whole model is opened there without the base."""
    if adapter_base is None or not Path(locate(path, directory)).is_absolute():
        return adapter_base
    place = directory / at_home(path)
    named = (place.is_dir() and is_adapter(place)) or lora_file(place) is not None
    return adapter_base if named else None


def _validated(given: Mapping[str, Any]) -> SeedOptions:
    from pydantic import ValidationError

    from genepool.checkpoints.seed_options import SeedOptions
    from genepool.faults import in_a_line

    try:
        return SeedOptions.model_validate(dict(given))
    except ValidationError as error:
        what = f"seed {one_line(given.get('path'))}"
        raise InputError(in_a_line(error, SeedOptions, dict(given), what)) from None
