"""Where a seed comes from and what may be done with it: its licence and its name on the hub."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.files.digests import file_digest
from genepool.checkpoints.model_files.side_files import copied, is_licence
from genepool.messages import one_line

_MOST = 200_000  # bytes of a README or licence text that are looked at
_FILES = ("LICENSE", "LICENCE", "LICENSE.txt", "LICENSE.md", "LICENCE.txt", "LICENCE.md", "COPYING")
# The files that `license_link` of the hub may name.
_LINKED = ("LICENSE", "LICENSE.md")
# First words of well-known texts (white space apart) -> identifier as the hub writes it. Words such
# as these further down say little: "in part based on the Apache License", "modified MIT License".
_START = r"\W*(copyright((?!licen).){0,300}?)?\b(the )?"
_TEXTS = (
    (r"apache license,? version 2\.0,? january 2004", "apache-2.0"),
    (r"gnu affero general public license.{0,40}version 3", "agpl-3.0"),
    (r"gnu lesser general public license.{0,40}version 3", "lgpl-3.0"),
    (r"gnu general public license.{0,40}version 3", "gpl-3.0"),
    (r"gnu general public license.{0,40}version 2", "gpl-2.0"),
    (r"mozilla public license,? version 2\.0", "mpl-2.0"),
    (r"(creative commons )?attribution-noncommercial 4\.0", "cc-by-nc-4.0"),
    (r"(creative commons )?attribution-sharealike 4\.0", "cc-by-sa-4.0"),
    (r"(creative commons )?attribution 4\.0 international", "cc-by-4.0"),
    (r"llama 3\.3 community license", "llama3.3"),
    (r"llama 3\.2 community license", "llama3.2"),
    (r"llama 3\.1 community license", "llama3.1"),
    (r"meta llama 3 community license", "llama3"),
    (r"llama 2 community license", "llama2"),
    (r"gemma terms of use", "gemma"),
    (r"(mit license( \(mit\))?\W+)?(copyright((?!licen).){0,300}?)?permission is hereby granted, "
     r"free of charge(?!.*(good, not evil|dealings in the software\W+\w))", "mit"),
    (r"bsd 3-clause|redistribution and use in source(?!.*advertising).*neither the name of .{0,80} "
     r"nor the names", "bsd-3-clause"),
    (r"bsd 2-clause", "bsd-2-clause"),
)  # fmt: skip
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def licence_of(path: Path) -> str | None:
    """The licence that a checkpoint directory declares.

    The front matter of its README.md (`license`, or `license_name` where that says `other`), else
    the text of its LICENSE file, if it is a well-known one.

    Returns:
        An identifier as the hub writes it (`apache-2.0`), `see LICENSE` for a text that is not
        recognised, or None where nothing is declared.
    """
    directory = path if path.is_dir() else path.parent
    front = _front_matter(directory / "README.md")
    declared = _own_name(front) or front.get("license")
    if isinstance(declared, list):
        parts = cast("list[Any]", declared)
        declared = ", ".join(str(part) for part in parts)
    if isinstance(declared, str) and declared.strip():
        return one_line(declared.strip().lower())
    for name in _FILES:
        text = _read(directory / name)
        if "commons clause" in text.lower():  # It takes from any licence before or behind it.
            return f"see {name}"
        if text:
            plain = " ".join(text[:4000].lower().split())
            found = (key for pattern, key in _TEXTS if re.match(f"{_START}({pattern})", plain))
            return next(found, f"see {name}")
    return None


def licences_of(paths: Sequence[Path]) -> str | None:
    """What holds for a model that was made from all of these: their licences, one after another."""
    found = dict.fromkeys(licence_of(path) for path in paths)
    declared = [licence or "not declared" for licence in found]
    return None if found.keys() == {None} else ", ".join(declared)


def common_licence(licences: Sequence[str | None]) -> str:
    """What the card of a merge declares: the seeds' licence if all say the same, else `other`."""
    first = licences[0]
    return first if first and set(licences) == {first} and " " not in first else "other"


def licence_terms(
    licence: str, checkpoints: Sequence[Checkpoint], files: Collection[str]
) -> dict[str, str]:
    """What the front matter of a merge's card says of its licence.

    The hub takes the identifiers that it knows. A licence of another name is `other` there, and
    its name and where its text is stand beside that, as in the front matter of the seeds.

    Args:
        licence: what `common_licence` says of the seeds.
        checkpoints: the seeds, opened.
        files: names of the licences' files that go along.
    """
    for checkpoint in checkpoints:
        for place in (*checkpoint.origins, checkpoint.directory or checkpoint.path):
            front = _front_matter((place if place.is_dir() else place.parent) / "README.md")
            if _own_name(front) != licence:
                continue
            link = front.get("license_link")
            own = next((file for file in _LINKED if file in files), None)
            url = link if isinstance(link, str) and link.startswith(("https://", "http://")) else ""
            told = {"license": "other", "license_name": licence, "license_link": own or url}
            return {key: value for key, value in told.items() if value}
    return {"license": licence}


def licence_files(
    names: Sequence[str], checkpoints: Sequence[Checkpoint], licence: str
) -> dict[str, bytes | Path]:
    """The licences that go along with a merge of models, and the notices that these ask for.

    Where they are the same they keep their names. Otherwise each bears its model's name, and
    `NAME.base` if it comes from the base of an adapter.

    Args:
        names: of the models.
        checkpoints: the models, opened; those of which no directory is known bring none.
        licence: what `common_licence` says of them.

    Returns:
        Name to the file to copy or its content.

    Raises:
        CheckpointError: a file is a link that leads out of its model's directory.
    """
    found: dict[str, dict[str, bytes | Path]] = {}
    for name, checkpoint in zip(names, checkpoints, strict=True):
        places = [p if p.is_dir() else p.parent for p in checkpoint.origins]
        given = dict(zip((f"{name}.base", name), places, strict=False))
        for label, place in (given or {name: checkpoint.directory}).items():
            found[label] = {} if place is None or not place.is_dir() else copied(place, is_licence)
    texts = [frozenset(map(file_digest, files.values())) for files in found.values()]
    if licence != "other":
        texts = [text for text in texts if text]
    if len(set(texts)) < 2:
        return max(found.values(), key=bool)
    out: dict[str, bytes | Path] = {}
    for label, files in found.items():
        plain = re.sub(r"[^\w.-]+", "-", label)[:80]
        for file, data in files.items():
            stem, dot, end = file.partition(".")
            while (name := f"{stem}-{plain}{dot}{end}") in out:
                stem += "-2"
            out[name] = data
    return out


def hub_id(path: str) -> str | None:
    """`org/name`, or `org/name@revision` where that was named, of a seed that came from the Hugging
    Face hub, as far as its path tells."""
    given = Path(path)
    for part in given.parts:
        if part.startswith("models--"):
            return "/".join(part.removeprefix("models--").split("--", 1))
    known = _HUB.fullmatch(path.split("@", 1)[0]) is not None and not given.exists()
    return path if known else None


def _own_name(front: dict[str, Any]) -> str | None:
    """The name of a licence that the hub has none for: an identifier, and so without blanks."""
    name = front.get("license_name")
    if not isinstance(name, str) or str(front.get("license")).lower() != "other":
        return None
    return one_line("-".join(name.lower().split())) or None


def _front_matter(path: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes; empty where there is none, or it is damaged.

    A seed's card is not ours to refuse: one that cannot be read declares nothing.
    """
    lines = [line.rstrip() for line in _read(path).lstrip().split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return {}
    from genepool.yaml_documents import parse_yaml

    try:
        content, _ = parse_yaml("\n".join(lines[1 : lines.index("---", 1)]))
    except ValueError:
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MOST).decode("utf-8", "replace").lstrip("\ufeff")
    except OSError:
        return ""
