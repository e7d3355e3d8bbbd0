"""Hostile YAML, JSON and patterns: each ends at once, with one clear line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.checkpoints import patterns
from genepool.checkpoints.layout import pattern_test
from genepool.checkpoints.model_files.configs import read_json
from genepool.documents import Unreadable, parse_json, read_bytes, read_text
from genepool.errors import CheckpointError, ConfigError, GenepoolError, InputError
from genepool.governance.licences import licence_of
from genepool.output.recipe_file import read_recipe
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.run_file import load_run
from genepool.tasks.example_files import read_examples
from genepool.yaml_documents import parse_yaml, texts_under
from tests.cli import run_cli
from tests.runs import contents, write_run

# Far more than any of this takes on a busy machine, far less than what it would take unbounded.
PATIENCE = 240


@pytest.fixture(autouse=True)
def at_once() -> Any:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < PATIENCE


def bomb(form: str, levels: int = 12) -> str:
    """Nine uses of what nine uses of ... are in: 9**levels values."""
    lines = ["a0: &a0 {x: 1}" if "<<" in form else "a0: &a0 [x]"]
    for level in range(1, levels):
        uses = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {form.format(uses)}")
    return "\n".join(lines) + "\n"


# Each of these takes a second.
LARGE = {"nested lists", "many values", "a bomb as a key"}

YAML: dict[str, tuple[str, str]] = {
    "a bomb of aliases": (bomb("[{}]"), "more than 20,000 values, aliases written out"),
    "a bomb of mappings": (
        bomb("[{}]").replace("[x]", "{x: [y]}"),
        "more than 20,000 values, aliases written out",
    ),
    "a bomb of merge keys": (bomb("{{<<: [{}]}}"), "more than 20,000 values|more than 50 deep"),
    "an alias of itself": ("a: &a [*a]", "nested more than 50 deep"),
    "a merge of itself": ("a: &a {<<: *a}", "nested more than 50 deep"),
    "nested lists": ("a: " + "[" * 100_000, "nested more than 50 deep"),
    "nested mappings": ("{a: " * 5000, "nested more than 50 deep"),
    "many values": ("a: [" + "x," * 100_000 + "]", "more than 20,000 values"),
    "many keys": ("\n".join(f"k{n}: x" for n in range(30_000)), "more than 20,000 values"),
    "a bomb as a key": (bomb("[{}]") + "? *a11\n: x\n", "more than 20,000|a list or mapping"),
    "a huge number": ("a: " + "9" * 5000, "a whole number of 5000 digits is too large"),
    "a huge number in hexadecimal": ("a: 0x" + "f" * 9000, "9002 digits is too large"),
    "a number by eights": ("a: 010", "line 1: '010' is not one number to all readers"),
    "a number by eights, signed": ("a: -0_7", "'-0_7' is not one number to all readers"),
    "minutes and seconds": ("a: b\nc: 1:30", "line 2: '1:30' is not one number to all readers"),
    "hours and a fraction": ("a: 12:30:45.5", "'12:30:45.5' is not one number to all readers"),
    "a huge number of minutes": ("a: 1" + ":30" * 9000, "digits is too large"),
    "a tag of a number": ("a: !!int many", "'many' is no int"),
    "a tag of an empty number": ("a: !!int ''", "'' is no int"),
    "a tag of a fraction": ("a: !!float x", "'x' is no float"),
    "a tag of a truth value": ("a: !!bool perhaps", "'perhaps' is no bool"),
    "a tag of a date": ("a: !!timestamp today", "'today' is no timestamp"),
    "a date that is none": ("a: 2020-13-45", "'2020-13-45' is no timestamp"),
    "a tag of bytes": ("a: !!binary é", "not valid YAML"),
    "a tag that runs code": ("a: !!python/object/apply:os.system [x]", "has no use"),
    "a tag of one's own": ("a: !mine {b: c}", "'!mine' has no use"),
    "a NUL": ("a: \0", "line 1: not valid YAML"),
    "a NUL further down": ("a: b\nc: d\ne: \0", "line 3: not valid YAML"),
    "a merge of a word": ("a: {<<: b}", "'<<' takes a mapping"),
    "a key that is a list": ("? [a]\n: b", "a key must be text"),
    "two documents": ("a: b\n---\nc: d", "line 2: not valid YAML"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", YAML)
def test_yaml(tmp_path: Path, case: str) -> None:
    text, words = YAML[case]
    with pytest.raises(Unreadable) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        load_run(file)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(file))


def test_numbers_as_people_read_them() -> None:
    numbers = {"1e-3": 0.001, "5E3": 5000.0, "-1.5e+2": -150.0, ".5e1": 5.0, "0": 0, "0.5": 0.5}
    numbers |= {"1_000": 1000, "0x10": 16, "-7": -7, "+0": 0, "00.5": 0.5}
    texts = {"'1e-3'": "1e-3", '"010"': "010", "1e": "1e", "e5": "e5", "1e5x": "1e5x", "a:1": "a:1"}
    for text, value in {**numbers, **texts}.items():
        found = parse_yaml(f"a: {text}")[0]["a"]
        assert found == value and type(found) is type(value), text


OUT_OF_PROPORTION = {
    case: (text, words)
    for case, (text, words) in YAML.items()
    if "more than" in words or "digits" in words
}
OUT_OF_PROPORTION["a list of itself"] = ("a: &a [" + "*a," * 19_000 + "]", "more than 20,000")
OUT_OF_PROPORTION["a large file"] = ("#" * 1_000_001, "is over 1 MB; is this the right file?")


@pytest.mark.slow
@pytest.mark.parametrize("case", OUT_OF_PROPORTION)
def test_task_files_that_the_harness_reads(tmp_path: Path, case: str) -> None:
    from genepool.tasks.lm_eval.harness import open_harness_task

    text, words = OUT_OF_PROPORTION[case]
    file = tmp_path / "folder/inner.yaml"
    file.parent.mkdir()
    file.write_text(text)
    # A tag of the harness's, and files that each include the other.
    outer = "task: x\nprocess_docs: !function utils.f\ninclude: {}\n"
    (tmp_path / "plain.yaml").write_text(outer.format("[outer.yaml, gone.yaml]"))
    (tmp_path / "outer.yaml").write_text(outer.format("[plain.yaml, folder/inner.yaml]"))
    named: list[tuple[str, Path | None]] = [("outer.yaml", None)]
    if case == "nested lists":
        named += [("folder/inner.yaml", None), ("x", tmp_path / "folder")]
        named += [("x", tmp_path / "plain.yaml")]
    for name, include in named:
        with pytest.raises(ConfigError, match=words) as caught:
            open_harness_task(name, include, tmp_path)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)


def test_task_files_that_are_no_plain_files(tmp_path: Path) -> None:
    from genepool.tasks.lm_eval.harness import open_harness_task

    (tmp_path / "tasks").mkdir()
    os.mkfifo(tmp_path / "tasks/pipe.yaml")
    (tmp_path / "outer.yaml").write_text("task: x\ninclude: tasks/pipe.yaml\n")
    for name, include in (("outer.yaml", None), ("x", tmp_path / "tasks")):
        with pytest.raises(ConfigError, match="is a pipe or a device; expected a plain file"):
            open_harness_task(name, include, tmp_path)


def test_what_is_no_yaml_is_the_harness_s_to_say(tmp_path: Path) -> None:
    for data in (b"a: [", b"\xff\xfe\x00", b"a: \xe9", b"", b"- a", b"a: b\n---\nc: d"):
        assert texts_under(data, "include") == []
    assert texts_under(b"include: [a, [b], {c: d}, 3]", "include") == ["a", "3"]
    assert texts_under(b"x: &x a\ninclude: *x", "include") == ["a"]


@pytest.mark.slow
def test_a_front_matter_is_bounded_too(tmp_path: Path) -> None:
    for body in (bomb("[{}]"), "\n" * 190_000, "a: " + "[" * 100_000, "license: !!int x", "x: \0"):
        (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{body}\n---\n")
        found = licence_of(tmp_path)
        assert found == ("mit" if not body.strip() else None)
    (tmp_path / "README.md").write_text("---" + "\n" * 190_000 + "-")
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---" + " \n" * 90_000 + "---x")
    assert licence_of(tmp_path) is None
    (tmp_path / "README.md").write_text("---  \r\nlicense: MIT\r\n--- \r\ntext")
    assert licence_of(tmp_path) == "mit"


def run_of(path: Path) -> object:
    return load_run(path)


def examples_of(path: Path) -> object:
    return read_examples(path.name, path.parent)


# Who reads a file from outside, what it is called, and what is raised.
READERS: dict[str, tuple[Callable[[Path], object], str, type[Exception]]] = {
    "a run file": (run_of, "run.yaml", ConfigError),
    "a recipe": (read_recipe, "genepool.json", InputError),
    "a list of examples": (examples_of, "examples.json", ConfigError),
    "examples line by line": (examples_of, "examples.jsonl", ConfigError),
    "examples in an array": (examples_of, "examples.npy", ConfigError),
    "examples in arrays": (examples_of, "examples.npz", ConfigError),
    "a configuration": (read_json, "config.json", CheckpointError),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file(tmp_path: Path, reader: str) -> None:
    read, name, kind = READERS[reader]
    pipe, device, folder = (tmp_path / where / name for where in ("pipe", "device", "folder"))
    for path in (pipe, device, folder):
        path.parent.mkdir()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    for path in (pipe, device, folder, tmp_path / "nowhere" / name, tmp_path / ("x" * 5000 + name)):
        with pytest.raises(kind) as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_text(tmp_path: Path, reader: str) -> None:
    read, name, kind = READERS[reader]
    for data in (b"\xff\xfea\x00", b"\x80abc", b"\x00", b"", b"\xef\xbb\xbf"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(kind) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_large_run_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("# " + "x" * 10_000_000)
    with pytest.raises(ConfigError, match="is over 1 MB; is this the right file"):
        load_run(file)
    # Comments up to the limit are only slow to read.
    file.write_text("pool: p\n" + "# x\n" * 200_000)
    with pytest.raises(ConfigError, match="seeds: this is required"):
        load_run(file)


def test_what_a_text_is_encoded_in_is_told(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("pool: p", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"line 1: is UTF-16 .*save it as UTF-8"):
        load_run(file)
    file.write_bytes(b"a: b\nc: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"line 2: is not UTF-8 text \(byte 0xe9\)"):
        load_run(file)


def test_files_that_grow_or_say_nothing_of_their_size(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="is over 10 bytes"):
        read_bytes(Path("/proc/self/status"), 10)
    with pytest.raises(Unreadable, match="null"):
        read_text(Path("a\0b"), 10)
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "file", 10) == b"0123456789"


JSON: dict[str, tuple[str, str]] = {
    "nested lists": ("[" * 100_000 + "]" * 100_000, "nested"),
    "lists nested a little less": ("[" * 250 + "]" * 250, "nested more than 200 deep"),
    "nested objects": ('{"a":' * 300 + "1" + "}" * 300, "nested more than 200 deep"),
    "a huge number": ('{"a": ' + "9" * 5000 + "}", "5000 digits is too large"),
    "a large number": ('{"a": -' + "9" * 100 + "}", "101 digits is too large"),
    "half a character": ('["\\ud800"]', "not text"),
    "half a character in a key": ('{"\\udfff\\ud801": 1}', "not text"),
    "a key twice": ('{"a": 1, "a": 2}', "'a' occurs twice"),
    "no JSON": ("{a: 1}", "Expecting property name"),
}


@pytest.mark.parametrize("case", JSON)
def test_json(tmp_path: Path, case: str) -> None:
    text, words = JSON[case]
    with pytest.raises(Unreadable, match=words):
        parse_json(text)
    for reader in ("a recipe", "a list of examples", "examples line by line", "a configuration"):
        read, name, kind = READERS[reader]
        (tmp_path / name).write_text(text)
        with pytest.raises(kind, match=words) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_json_that_is_fine() -> None:
    for value in ({"a": 10**30, "b": [1.5, None, "\U0001f600"]}, [[[[]]]], "x", {"": {}}):
        assert parse_json(json.dumps(value)) == value
        assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_patterns_that_would_take_for_ever() -> None:
    for pattern in ("(a+)+b", "(a|a)*b", "(a|aa)+b", "(.*a){20}b", ".*" * 300 + "b", "((a*)*)*b"):
        test = pattern_test(f"re:{pattern}")
        assert not test("a" * 5000)
        assert test("a" * 50 + "b")


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "a)|(b", "(?!a", r"(a)\2", "x" * 1001, r"(\w{100}){10}", "(?x: a #", "(?=a)(?R)"],
)
def test_patterns_that_cannot_be_used(pattern: str) -> None:
    with pytest.raises(ValueError) as caught:
        pattern_test(f"re:{pattern}")
    assert "\n" not in str(caught.value)


LOOKING = [r"(?!lm_head).*", r"(?<!a)b|.*(?<=x)y", r"(.)\1*", r"(?=.*mlp)model\..*\.(\w+)_\1"]


@pytest.mark.parametrize("pattern", LOOKING)
def test_patterns_that_look_around_match_as_pythons_do(pattern: str) -> None:
    """Pools of older releases may hold such."""
    names = ["", "a", "aa", "ab", "lm_head.weight", "axy", "y", "b", "model.mlp.up_up", "model.a_a"]
    test = pattern_test(f"re:{pattern}")
    assert [test(name) for name in names] == [bool(re.fullmatch(pattern, n)) for n in names]


@pytest.mark.parametrize("pattern", ["(?!x)(?:a{1,1000}){1,1000}b", r"(?:(a|aa)+)+\1[bc]"])
def test_patterns_that_look_around_for_ever_are_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.1)
    test = pattern_test(f"re:{pattern}")
    with pytest.raises(GenepoolError) as caught:
        test("a" * 200)
    assert "takes too long to match 'aaaa" in str(caught.value)
    assert "\n" not in str(caught.value)
    # However many names there are.
    with pytest.raises(GenepoolError, match="takes too long"):
        test("a" * 200)


@pytest.mark.parametrize("pattern", ["(?!lm_head).*", r"(.)\1*"])
def test_patterns_that_look_around_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setitem(sys.modules, "regex", None)
    file = write_run(tmp_path, chromosomes={"body": [f"re:{pattern}"]}, budget=2)
    code, _, error = run_cli(["evolve", str(file)])
    assert (code, error.count("\n")) == (1, 1), error
    assert "need the package regex (pip install regex); without it, let a chromosome that" in error


@pytest.mark.slow
def test_a_run_with_patterns_that_look_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pool, pattern in {"around": "re:(?!output).*", "plain": "hidden*"}.items():
        evolve(write_run(tmp_path, pool=pool, chromosomes={"body": [pattern]}, budget=10))
    assert contents(tmp_path / "around")[:-2] == contents(tmp_path / "plain")[:-2]
    assert run_cli(["export", str(tmp_path / "around"), "-o", str(tmp_path / "out")])[0] == 0
    monkeypatch.setattr(patterns, "_SECONDS", 0.1)
    for number in (1, 2):
        row = {"a" * 200: np.full(4, number, np.float32)}
        save_file(row, tmp_path / f"seed{number}.safetensors")
    slow = {"body": ["re:(?!x)(?:a{1,1000}){1,1000}b"]}
    code, _, error = run_cli(["evolve", str(write_run(tmp_path, pool="slow", chromosomes=slow))])
    assert (code, error.count("\n")) == (1, 1), error
    assert "takes too long to match 'aaaa" in error


def test_patterns_match_as_pythons_do() -> None:
    layers = pattern_test(r"re:model\.layers\.(1[0-9]|2[0-3])\..*")
    assert layers("model.layers.13.mlp") and layers("model.layers.20.")
    assert not layers("model.layers.3.mlp") and not layers("x.model.layers.13.mlp")
    assert pattern_test(r"re:^a|bc$")("bc") and not pattern_test(r"re:a|b")("ab")
    assert pattern_test("re:(?i)a")("A") and not pattern_test("re:.")("\n")
    assert pattern_test("*.mlp.[ab]")("x.mlp.a") and not pattern_test("*.mlp.[ab]")("x.mlp.c")


BESIDE = ["pool.sqlite-wal", "pool.sqlite-shm", "pool.sqlite-journal", "pool.sqlite"]


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_pipes_in_a_pool(tmp_path: Path, name: str) -> None:
    file = write_run(tmp_path, budget=2)
    evolve(file)
    (tmp_path / "pool" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pool" / name)
    for command in (["status", str(tmp_path / "pool")], ["evolve", str(file), "--budget", "4"]):
        done = subprocess.run(
            [sys.executable, "-m", "genepool", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert name in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gram", "digests.json"])
def test_pipes_in_a_cache(tmp_path: Path, name: str) -> None:
    file = write_run(tmp_path, budget=2)
    evolve(file)
    place = next((tmp_path / "pool").glob(f"{name}*"))
    place.unlink()
    os.mkfifo(place)
    done = subprocess.run(
        [sys.executable, "-m", "genepool", "evolve", str(file), "--budget", "4"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    with Pool(tmp_path / "pool") as pool:
        assert pool.evaluations == 4


HOMES: dict[str, Callable[[str], dict[str, Any]]] = {
    "pool": lambda home: {"pool": home},
    "seeds": lambda home: {"seeds": [home, "seed2.safetensors"]},
    "data": lambda home: {"tasks": [{"name": "a", "evaluator": "classifier", "data": home}]},
}


@pytest.mark.parametrize("place", HOMES)
def test_a_home_that_nobody_has(tmp_path: Path, place: str) -> None:
    file = write_run(tmp_path, **HOMES[place]("~nobody-of-this-name/x"), budget=2)
    code, _, error = run_cli(["evolve", str(file)])
    assert (code, error.count("\n")) == (1, 1), error
    assert "~nobody-of-this-name/x" in error
    assert not list(tmp_path.glob("~*"))
