"""Names stay names: read back by a parser of Markdown, of YAML, and by a shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from genepool.governance.markdown import argument, block, code, scalar, table, text

NASTY = [
    "![x](https://example.org/spy.png)",
    "[x](javascript:alert(1))",
    "`rm -rf ~`",
    "``` \n# heading",
    "<img src=x onerror=alert(1)>",
    "a | b \\| c",
    "**bold** _it_ ~~gone~~ $x$",
    "&lt;b&gt;",
    "$(touch pwned); `touch pwned` 'x' \"y\" \\",
    "line\nbreak\x7f\x1b[31m\u202e\u2028\ufeff",
    "- list",
    "snake_case-1.5",
]
ANY = st.one_of(st.sampled_from(NASTY), st.text(max_size=40))


def parsed(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)


def words(tokens: list[Token]) -> str:
    return "".join(t.content for token in tokens for t in token.children or () if not t.children)


def shown(name: str) -> str:
    return "".join(c if c.isprintable() else " " for c in name)


@given(ANY)
def test_a_name_in_text_shows_itself(name: str) -> None:
    tokens = parsed(f"before {text(name)} after")
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special"}
    assert words(tokens) == f"before {shown(name)} after"


@given(ANY)
def test_a_name_in_code_shows_itself(name: str) -> None:
    (inline,) = [token for token in parsed(f"before {code(name)} after") if token.children]
    kinds = [child.type for child in inline.children or ()]
    if shown(name).strip() and "|" not in name:
        assert kinds == ["text", "code_inline", "text"]
        found = (inline.children or ())[1].content
        assert found.strip() == shown(name).strip()


@given(st.lists(st.tuples(ANY, ANY), min_size=1, max_size=3))
def test_a_name_in_a_table_stays_in_its_cell(rows: list[tuple[str, str]]) -> None:
    made = table(("a", "b"), [(text(left), code(right or "x")) for left, right in rows])
    cells = [
        words([token]) for token in parsed(made) if token.type == "inline" and token.level == 4
    ]
    expected = ["a", "b"]
    for left, right in rows:
        expected += [shown(left), shown(right or "x")]
    assert [cell.strip() for cell in cells] == [cell.strip() for cell in expected]


@given(ANY)
def test_a_string_in_yaml_is_read_back(name: str) -> None:
    read = yaml.safe_load(f"- {scalar(name)}\n")
    assert read == [name.encode("utf-16", "replace").decode("utf-16") if surrogate(name) else name]


def surrogate(name: str) -> bool:
    return any(0xD800 <= ord(c) <= 0xDFFF for c in name)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize("name", NASTY)
def test_a_word_of_a_command_is_handed_on(name: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"printf %s {argument(name)}"], capture_output=True, check=True
    )
    assert done.stdout.decode() == name
    command = f"genepool rebuild genepool.json --moved {argument(name + '=PATH')} -o DIR"
    assert "\n" not in command
    (fence,) = parsed(block(command))
    assert (fence.type, fence.content) == ("fence", f"{command}\n")
