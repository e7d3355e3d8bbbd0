"""Seeds by URL: copied once, whole or not at all, and never another model than the store has."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from genepool.checkpoints import by_url
from genepool.checkpoints.family import find_source, open_source
from genepool.checkpoints.fetching import watched_by
from genepool.checkpoints.files import cache
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.errors import CheckpointError, GenepoolError
from genepool.run.executors.installation import own_modules
from genepool.run.executors.node import Assignment, Node
from genepool.run.inputs import open_inputs
from genepool.run.pins import pins_of
from genepool.run.run_file import load_run
from genepool.threads import Progress
from tests.cli import run_cli
from tests.runs import contents, write_run, write_seed

fsspec: Any = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Server:
    """A folder by HTTP, and how often each file was fetched."""

    def __init__(self, folder: Path) -> None:
        self.fetched: Counter[str] = Counter()
        # What goes wrong, by the end of a path.
        self.faults: dict[str, str] = {}
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            @property
            def fault(self) -> str:
                ends = (f for end, f in server.faults.items() if self.path.endswith(end))
                return next(ends, "")

            def send_header(self, keyword: str, value: str) -> None:
                if self.fault == "undated" and keyword == "Last-Modified":
                    return
                if self.fault == "too long" and keyword == "Content-Length":
                    value = str(int(value) - (1000 if self.command == "HEAD" else 0))
                super().send_header(keyword, value)

            def copyfile(self, source: Any, outputfile: Any) -> None:
                server.fetched[self.path] += 1
                data = source.read()
                if self.fault == "cut":
                    outputfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                if self.fault == "slow":
                    outputfile.write(data[:100])
                    outputfile.flush()
                    time.sleep(1)
                    data = data[100:]
                if self.fault == "drips":
                    # For half a minute, however busy the machine is; whoever asked may go.
                    with contextlib.suppress(ConnectionError):
                        for start in range(0, len(data), 1 + len(data) // 100):
                            outputfile.write(data[start : start + 1 + len(data) // 100])
                            outputfile.flush()
                            time.sleep(0.3)
                    return
                outputfile.write(data)
                if self.fault == "changes":
                    path = Path(self.translate_path(self.path))
                    os.utime(path, (1, 1))

        handler = partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[tuple[Server, Path], None, None]:
    """A server with a model in a folder, and one in a file."""
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    (folder / "model/original").mkdir(parents=True)
    write_seed(folder / "model/model.safetensors", 1)
    write_seed(folder / "model/original/other.safetensors", 2)
    write_seed(folder / "one.safetensors", 2)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/pickle.bin").write_bytes(b"no")
    server = Server(folder)
    try:
        yield server, folder
    finally:
        server.close()


def opened(url: str) -> str:
    """The digest of the tensors."""
    return open_source(find_source(url, Path("/"))).digest()


def copies(tmp_path: Path) -> list[str]:
    files = (tmp_path / "cache").rglob("*")
    return sorted(f.name for f in files if f.is_file() and f.suffix != ".lock")


def test_a_folder_is_copied_once_and_without_what_is_no_model(
    served: tuple[Server, Path], tmp_path: Path
) -> None:
    server, folder = served
    expected = open_checkpoint(folder / "model").digest()
    for end in ("", "/"):
        checkpoint = open_source(find_source(f"{server.url}/model{end}", Path("/")))
        assert checkpoint.digest() == expected
    assert checkpoint.name == "model"
    assert copies(tmp_path) == ["config.json", "model.safetensors"]
    assert server.fetched["/model/model.safetensors"] == 1


def test_how_much_is_copied_is_told(served: tuple[Server, Path]) -> None:
    """A model of many gigabytes was copied for an hour without a word."""
    server, folder = served
    server.faults[".safetensors"] = "slow"
    told: list[str | float] = []

    class Watcher:
        @contextlib.contextmanager
        def fetching(self, text: str) -> Generator[Progress, None, None]:
            told.append(text)
            yield told.append
            told.append("done")

        def aside(self) -> contextlib.nullcontext[None]:
            raise NotImplementedError

    with watched_by(Watcher()):
        opened(f"{server.url}/one.safetensors")
        text, first, *_, last, end = told
        assert (text, last, end) == (f"fetching {server.url}/one.safetensors", 1.0, "done")
        assert first == 100 / (folder / "one.safetensors").stat().st_size
        told.clear()
        # What is there is not fetched.
        opened(f"{server.url}/one.safetensors")
        assert told == []


def test_a_file_that_changed_is_another_copy(served: tuple[Server, Path]) -> None:
    server, folder = served
    url = f"{server.url}/one.safetensors"
    before = opened(url)
    shutil.copy(folder / "model/model.safetensors", folder / "one.safetensors")
    os.utime(folder / "one.safetensors", (10, 10))
    assert before != opened(url) == open_checkpoint(folder / "one.safetensors").digest()


def test_a_copy_that_lost_a_file_is_made_whole(served: tuple[Server, Path], tmp_path: Path) -> None:
    server, _ = served
    digest = opened(f"{server.url}/model")
    for file in (tmp_path / "cache").rglob("model.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    assert opened(f"{server.url}/model") == digest


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cut", "cannot be fetched"),
        ("changes", "was changed while it was fetched"),
        ("too long", "another size than the server says"),
        ("undated", "neither ETag nor date"),
    ],
)
def test_what_goes_wrong_leaves_no_copy(
    served: tuple[Server, Path], tmp_path: Path, fault: str, words: str
) -> None:
    server, _ = served
    url = f"{server.url}/one.safetensors"
    server.faults["one.safetensors"] = fault
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(url)
    assert url in str(caught.value) and "\n" not in str(caught.value)
    assert [name for name in copies(tmp_path) if not name.endswith(".part")] == []
    server.faults.clear()
    opened(url)
    assert copies(tmp_path) == ["one.safetensors"]


def test_a_full_disk(served: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = served
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**30))
    with pytest.raises(GenepoolError, match=r"has 1\.1 GB free; .* set GENEPOOL_CACHE"):
        opened(f"{server.url}/one.safetensors")
    assert not server.fetched


OPEN = """
import sys
from pathlib import Path
from genepool.checkpoints.family import find_source, open_source
print(open_source(find_source(sys.argv[1], Path("/"))).digest())
"""


def start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_copy_once(served: tuple[Server, Path]) -> None:
    server, _ = served
    url = f"{server.url}/one.safetensors"
    server.faults["one.safetensors"] = "slow"
    both = [start(url), start(url)]
    digests = {process.communicate(timeout=240)[0] for process in both}
    assert len(digests) == 1 and len(digests.pop()) == 65
    assert server.fetched["/one.safetensors"] == 1


def test_waiting_for_another_process_is_told(
    served: tuple[Server, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, _ = served
    url = f"{server.url}/one.safetensors"
    digest = opened(url)
    assert caplog.messages == []
    (copy,) = (tmp_path / "cache").rglob("one.safetensors")
    copy.unlink()
    monkeypatch.setattr(cache, "_PATIENCE", 0.05)
    with copy.parent.with_name(f"{copy.parent.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def release() -> None:
            end = time.monotonic() + 240
            while not caplog.messages and time.monotonic() < end:
                time.sleep(0.01)
            fcntl.flock(held, fcntl.LOCK_UN)

        other = threading.Thread(target=release)
        other.start()
        assert opened(url) == digest
        other.join()
    assert caplog.messages == [f"'{url}' is being copied by another process; waiting for it"]


def test_ctrl_c_in_the_middle(served: tuple[Server, Path], tmp_path: Path) -> None:
    server, _ = served
    url = f"{server.url}/one.safetensors"
    server.faults["one.safetensors"] = "drips"
    process = start(url)
    while not server.fetched:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode not in (0, 1) or not copies(tmp_path)
    assert "one.safetensors" not in copies(tmp_path)
    server.faults.clear()
    assert opened(url)


class Entries:
    """A store that lists what it likes."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def invalidate_cache(self) -> None:
        pass

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]:
        return [{"name": name, "size": 1, "type": "file"} for name in self.names]


def test_names_from_outside_stay_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    good = ["bucket/m/config.json", "bucket/m/model-00001-of-00002.safetensors"]
    bad = ["../../x.json", "bucket/m/../../x.json", "bucket/m//etc/x.json", "bucket/m/a\0.json"]
    bad += ["/etc/x.json", "bucket/other/x.json", "bucket/m/.hidden.json", "bucket/m/a\\b.json"]
    bad += ["bucket/m/config.json?C=N", "bucket/m/", "", "bucket/m/..", "bucket/m/a/b/c.json"]
    entries = Entries([*bad, *good])
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (entries, "bucket/m"))
    store = by_url._Store("s3://bucket/m")
    assert sorted(store._listed().values()) == good
    entries.names = [f"bucket/m/{number}.json" for number in range(10_001)]
    with pytest.raises(CheckpointError, match="is this one model"):
        store._listed()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://huggingface.co/org/name", "give the model's id"),
        ("hf://org/name", "give the model's id"),
        ("ftp://me:secret@host/model", "holds a password"),
        ("https://host/model.safetensors?signature=secret", "holds a password"),
        ("zip://a::http://host/model", "no path and no URL"),
        ("S3://bucket", "no path and no URL"),
        ("nonsense://bucket/model", "rotocol not known"),
        ("memory://nothing/here", "no such folder"),
        ("memory://nothing.safetensors", "there is no"),
        ("http://127.0.0.1:9/model", "cannot be fetched|no such folder"),
        ("http://127.0.0.1:9/model.safetensors", "cannot be fetched|there is no"),
    ],
)
def test_urls_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=words) as caught:
        opened(url)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_without_the_package_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(CheckpointError, match=r"fsspec needs another package for 's3://'.*s3fs"):
        opened("s3://bucket/model")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(GenepoolError, match=r"'fsspec', which is not installed: .*\[url\]"):
        opened("s3://bucket/model")


def test_an_adapter_does_not_say_where_to_connect_to(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "http://127.0.0.1:9/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="names no base model"):
        find_source(str(tmp_path), Path("/"))


def test_a_run_and_a_merge_by_url(
    served: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = served
    monkeypatch.delenv("GENEPOOL_CACHE")  # What is compiled lies in the usual place.
    monkeypatch.setattr(by_url, "cache_directory", lambda: tmp_path / "cache")
    seeds = [f"{server.url}/model", f"{server.url}/one.safetensors"]
    local = [str(folder / "model"), f"file://{folder}/one.safetensors"]
    for name, given in (("url", seeds), ("local", local)):
        code, _, error = run_cli(
            ["evolve", str(write_run(tmp_path / name, seeds=given, budget=10))]
        )
        assert code == 0, error
    assert contents(tmp_path / "url/pool") == contents(tmp_path / "local/pool")
    for name, given in (("url", seeds), ("local", local)):
        out = str(tmp_path / f"merged-{name}")
        code, _, error = run_cli(["merge", *given, "--ratio", "0.3", "-o", out])
        assert code == 0, error
    digests = {open_checkpoint(tmp_path / f"merged-{name}").digest() for name in ("url", "local")}
    assert len(digests) == 1
    moved = [word for seed in seeds for word in ("--moved", f"{Path(seed).stem}={seed}")]
    for given in (
        ["export", str(tmp_path / "url/pool"), "-o", str(tmp_path / "champion")],
        ["rebuild", str(tmp_path / "merged-url"), *moved, "-o", str(tmp_path / "again")],
    ):
        code, _, error = run_cli(given)
        assert code == 0, error
    assert server.fetched["/one.safetensors"] == 1


def test_a_node_that_finds_another_file_there(
    served: tuple[Server, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = served
    url = f"{server.url}/one.safetensors"
    run = load_run(write_run(tmp_path / "run", seeds=[url, f"{server.url}/model"]))
    pins = pins_of(open_inputs(run), tmp_path)
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache of another node"))
    shutil.copy(folder / "model/model.safetensors", folder / "one.safetensors")
    with pytest.raises(GenepoolError, match=r"node 7: seed 'one': http://.* has the digest"):
        Node("node 7", Assignment(run.given, pins, own_modules(), 1, True))
