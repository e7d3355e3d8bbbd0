"""The card of an exported model: hostile names stay names, and a seed is not called a merge."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

import genepool
from genepool.governance.card import _score
from genepool.run.evolve import evolve
from tests.runs import write_run

HOSTILE = [
    "![x](https://example.org/spy.png)`id`\x7f",
    "$(touch pwned)';touch pwned;'\n```\n# owned <img src=x>|",
]


def card(folder: Path, member: int | str = "best", **changes: object) -> tuple[dict, str]:  # type: ignore[type-arg]
    evolve(write_run(folder, **changes))
    with genepool.Pool(folder / "pool") as pool:
        genepool.export(pool, member, folder / "out")
    text = (folder / "out/README.md").read_text("utf-8")
    _, front, body = re.split(r"^---\n", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), body


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    seeds = [
        {"path": f"seed{n}.safetensors", "name": name} for n, name in enumerate(HOSTILE, start=1)
    ]
    tasks = [{"name": f"{HOSTILE[1]} task", "evaluator": "classifier", "data": "data.npz"}]
    front, body = card(tmp_path, seeds=seeds, tasks=tasks)
    assert front["base_model"] == HOSTILE
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    kinds = {t.type for token in tokens for t in (token, *(token.children or ()))}
    assert not kinds & {"image", "html_inline", "html_block", "link_open", "s_open"}
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings[0] == "out"
    assert "owned" not in " ".join(headings)
    assert "\x7f" not in body
    (command,) = [token.content for token in tokens if token.type == "fence"]
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    words = subprocess.run(
        ["bash", "-c", f"genepool() {{ printf '%s\\0' \"$@\"; }}; {command}"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    ).stdout.decode()
    given = [f"{name}=PATH" for name in HOSTILE]
    assert words.split("\0")[:-1] == [
        *("rebuild", "genepool.json", "--moved"),
        *given,
        *("-o", "DIR"),
    ]
    assert not (tmp_path / "pwned").exists()


def test_a_champion_that_is_a_seed_is_not_called_a_merge(tmp_path: Path) -> None:
    front, body = card(tmp_path, budget=0)
    assert "base_model_relation" not in front
    assert "merge" not in front["tags"]
    assert "nothing was merged. No child that was accepted has beaten it on the selection" in body
    assert "A merge of" not in body


def test_a_child_is_a_merge(tmp_path: Path) -> None:
    front, body = card(tmp_path)
    assert front["base_model_relation"] == "merge"
    assert "A merge of 2 models, bred by genepool" in body
    assert re.search(r"\*\*this model\*\* \(member \d+\)", body)


def test_what_is_not_all_is_not_written_as_all() -> None:
    written = {
        1.0: "1.0000",
        0.99996: "> 0.9999",
        0.9999: "0.9999",
        0.0: "0.0000",
        4e-5: "< 0.0001",
        12.5: "12.5000",
    }
    assert {value: _score(value) for value in written} == written
    assert _score(None) == ""
