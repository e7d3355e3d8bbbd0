"""What seeds, champion and archive draw or do, laid out for the report; pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from genepool.pool.records import REFERENCE, Picture, Transcript


def galleries(
    pictures: Sequence[Picture], champion: int | None, who: Callable[[int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each task what all drew for the same prompts, and who draws others best.

    Args:
        pictures: of a pool.
        champion: its member number; it stands first, after what was to be drawn.
        who: how the page calls a member.

    Returns:
        A dict for each task: its name; `captions`, and `rows` of one picture for each of these,
        None where there is none; and `niches`, each with a caption, the real picture or None, the
        member and what it drew.
    """
    out: list[dict[str, Any]] = []
    for task in dict.fromkeys(picture.task for picture in pictures):
        mine = [picture for picture in pictures if picture.task == task]
        same = [picture for picture in mine if picture.part == "held-out"]
        captions = {picture.example: picture.caption for picture in same}
        members = dict.fromkeys(picture.member for picture in same)
        order = sorted(members, key=lambda m: (m != REFERENCE, m != champion, m))
        drawn = {(picture.member, picture.example): _source(picture) for picture in same}
        out.append(
            {
                "task": task,
                "captions": [captions[example] for example in sorted(captions)],
                "rows": [
                    {
                        "who": None if member == REFERENCE else who(member),
                        "pictures": [drawn.get((member, one)) for one in sorted(captions)],
                    }
                    for member in order
                ],
                "niches": _niches([p for p in mine if p.part != "held-out"], who),
            }
        )
    return out


def _niches(
    pictures: Sequence[Picture], who: Callable[[int], dict[str, Any]]
) -> list[dict[str, Any]]:
    real = {p.example: _source(p) for p in pictures if p.member == REFERENCE}
    drawn = sorted((p for p in pictures if p.member != REFERENCE), key=lambda p: p.example)
    return [
        {
            "caption": picture.caption,
            "real": real.get(picture.example),
            "who": who(picture.member),
            "source": _source(picture),
        }
        for picture in drawn
    ]


def episodes(
    transcripts: Sequence[Transcript], champion: int | None, who: Callable[[int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each episode that was kept, what champion and seeds did in it.

    Args:
        transcripts: of a pool.
        champion: its member number; it stands first.
        who: how the page calls a member.

    Returns:
        A dict for each episode: its `task`, `part`, `example` and `played`, each of these with the
        member and its transcript.
    """
    keys = dict.fromkeys((one.task, one.part, one.example) for one in transcripts)
    found: dict[tuple[str, str, str], list[Transcript]] = {key: [] for key in keys}
    for one in sorted(transcripts, key=lambda one: (one.member != champion, one.member)):
        found[one.task, one.part, one.example].append(one)
    return [
        {
            "task": task,
            "part": "held-out" if part == "held-out" else "selection",
            "example": example,
            "played": [{"who": who(one.member), **json.loads(one.transcript)} for one in played],
        }
        for (task, part, example), played in found.items()
    ]


def _source(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
