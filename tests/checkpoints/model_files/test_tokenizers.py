"""Tokenizers beside weights: adapters' own, chat templates, SentencePiece models compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import genepool
from genepool.checkpoints.family import Family, find_source, make_family, open_source
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.model_files import configs
from genepool.checkpoints.model_files.side_files import pinned_digests
from genepool.checkpoints.model_files.tokenizer_files import compare_tokenizer_settings
from genepool.checkpoints.model_files.vocabularies import read_vocabulary
from genepool.errors import CheckpointError
from tests.build import save
from tests.checkpoints.model_files.test_configs import VOCABULARY, model, tokenizer

EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))


def adapter(directory: Path, rows: int = 6, **files: Any) -> Path:
    """An adapter that replaces the embeddings; `files` as for `model`."""
    save(directory, {f"base_model.model.{EMBEDDINGS}": torch.randn(rows, 2)})
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "modules_to_save": ["embed_tokens"]}
    for name, content in {"adapter_config": config, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def opened(*paths: Path, **options: Any) -> Family:
    base = str(paths[0].parent / "base")
    found = [
        find_source(str(p), p.parent, base=base if "adapter" in p.name else None) for p in paths
    ]
    return make_family([open_source(source) for source in found], **options)


def test_an_adapters_own_tokenizer_is_used(tmp_path: Path) -> None:
    model(tmp_path / "base", rows=6, tokenizer_config={"chat_template": "base's"})
    more = {"tokenizer": tokenizer(think=4), "tokenizer_config": {"chat_template": "own"}}
    first = adapter(tmp_path / "adapter", **more)
    other = adapter(tmp_path / "adapter-2", **more)
    family = opened(first, other)
    assert [notice.partition(":")[0] for notice in family.notices] == [str(first), str(other)]
    assert "'think' (id 4)" in family.notices[0]
    assert "another chat template" in family.notices[0]
    genepool.merge(
        {"path": str(first), "base": str(tmp_path / "base")},
        {"path": str(other), "base": str(tmp_path / "base")},
        tmp_path / "out",
        ratio=0.5,
    )
    assert json.loads((tmp_path / "out/tokenizer.json").read_text()) == tokenizer(think=4)
    assert "own" in (tmp_path / "out/tokenizer_config.json").read_text()
    assert (tmp_path / "out/config.json").read_bytes() == (
        tmp_path / "base/config.json"
    ).read_bytes()
    # Against the base, which lacks the token, it is compared as any other tokenizer is.
    with pytest.raises(CheckpointError, match=r"it lacks the tokens 'think' \(id 4\)"):
        opened(first, tmp_path / "base")


def test_an_adapter_without_a_tokenizer_has_the_bases(tmp_path: Path) -> None:
    base = model(tmp_path / "base", rows=6)
    plain = adapter(tmp_path / "adapter")
    assert opened(plain, base).notices == ()
    same = adapter(tmp_path / "adapter-same", tokenizer=tokenizer())
    assert opened(same, base).notices == ()
    # A chat template alone has no tokens to go with.
    alone = adapter(tmp_path / "adapter-template")
    (alone / "chat_template.jinja").write_text("own")
    (notice,) = opened(alone, base).notices
    assert notice.startswith(f"{alone} holds a chat template but no tokenizer")
    # Nor have tokens that were added without those before them.
    added = adapter(tmp_path / "adapter-added", added_tokens={"think": 4}, tokenizer_config={})
    (notice,) = opened(added, base).notices
    assert f"{added} holds tokenizer_config.json and added_tokens.json but no tok" in notice
    # What says how a model is fed and generates is the base's, too.
    fed: dict[str, Any] = {"generation_config": {"min_length": 1}, "processor_config": {"size": 3}}
    other = adapter(tmp_path / "adapter-fed", **fed)
    model(base, rows=6, processor_config={"size": 3})
    (notice,) = opened(other, base).notices
    assert notice.startswith(f"{other} holds 'generation_config.json' with other values than")


@pytest.mark.parametrize(
    ("rows", "token", "message"),
    [
        (6, 6, r"token 'think' has id 6, and the embeddings have only 6 rows; resize the base"),
        (8, 6, r"was the vocabulary resized in training\? Then resize the base .*embeddings\(8\)"),
    ],
)
def test_tokens_without_rows_are_refused(
    tmp_path: Path, rows: int, token: int, message: str
) -> None:
    model(tmp_path / "base", rows=6)
    own = adapter(tmp_path / "adapter", rows, tokenizer=tokenizer(think=token))
    with pytest.raises(CheckpointError, match=message):
        opened(own)


@pytest.mark.parametrize(
    ("name", "content", "token"),
    [
        ("tokenizer", tokenizer(pad=4), "pad"),
        ("vocab", {**VOCABULARY, "d": 4}, "d"),
        ("added_tokens", {"later": 5}, "later"),
    ],
)
def test_the_first_models_tokens_without_rows_are_told(
    tmp_path: Path, name: str, content: dict[str, Any], token: str
) -> None:
    files: dict[str, Any] = {"tokenizer": None, "vocab": VOCABULARY, name: content}
    paths = [model(tmp_path / each, **files) for each in ("a", "b")]
    (line,) = opened(*paths).notices
    assert line.startswith(str(tmp_path / "a"))
    assert f"token '{token}' has id {content.get(token, 4)}, and the embeddings have only 4" in line
    paths = [model(tmp_path / each, rows=6, **files) for each in ("c", "d")]
    assert opened(*paths).notices == ()


LIST = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]


def as_files(directory: Path, tools: str = "tools") -> None:
    (directory / "additional_chat_templates").mkdir()
    (directory / "chat_template.jinja").write_text("plain\n")
    (directory / "additional_chat_templates/tool_use.jinja").write_text(tools)


def test_chat_templates_in_every_spelling(tmp_path: Path) -> None:
    a = model(tmp_path / "a", tokenizer_config={"chat_template": LIST})
    b = model(tmp_path / "b", tokenizer_config={})
    as_files(b)
    genepool.merge(b, a, tmp_path / "out", ratio=0.5)
    copied = tmp_path / "out/additional_chat_templates/tool_use.jinja"
    assert copied.read_text() == "tools"
    assert make_family([open_checkpoint(a), open_checkpoint(b)]).notices == ()
    c = model(tmp_path / "c", tokenizer_config={})
    as_files(c, "other tools")
    (notice,) = make_family([open_checkpoint(b), open_checkpoint(c)]).notices
    assert "other chat templates ('tool_use')" in notice
    # A pool pins them, too.
    digests = [pinned_digests(path, path)["chat template"] for path in (b, c)]
    assert digests[0] != digests[1]
    d = model(tmp_path / "d", tokenizer_config={}, chat_template={"chat_template": "another"})
    (notice,) = make_family([open_checkpoint(b), open_checkpoint(d)]).notices
    assert "other chat templates" in notice


def test_templates_may_not_lie_elsewhere(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    as_files(a)
    (tmp_path / "secret").write_text("secret")
    (a / "additional_chat_templates/x.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="links out of its directory"):
        genepool.merge(a, b, tmp_path / "out", ratio=0.5)
    assert not (tmp_path / "out").exists()


def pieces(*tokens: str, score: bytes = b"\0\0\0\0") -> bytes:
    """A SentencePiece model of these pieces, without its other parts."""
    out = b""
    for token in tokens:
        text = token.encode()
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15" + score + b"\x18\x01"
        out += b"\x0a" + bytes([len(piece)]) + piece
    return out + b"\x12\x02\x08\x01"


def words(tmp_path: Path, name: str, content: bytes, **files: Any) -> Path:
    made = model(tmp_path / name, tokenizer=None, **files)
    (made / "tokenizer.model").write_bytes(content)
    return made


def notices(*paths: Path) -> tuple[str, ...]:
    return make_family([open_checkpoint(path) for path in paths]).notices


def test_pieces_are_compared(tmp_path: Path) -> None:
    fast = model(tmp_path / "fast")
    same = words(tmp_path, "same", pieces(*VOCABULARY))
    (notice,) = notices(fast, same)
    assert "its tokens are the same" in notice
    (notice,) = notices(same, words(tmp_path, "scores", pieces(*VOCABULARY, score=b"\0\0\1\0")))
    assert "its tokens are the same" in notice
    moved = words(tmp_path, "moved", pieces("<unk>", "b", "a", "c"))
    for first in (fast, same):
        with pytest.raises(CheckpointError, match="token 'a' has id 2 against 1"):
            notices(first, moved)
    with pytest.raises(CheckpointError, match="id 0 is token 'zero' against '<unk>'"):
        notices(fast, words(tmp_path, "other", pieces("zero", "one", "two", "three")))
    # What was added later is said in tokenizer_config.json.
    added = {"added_tokens_decoder": {"4": {"content": "new"}}}
    with pytest.raises(CheckpointError, match=r"has besides the tokens 'new' \(id 4\)"):
        notices(same, words(tmp_path, "added", pieces(*VOCABULARY), tokenizer_config=added))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens", {"new": 4}),
        ("tokenizer_config", {"added_tokens_decoder": {"4": {"content": "new"}}}),
    ],
)
def test_tokens_that_tokenizer_json_does_not_have_itself(
    tmp_path: Path, name: str, content: dict[str, Any]
) -> None:
    plain = model(tmp_path / "plain", rows=6)
    added = model(tmp_path / "added", rows=6, **{name: content})
    for pair, verb in (((plain, added), "has besides"), ((added, plain), "lacks")):
        with pytest.raises(CheckpointError, match=rf"it {verb} the tokens 'new' \(id 4\)"):
            notices(*pair)
    # What it has itself, under whatever id, is only said again.
    known = {"added_tokens_decoder": {"3": {"content": "c"}, "2": {"content": "d"}}}
    assert not notices(plain, model(tmp_path / "known", rows=6, tokenizer_config=known))


def test_merges_beside_a_vocabulary_are_compared(tmp_path: Path) -> None:
    files: dict[str, Any] = {"tokenizer": None, "vocab": {"a": 0, "b": 1, "ab": 2}}
    a, b = (model(tmp_path / name, **files) for name in "ab")
    assert not notices(a, b)
    (a / "merges.txt").write_text("a b\n")
    assert "its tokens are the same" in "".join(notices(a, b))
    (b / "merges.txt").write_text("a b\n")
    assert not notices(a, b)


def test_only_ends_of_lines_part_the_tokens_of_a_list(tmp_path: Path) -> None:
    tokens = ["<unk>", "\u2028", "a\x85", "\x1c", "b"]
    for ends, last in (("\n", "\n"), ("\n", ""), ("\r\n", "\r\n")):
        (tmp_path / "vocab.txt").write_bytes((ends.join(tokens) + last).encode())
        found = read_vocabulary(tmp_path)
        assert found is not None and list(found.ids) == tokens
        assert list(found.ids.values()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.model", "qwen.tiktoken"])
def test_files_of_tokens_are_bounded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("one\ntwo\nthree\n")
    monkeypatch.setattr(configs, "_MAX", 9)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: is over 9 bytes"):
        read_vocabulary(tmp_path)


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    fast = model(tmp_path / "fast")
    for name, content in (
        ("cut", pieces(*VOCABULARY)[:-9]),
        ("ranks", b"IQ== 0\nIg== 1\n"),
        ("empty", b""),
        # Fairseq's tokenizers shift all ids by one.
        ("shifted", pieces("a", "b", "c", "d")),
    ):
        (notice,) = notices(fast, words(tmp_path, name, content))
        assert "could not be compared" in notice and "save both tokenizers in one form" in notice


@pytest.mark.parametrize("name", ["qwen.tiktoken", "spm.model", "tekken.json"])
def test_tokens_in_files_of_rarer_forms_are_compared(tmp_path: Path, name: str) -> None:
    def seed(label: str, *tokens: str, **further: Any) -> Path:
        made = model(tmp_path / label, tokenizer=None)
        text = "\n".join(tokens)
        if name == "tekken.json":
            text = json.dumps({"vocab": [{"token_str": t} for t in tokens], **further})
        (made / name).write_text(text)
        return made

    a, same, other = seed("a", "x", "y"), seed("same", "x", "y"), seed("other", "y", "x")
    assert not notices(a, same)
    with pytest.raises(CheckpointError, match=f"{name} does not fit .*: the files differ"):
        notices(a, other)
    (notice,) = notices(a, model(tmp_path / "fast"))
    assert "could not be compared" in notice
    if name == "tekken.json":
        (notice,) = notices(a, seed("newer", "x", "y", config={"version": "v7"}))
        assert "the tokens that both have are the same" in notice


def test_a_folder_without_templates_is_none(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a"), model(tmp_path / "b")
    (a / "additional_chat_templates").mkdir()
    (a / "further").mkdir()
    (a / "further/x.json").write_text("{}")
    genepool.merge(a, b, tmp_path / "out", ratio=0.5)
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({"add_bos_token": True}, {"add_bos_token": False}, "add_bos_token"),
        ({"add_bos_token": True}, {}, "add_bos_token"),
        ({}, {"add_eos_token": True}, "add_eos_token"),
        ({"bos_token": "<s>"}, {"bos_token": "<|begin|>"}, "bos_token"),
        ({"do_lower_case": True}, {"do_lower_case": False}, "do_lower_case"),
        ({"bos_token": "<s>"}, {"bos_token": {"content": "<s>", "lstrip": False}}, None),
        ({"bos_token": "<s>"}, {}, None),
        ({"legacy": False}, {}, None),
        ({"add_bos_token": None}, {}, None),
        ({"padding_side": "left"}, {"padding_side": "right"}, None),
    ],
)
def test_settings_that_change_which_tokens_a_text_has_are_told(
    ours: dict[str, Any], theirs: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    for name, config in (("a", ours), ("b", theirs)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(config))
    notices = compare_tokenizer_settings(tmp_path / "a", tmp_path / "b")
    assert len(notices) == (0 if told is None else 1)
    assert told is None or f"other values of {told} in tokenizer_config.json" in notices[0]
