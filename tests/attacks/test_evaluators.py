"""Abuses of data files, examples and models: each ends in one clear line, and never in a score."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genepool.errors import ConfigError, EvaluationError, GenepoolError
from genepool.tasks.task import open_task
from tests.nets import clouds, mlp

Write = Callable[[Path], object]


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _npz(**arrays: Any) -> Write:
    return lambda file: np.savez(file, **arrays)


def _text(text: str | bytes) -> Write:
    return lambda file: file.write_bytes(text.encode() if isinstance(text, str) else text)


def _idx(shape: tuple[int, ...], data: bytes, code: int = 8, zeros: bytes = b"\0\0") -> Write:
    head = zeros + bytes([code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return lambda file: file.write_bytes(head + data)


def _cut(write: Write, keep: float) -> Write:
    def cut(file: Path) -> None:
        write(file)
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])

    return cut


def _flipped(write: Write) -> Write:
    def flip(file: Path) -> None:
        write(file)
        data = bytearray(file.read_bytes())
        for at in range(60, 100):
            data[at] ^= 0xFF
        file.write_bytes(data)

    return flip


def _npy_header(shape: tuple[int, ...], data: bytes = b"") -> Write:
    def write(file: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        file.write_bytes(head.getvalue() + data)

    return write


def _zip_of(name: str, data: bytes) -> Write:
    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, data)

    return write


X, Y = clouds()
OBJECTS = np.array([[None, 1], [2, 3]], dtype=object)


def refused(directory: Path, evaluator: str, options: dict[str, Any], *words: str) -> None:
    """Opening ends in a user's error of one line with these words."""
    with pytest.raises(GenepoolError) as caught:
        open_task(evaluator, options, directory)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900, text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("write", "words"),
    [
        pytest.param(lambda file: None, ["no such file"], id="missing"),
        pytest.param(lambda file: file.mkdir(), ["expected a file"], id="directory"),
        pytest.param(_text(b""), ["not an .npz file"], id="empty"),
        pytest.param(_text("<html>404</html>"), ["not an .npz file"], id="web page"),
        pytest.param(_text(b"PK\x03\x04" + b"\0" * 99), ["cannot be read"], id="not a zip"),
        pytest.param(_cut(_npz(x=X, y=Y), 0.5), ["cannot be read"], id="cut"),
        pytest.param(_flipped(_npz(x=X, y=Y)), ["cannot be read"], id="flipped"),
        pytest.param(_npz(a=X), ["lacks 'x', 'y'", "holds 'a'"], id="other names"),
        pytest.param(_npz(x=X), ["lacks 'y'"], id="no labels"),
        pytest.param(_npz(x=X, y=Y, x_test=X), ["lacks 'y_test'"], id="no test labels"),
        pytest.param(_npz(x=X, y=Y[:-1]), ["120 examples but 119 labels"], id="label short"),
        pytest.param(_npz(x=X, y=Y * 0.5), ["one integer label", "float64"], id="half labels"),
        pytest.param(_npz(x=X, y=np.eye(3)[Y]), ["one integer label", "(120, 3)"], id="one hot"),
        pytest.param(_npz(x=X, y=Y - 1), ["label -1 of example 0", "out of range"], id="minus one"),
        pytest.param(_npz(x=X[:0], y=Y[:0]), ["at least one"], id="no examples"),
        pytest.param(_npz(x=X[:, :0], y=Y), ["at least one"], id="no features"),
        pytest.param(_npz(x=X[0], y=Y[:6]), ["got shape (6,)"], id="one dimension"),
        pytest.param(_npz(x=X.astype(str), y=Y), ["numbers", "<U"], id="text"),
        pytest.param(_npz(x=X * 1j, y=Y), ["numbers", "complex"], id="complex"),
        pytest.param(
            _npz(x=np.where(np.arange(X.size).reshape(X.shape) == 13, np.nan, X), y=Y),
            ["example 2", "NaN or infinity"],
            id="NaN",
        ),
        pytest.param(_npz(x=X.astype(np.float64) * 1e300, y=Y), ["NaN or infinity"], id="overflow"),
        pytest.param(_npz(x=OBJECTS, y=Y[:2]), ["a pickle", "refused"], id="objects"),
        pytest.param(_npz(x=X, y=Y, x_test=X[:, :2], y_test=Y), ["held-out", "(2,)"], id="narrow"),
        pytest.param(_zip_of("x.npy", b"no"), ["'x' in it is no array"], id="no array in the zip"),
    ],
)
def test_npz_files(tmp_path: Path, write: Write, words: list[str]) -> None:
    write(tmp_path / "data.npz")
    refused(tmp_path, "classifier", {"data": "data.npz"}, *words)


GOOD_IMAGES = _idx((3, 2, 2), bytes(range(12)))
GOOD_LABELS = _idx((3,), b"\0\1\2")


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        pytest.param(_text(b""), GOOD_LABELS, ["neither a .npy nor an IDX"], id="empty"),
        pytest.param(_text(b"\0\0\x08"), GOOD_LABELS, ["neither a .npy nor"], id="three bytes"),
        pytest.param(_idx((3, 4), bytes(12), zeros=b"\1\0"), GOOD_LABELS, ["neither"], id="magic"),
        pytest.param(_idx((3, 4), bytes(12), code=7), GOOD_LABELS, ["neither"], id="type code"),
        pytest.param(_text(b"\0\0\x08\x00"), GOOD_LABELS, ["neither"], id="no dimensions"),
        pytest.param(_text(b"\0\0\x08\x03\0\0"), GOOD_LABELS, ["header is cut short"], id="header"),
        pytest.param(_idx((3, 4), bytes(11)), GOOD_LABELS, ["promises 12", "11 follow"], id="cut"),
        pytest.param(_idx((3, 4), bytes(13)), GOOD_LABELS, ["promises 12", "more"], id="long"),
        pytest.param(
            _idx((2**32 - 1,) * 4, bytes(12)), GOOD_LABELS, ["promises", "12 follow"], id="huge"
        ),
        pytest.param(_idx((2**31, 2**20), bytes(12)), GOOD_LABELS, ["12 follow"], id="large"),
        pytest.param(_idx((0, 4), b""), GOOD_LABELS, ["at least one"], id="none"),
        pytest.param(GOOD_IMAGES, _idx((2,), b"\0\1"), ["3 examples but 2"], id="two labels"),
        pytest.param(GOOD_IMAGES, GOOD_IMAGES, ["one integer label"], id="images as labels"),
        pytest.param(GOOD_IMAGES, _idx((3,), b"\0\xff\1", code=9), ["label -1"], id="negative"),
        pytest.param(_npy_header((10**12, 4)), GOOD_LABELS, ["cannot be read"], id="npy huge"),
        pytest.param(_npy_header((3, 4), bytes(20)), GOOD_LABELS, ["cannot be read"], id="npy cut"),
        pytest.param(_text(b"\x93NUMPY\x09\0"), GOOD_LABELS, ["cannot be read"], id="npy version"),
        pytest.param(
            _text(gzip.compress(b"\0\0\x08\x01")), GOOD_LABELS, ["it is gzipped"], id="gz unnamed"
        ),
    ],
)
def test_idx_and_npy_files(tmp_path: Path, images: Write, labels: Write, words: list[str]) -> None:
    images(tmp_path / "images")
    labels(tmp_path / "labels")
    refused(tmp_path, "classifier", {"images": "images", "labels": "labels"}, "images", *words)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"plain", id="not gzipped"),
        pytest.param(gzip.compress(bytes(500))[:-12], id="cut"),
        pytest.param(gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc"), id="short inside"),
    ],
)
def test_gzipped_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "images.gz").write_bytes(data)
    GOOD_LABELS(tmp_path / "labels")
    refused(tmp_path, "classifier", {"images": "images.gz", "labels": "labels"}, "images.gz")


@pytest.mark.parametrize("name", ["data.npz", "data.npy", "inside.npz"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    file, trap = tmp_path / name, Trap(mark)
    if name == "data.npz":
        file.write_bytes(pickle.dumps(trap))
    elif name == "data.npy":
        np.save(file, np.array([trap], dtype=object), allow_pickle=True)
    else:
        np.savez(file, allow_pickle=True, x=np.array([trap], dtype=object), y=Y)
    for options in ({"data": name}, {"images": name, "labels": name}):
        with pytest.raises(ConfigError):
            open_task("classifier", options, tmp_path)
    (tmp_path / "gp_attack.py").write_text("def score(model, examples): return 0")
    with pytest.raises(ConfigError):
        open_task("function", {"function": "gp_attack:score", "examples": name}, tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "digits", "images": "x"}, ["'data' and 'images' exclude each other"]),
        ({"images": "x"}, ["'images' needs 'labels'"]),
        ({"labels": "y"}, ["'labels' needs 'images'"]),
        ({"images": "x", "labels": "y", "test_labels": "z"}, ["needs 'test_images'"]),
        ({"test_images": "x", "test_labels": "y"}, ["needs 'images'"]),
        ({"held_out": 0.9999}, ["leaves none to select by"]),
        ({"shape": [8, 9]}, ["[8, 9] has 72 values", "64"]),
        ({"scale": 1e38}, ["overflow float32"]),
        ({"data": "a\nb.npz"}, ["no such file", r"a\nb.npz"]),
        ({"data": "\0.npz"}, [r"\x00"]),
        ({"data": "x" * 5000}, []),
    ],
)
def test_classifier_options(tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    refused(tmp_path, "classifier", options, *words)


def _changed(**changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {**mlp((64, 12, 10))}
    for name, change in changes.items():
        key = name.replace("__", ".")
        if change is None:
            del model[key]
        else:
            model[key] = change(model.get(key))
    return model


def _with(value: float) -> Callable[[Any], Any]:
    def put(array: Any) -> Any:
        out = array.copy()
        out.flat[0] = value
        return out

    return put


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_changed(layer0__weight=_with(np.nan)), ["layer 'layer0'", "NaN or infinity"]),
        (_changed(layer1__bias=_with(np.inf)), ["layer 'layer1'", "NaN or infinity"]),
        (_changed(layer0__weight=lambda a: a * 3e37 / a, layer1__weight=_with(3e38)), ["NaN"]),
        (_changed(layer1__bias=None), ["lacks 'layer1.bias'"]),
        (_changed(layer0__bias=None, layer0__weight=None), ["in = 64"]),
        (_changed(extra=lambda _: np.zeros(3, dtype=np.float32)), ["it has 'extra'"]),
        (_changed(layer0__weight=lambda a: a.T.copy()), ["(12, 64)", "torch stores (out, in)"]),
        (_changed(layer0__weight=lambda a: a.astype(np.float64)), ["float32", "float64"]),
        (_changed(layer0__weight=lambda a: np.asfortranarray(a)), ["contiguous"]),
        (_changed(layer0__weight=lambda a: a.reshape(-1)), ["expected 2 dimensions"]),
        (_changed(layer0__bias=lambda a: a[:-1].copy()), ["bias (11,)"]),
        (_changed(layer1__weight=lambda a: a[:, :9].copy(), layer1__bias=lambda a: a[:9].copy()),
         ["9 outputs", "label 9"]),
        ({}, ["not a plain MLP"]),
        (None, ["got NoneType"]),
        (torch.nn.Linear(63, 10), ["batch of shape (16, 64)", "RuntimeError"]),
        (torch.nn.Linear(64, 9), ["9 outputs", "label 9"]),
    ],
)  # fmt: skip
def test_models_that_cannot_be_scored(tmp_path: Path, model: Any, words: list[str]) -> None:
    task = open_task("classifier", {}, tmp_path)
    with pytest.raises(EvaluationError) as caught:
        task.score(model, np.arange(50))
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    fine = task.score(mlp((64, 12, 10)), np.arange(50))
    assert fine.shape == (50,)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("e.jsonl", lambda file: None, ["no such file"]),
        ("e.jsonl", _text(""), ["holds no examples"]),
        ("e.jsonl", _text("\n\n"), ["holds no examples"]),
        ("e.jsonl", _text('{"a": 1}\n{"a": \n'), ["line 2", "not valid JSON"]),
        ("e.jsonl", _text(b'{"a": "\xff"}'), ["cannot be read", "is not UTF-8 text"]),
        ("e.jsonl", _text("[" * 100_000), ["line 1"]),
        ("e.jsonl", _text('{"id": 1}\n{"id": 1}'), ["examples 0 and 1 have the same id '1'"]),
        ("e.jsonl", _text('{"id": 1}\n{"id": "1"}'), ["have the same id '1'"]),
        ("e.jsonl", _text("1\n2\n1"), ["examples 0 and 2 have the same id"]),
        ("e.jsonl", _text('{"id": 1}\n{"x": 2}'), ["example 1", "no usable 'id'"]),
        ("e.jsonl", _text('{"id": [1]}'), ["example 0", "no usable 'id'", "[1]"]),
        ("e.jsonl", _text('{"id": true}'), ["no usable 'id'"]),
        ("e.json", _text('{"a": 1}'), ["expected a JSON list", "dict"]),
        ("e.json", _text("[]"), ["holds no examples"]),
        ("e.json", lambda file: file.mkdir(), ["cannot be read"]),
        ("e.npy", lambda file: np.save(file, np.float32(3)), ["a single number"]),
        ("e.npz", _npz(x=X, y=Y[:-1]), ["equal length", "(119,)"]),
        ("e.npz", _npz(), ["no arrays"]),
        ("e.txt", _text("hello"), [".jsonl", "module:function"]),
        ("gp_attack_e:absent", lambda file: None, ["has no 'absent'"]),
        ("gp_attack_e:number", lambda file: None, ["expected a list of examples", "int"]),
        ("gp_attack_e:text", lambda file: None, ["expected a list of examples", "str"]),
        ("gp_attack_e:broken", lambda file: None, ["failed: OSError: disk on fire"]),
        ("gp_attack_e:things", lambda file: None, ["example 0", "type object"]),
        ("gp_attack_e:keys", lambda file: None, ["example 0", "keys must be text"]),
        ("gp_attack_e:round", lambda file: None, ["example 0", "RecursionError"]),
    ],
)
def test_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Write, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "gp_attack_e", raising=False)
    (tmp_path / "gp_attack_e.py").write_text(
        "number = 3\ntext = 'abc'\nthings = [object()]\nkeys = [{1: 2}]\nround = [[]]\n"
        "round[0].append(round[0])\n"
        "def broken(): raise OSError('disk on fire')\n"
        "def score(model, examples): return [1] * len(examples)\n"
    )
    write(tmp_path / name)
    refused(tmp_path, "function", {"function": "gp_attack_e:score", "examples": name}, *words)


def test_a_large_number_in_json(tmp_path: Path) -> None:
    (tmp_path / "gp_attack_f.py").write_text("def score(model, examples): return [1]")
    (tmp_path / "e.json").write_text("[" + "9" * 10_000 + "]")
    refused(tmp_path, "function", {"function": "gp_attack_f:score", "examples": "e.json"}, "e.json")
