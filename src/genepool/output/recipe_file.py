"""`genepool.json`: what a checkpoint was made from, complete enough to make it again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from genepool.checkpoints.family import GGUFType, Words
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.files.dtypes import FLOATING
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.checkpoints.pipelines.directory import is_pipeline, open_pipeline
from genepool.core.genome import Recipe, digest, recipe
from genepool.documents import mapping_of, parse_json, read_bytes
from genepool.errors import CheckpointError, InputError
from genepool.messages import at, one_line
from genepool.output.methods.registry import read_specification
from genepool.output.methods.specification import Specification
from genepool.output.own_files import RECIPE

FILE = RECIPE
FORMAT = 1
_METADATA = "genepool.recipe"
# Readers of checkpoints take metadata for a few words; a larger recipe is only beside the weights.
_LONGEST_METADATA = 256_000
_LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RecipeSeed:
    """A seed of a recipe, or what gives components of a pipeline and does not merge.

    Attributes:
        name: in the recipe.
        digest: of its tensors, as they were merged; "" of what does not merge.
        hub: its id on the hub, with the revision that was named, if known.
        licence: as it was declared.
        rename: prefixes of tensor names and what stands in their place.
        dtype: of a GGUF file's unpacked weights.
        variant: of a pipeline's weights, if it was named.
    """

    name: str
    digest: str
    hub: str | None
    licence: str
    rename: Mapping[str, str]
    dtype: GGUFType
    variant: str


@dataclass(frozen=True, eq=False, slots=True)
class RecipeFile:
    """A recipe that was read and checked.

    Attributes:
        details: the whole document.
        seeds: in order.
        chromosomes: name to patterns, as for `build_layout`.
        partial: whether the seeds share only part of their tensors.
        vocabulary: as for `make_family`.
        layout: digest that the layout of the seeds must have.
        dtype: of the merged tensors; None keeps the first seed's.
        genome: its digest.
        made: the recipe, or the merge that no recipe can say; None where neither is told.
        evolving: components of a pipeline that were merged; none for a single model.
        whole: component -> name of the seed or giver that it comes from, and digest of its files.
        givers: what gives components and does not merge.
    """

    details: Mapping[str, Any]
    seeds: tuple[RecipeSeed, ...]
    chromosomes: Mapping[str, list[str]]
    partial: bool
    vocabulary: Words
    layout: str
    dtype: str | None
    genome: str
    made: Recipe | Specification | None
    evolving: tuple[str, ...] = ()
    whole: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    givers: tuple[RecipeSeed, ...] = ()


def _ordered(details: Mapping[str, Any]) -> dict[str, Any]:
    """Keys by the alphabet, but chromosomes as they stand: their order says where tensors lie."""
    out: dict[str, Any] = json.loads(json.dumps(details, sort_keys=True))
    if "chromosomes" in details:
        out["chromosomes"] = details["chromosomes"]
    return out


def to_bytes(details: Mapping[str, Any]) -> bytes:
    """The document as it stands in `genepool.json`; equal details give equal bytes."""
    return (json.dumps(_ordered(details), indent=1) + "\n").encode()


def to_metadata(details: Mapping[str, Any]) -> dict[str, str]:
    """What the headers of the weights' files say: the document, or its digest if it is long."""
    compact = json.dumps(_ordered(details), separators=(",", ":"))
    out = {"genepool.genome": str(details["genome"])}
    if len(compact) <= _LONGEST_METADATA:
        out[_METADATA] = compact
    else:
        out["genepool.recipe_file"] = FILE
        out["genepool.recipe_sha256"] = hashlib.sha256(to_bytes(details)).hexdigest()
    return out


def read_recipe(path: Path) -> RecipeFile:
    """Read a recipe: from `genepool.json`, from the directory that holds it, or from weights.

    Raises:
        InputError: there is none, or it is damaged; the message names the file and what is wrong.
    """
    text, where = _find(path)
    try:
        content: Any = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: cannot be read as JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected an object; got {type(content).__name__}")
    return _checked(cast("dict[str, Any]", content), where)


def _find(path: Path) -> tuple[str | bytes, str]:
    """The document's text, and where it was found."""
    folder = False
    with contextlib.suppress(OSError):  # A name too long, which reading will tell.
        folder = path.is_dir()
    file = path / FILE if folder else path
    if folder and not file.exists():
        try:
            whole = open_pipeline(path).files[0] if is_pipeline(path) else open_checkpoint(path)
            metadata = whole.metadata
        except CheckpointError as error:
            raise InputError(f"{at(path)}: holds no {FILE}, and {error}") from None
        return _of_metadata(metadata, path)
    if file.suffix == ".safetensors":
        try:
            metadata = open_checkpoint(file).metadata
        except CheckpointError as error:
            raise InputError(str(error)) from None
        return _of_metadata(metadata, file)
    try:
        return read_bytes(file, _LARGEST), at(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{at(file)}: cannot be read ({reason}); expected the {FILE} of a checkpoint "
            "that genepool wrote"
        ) from None


def _of_metadata(metadata: Mapping[str, str], path: Path) -> tuple[str, str]:
    if text := metadata.get(_METADATA):
        return text, f"{at(path)} (metadata)"
    reason = (
        f"its recipe is too long for the metadata; name the {FILE} that was written beside it"
        if "genepool.recipe_file" in metadata
        else "these weights carry no recipe: genepool did not write them"
    )
    raise InputError(f"{at(path)}: {reason}")


def _checked(content: dict[str, Any], where: str) -> RecipeFile:
    def need(key: str, kind: type | tuple[type, ...], what: str, inside: Any = content) -> Any:
        value = mapping_of(inside).get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(
                f"{where}: damaged or not a recipe: '{key}' must be {what}; "
                f"got {one_line(json.dumps(value))[:60]}"
            )
        return value

    version = need("format", int, "a whole number")
    if version != FORMAT:
        raise InputError(
            f"{where}: has format {version}, and this genepool reads {FORMAT}; use the version of "
            "genepool that wrote it"
        )

    def seed(entry: Any, digest: str) -> RecipeSeed:
        options = mapping_of(entry)
        unpacked = options.get("dtype", "BF16")
        if unpacked not in get_args(GGUFType):
            raise InputError(f"{where}: damaged: a seed's 'dtype' is {one_line(unpacked)}")
        return RecipeSeed(
            need("name", str, "text", entry),
            digest,
            str(options["hub"]) if options.get("hub") else None,
            str(options.get("licence") or ""),
            {str(old): str(new) for old, new in mapping_of(options.get("rename")).items()},
            unpacked,
            str(options.get("variant") or ""),
        )

    listed = need("seeds", list, "a list")
    seeds = [seed(entry, need("digest", str, "text", entry)) for entry in listed]
    given: list[Any] = need("givers", list, "a list") if "givers" in content else []
    givers = [seed(entry, "") for entry in given]
    names = [seed.name for seed in (*seeds, *givers)]
    if not seeds or len(set(names)) != len(names):
        raise InputError(f"{where}: damaged: expected seeds with different names")
    evolving: list[str] = []
    whole: dict[str, tuple[str, str]] = {}
    for part, value in mapping_of(content.get("components")).items():
        if value == EVOLVE:
            evolving.append(part)
            continue
        whole[part] = (need("seed", str, "text", value), need("digest", str, "text", value))
        if whole[part][0] not in names:
            raise InputError(
                f"{where}: damaged: the component '{one_line(part)}' comes from no seed of it"
            )
    dtype = content.get("dtype")
    if dtype is not None and dtype not in FLOATING:
        raise InputError(
            f"{where}: 'dtype' must be null or one of {', '.join(FLOATING)}; got {one_line(dtype)}"
        )
    chromosomes: dict[str, Any] = need("chromosomes", dict, "an object")
    for patterns in chromosomes.values():
        listed = cast("list[Any]", patterns) if isinstance(patterns, list) else [None]
        if not all(isinstance(pattern, str) for pattern in listed):
            raise InputError(f"{where}: damaged: 'chromosomes' must hold lists of patterns")
    name = need("genome", str, "text")
    found = None
    if "recipe" in content:
        try:
            body = need("recipe", dict, "an object")
            bounds = [int(x) for x in need("bounds", list, "a list", body)]
            rows = [[float(x) for x in row] for row in need("coefs", list, "a list", body)]
            found = recipe(bounds, np.array(rows, dtype=np.float64))
        except (InputError, TypeError, ValueError, OverflowError) as error:
            if str(error).startswith(where):
                raise
            raise InputError(f"{where}: the recipe is damaged: {one_line(error)}") from None
        if found.sources != len(seeds):
            raise InputError(
                f"{where}: the recipe is damaged: it has coefficients for {found.sources} seeds, "
                f"and names {len(seeds)}"
            )
        if digest(found) != name:
            raise InputError(
                f"{where}: the recipe is damaged: its digest is {digest(found)}, and the file says "
                f"{one_line(name)}"
            )
    return RecipeFile(
        content,
        tuple(seeds),
        chromosomes,
        content.get("partial") is True,
        "common" if content.get("vocabulary") == "common" else "same",
        need("layout", str, "text"),
        dtype,
        name,
        _settings(content, len(seeds), where) or found,
        tuple(evolving),
        whole,
        tuple(givers),
    )


def _settings(content: dict[str, Any], seeds: int, where: str) -> Specification | None:
    try:
        return read_specification(content, seeds)
    except (KeyError, TypeError, ValueError, OverflowError, InputError) as error:
        raise InputError(f"{where}: the settings are damaged: {one_line(error)}") from None
