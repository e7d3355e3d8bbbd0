"""Models by their id, from a server on this machine that answers as the Hugging Face Hub does.

What the Hub answers is from the documentation of its API and from what huggingface_hub asks for;
whether the real one still does so can only be seen where it can be reached.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name, and what has been asked for."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), "/".join(parts[5:]) or "main"
            found = self.find(name, revision)
            if found:
                return found
            if parts[4:5] == ["tree"]:
                entries = [
                    {"type": "file", "path": file, "size": len(data), "oid": "0" * 40}
                    for file, data in self.models[name].items()
                ]
                return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
            files = [{"rfilename": file} for file in self.models[name]]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": []}
            content = json.dumps({**info, "private": False, "downloads": 0, "likes": 0})
            return 200, {"Content-Type": "application/json"}, content.encode()
        if parts[2:3] != ["resolve"]:
            return 404, {}, b""
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        found = self.find(name, revision)
        if found:
            return found
        data = self.models[name][file]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return 200, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, data

    def find(self, name: str, revision: str) -> tuple[int, dict[str, str], bytes] | None:
        """The refusal, if there is one."""
        if name not in self.models:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no"}, b""
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"}, b""
        return None


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def model(folder: Path, value: float) -> dict[str, bytes]:
    """The files of a tiny model, and some that must not be fetched."""
    path = folder / f"{value}.safetensors"
    tensor = np.full((4, 4), value, dtype=np.float32)
    tensor[0, 0] = -value
    save_file({"layer.weight": tensor}, path, {"format": "pt"})
    files = {"model.safetensors": path.read_bytes(), "config.json": b'{"model_type": "tiny"}'}
    return {**files, "pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit"}


def genepool(hub: Hub, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, with this Hub and an empty home."""
    return python(hub, folder, "-m", "genepool", *arguments)


def python(hub: Hub, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, with this Hub and an empty home."""
    drop = ("HF_", "HUGGING", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
    environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "GENEPOOL_CACHE": str(folder / "cache"),
        "NO_PROXY": "*",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )


@pytest.mark.slow
def test_two_models_of_the_hub_merge_and_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    hub.models = {"org/one": model(tmp_path, 1.0), "org/two": model(tmp_path, 3.0)}
    ids = ("org/one", f"org/two@{COMMIT}")
    done = genepool(hub, tmp_path, "merge", *ids, "--ratio", "0", "-o", "out")
    assert done.returncode == 0, done.stderr
    # Two lines, and none of the Hub's bars, which are for terminals.
    fetching = [f"fetching '{name}' from the Hugging Face Hub" for name in ids]
    assert done.stderr.splitlines()[:2] == fetching and "files" not in done.stderr
    merged = load_file(tmp_path / "out" / "model.safetensors")["layer.weight"]
    assert merged[1, 1] == 1.0
    fetched = " ".join(hub.asked)
    assert "pytorch_model.bin" not in fetched
    assert "modeling.py" not in fetched
    card = (tmp_path / "out" / "README.md").read_text()
    assert "org/one" in card
    assert "org/two" in card

    before = [line for line in hub.asked if line.startswith("GET") and "resolve" in line]
    again = genepool(hub, tmp_path, "merge", *ids, "--ratio", "1", "-o", "other")
    assert again.returncode == 0, again.stderr
    assert [line for line in hub.asked if line.startswith("GET") and "resolve" in line] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/none", "has no such model"),
        ("org/one@v9", "has 'org/one', but not its revision 'v9'"),
        ("org/gated", "only to those who accepted its terms"),
    ],
)
def test_what_the_hub_refuses_is_said(hub: Hub, tmp_path: Path, name: str, expected: str) -> None:
    hub.models = {"org/one": model(tmp_path, 1.0), "org/gated": model(tmp_path, 2.0)}
    hub.gated = {"org/gated"}
    done = genepool(hub, tmp_path, "merge", "org/one", name, "--ratio", "0.5", "-o", "out")
    assert done.returncode == 1
    # Before it are the progress bars of what was fetched.
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"genepool: '{name}': ")
    assert expected in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


OPENS = """
import sys
from genepool.checkpoints.family import Source, open_source
opened = open_source(Source(sys.argv[1], variant=sys.argv[2]))
print(opened.path, *sorted({tensor.dtype for tensor in opened.tensors.values()}))
"""


def fetched(hub: Hub, folder: Path, model: str, variant: str = "") -> tuple[str, set[str]]:
    """What opening a pipeline of the Hub prints; and the files that came, by their names there."""
    hub.asked.clear()
    done = python(hub, folder, "-c", OPENS, model, variant)
    assert done.returncode == 0, done.stderr
    got = (line.split(" ")[1] for line in hub.asked if line.startswith("GET"))
    files = {path.split("/resolve/")[1].partition("/")[2] for path in got if "/resolve/" in path}
    return done.stdout.strip(), {file for file in files if file.endswith((".safetensors", ".bin"))}


def pipeline(folder: Path) -> dict[str, bytes]:
    """The files of a tiny pipeline and of its fp16 variant, and some that must not be fetched."""
    pipelines = pytest.importorskip("tests.pipelines")
    path = pipelines.tiny_pipeline(folder / "pipeline")
    pipelines.tiny_pipeline(path, variant="fp16", dtype=pipelines.torch.float16)
    files = {
        str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    others = ("whole.safetensors", "unet/diffusion_pytorch_model.bin", "unet/code.py")
    deeper = ("safety_checker/model.safetensors", "unet/onnx/model.safetensors")
    return {**files, **dict.fromkeys((*others, *deeper), b"")}


@pytest.mark.slow
def test_of_a_pipeline_weights_are_fetched_once(hub: Hub, tmp_path: Path) -> None:
    files = pipeline(tmp_path)
    halves = {name: data for name, data in files.items() if ".fp16." in name}
    plain = {
        file.replace(".fp16", ""): data
        for file, data in files.items()
        if ".fp16." in file or not file.endswith(".safetensors")
    }
    hub.models = {"org/both": files, "org/plain": plain, "org/halves": {**plain, **halves}}
    for name in halves:
        del hub.models["org/halves"][name.replace(".fp16", "")]
    singles = {name.replace(".fp16", "") for name in halves}
    assert fetched(hub, tmp_path, "org/both") == ("org/both F32", singles)
    assert fetched(hub, tmp_path, "org/both", "fp16") == ("org/both F16", set(halves))
    assert fetched(hub, tmp_path, "org/halves") == ("org/halves F16", set(halves))
    assert fetched(hub, tmp_path, "org/plain", "fp16") == ("org/plain F16", singles)
    assert fetched(hub, tmp_path, "org/plain") == ("org/plain F16", set())
