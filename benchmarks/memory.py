"""Merging a pair of checkpoints that is larger than the memory allowed.

Makes two bfloat16 checkpoints (3 GB each), then, in a process that may use 4 GB, page cache
included, opens them, computes their inner products, merges them and writes the result. The limit is
a cgroup (version 1, which needs a writable /sys/fs/cgroup/memory); where there is none, or with
`--smoke` (a small pair), it is RLIMIT_DATA, which bounds what the process allocates but not maps.

    python benchmarks/memory.py --json benchmarks/memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GROUPS = Path("/sys/fs/cgroup/memory")
GROUP = GROUPS / "genepool-benchmark"
_WIDTH = 4096


def make_pair(folder: Path, nbytes: int) -> list[Path]:
    """Two checkpoints of about `nbytes` each, of tensors of 32 MiB; the second has 10 % noise."""
    from genepool.checkpoints.files.cache import cached_tensors
    from genepool.checkpoints.files.header import Entry

    count = max(2, nbytes // (2 * _WIDTH * _WIDTH))
    rng = np.random.default_rng(0)
    base, noise = (rng.standard_normal((_WIDTH, _WIDTH), np.float32) * 0.02 for _ in range(2))
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(count)]
    entries: list[Entry] = [(name, "BF16", (_WIDTH, _WIDTH)) for name in names]
    paths: list[Path] = []
    for name, share in (("base", 0.0), ("tuned", 0.1)):
        (folder / name).mkdir()
        path = folder / name / "model.safetensors"

        def tensor(which: str, share: float = share) -> bytes:
            turn = 7 * names.index(which)
            values = np.roll(base, turn, axis=0) + share * np.roll(noise, turn, axis=0)
            return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()

        cached_tensors(path, entries, tensor)
        paths.append(path.parent)
    return paths


def inside(pair: list[Path], out: Path) -> None:
    """All steps in this process; prints what they took and the anonymous memory it came to."""
    from genepool.checkpoints.files.checkpoint import open_checkpoint
    from genepool.checkpoints.layout import build_layout
    from genepool.materialise.gram import load_or_build_gram
    from genepool.output.by_hand import merge

    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def done(step: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[step] = now - start
        start = now

    checkpoints = [open_checkpoint(path) for path in pair]
    layout = build_layout(checkpoints)
    done("open")
    load_or_build_gram(checkpoints, layout)
    done("gram")
    merge(str(pair[0]), str(pair[1]), out, ratio=0.3, split=0.5)
    done("merge_and_export")
    anonymous = 0
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        anonymous = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("RssAnon"))
    print(json.dumps({"seconds": seconds, "anonymous_bytes_at_end": anonymous}))


def run_limited(pair: list[Path], out: Path, limit: int, group: Path | None) -> dict[str, Any]:
    """Run `inside` in a process under the limit."""

    def confine() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, __file__, "--inside", *map(str, [*pair, out])]
    environment = {**os.environ, "GENEPOOL_CACHE": str(out.parent / "cache")}
    done = subprocess.run(
        command, preexec_fn=confine, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"failed with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if group is not None:
        usage = (group / "memory.max_usage_in_bytes").read_text()
        result["highest_use_with_page_cache_bytes"] = int(usage)
    return result


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--directory", type=Path, help="where the pair is written (default: tmp)")
    parser.add_argument("--smoke", action="store_true", help="a small pair and no cgroup")
    parser.add_argument("--inside", nargs=3, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside[:2], args.inside[2])
        return
    size, limit = (150_000_000, 280_000_000) if args.smoke else (3_000_000_000, 4_000_000_000)
    writable = not args.smoke and os.access(GROUPS, os.W_OK)
    group = GROUP if writable and (GROUPS / "memory.limit_in_bytes").exists() else None
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        pair = make_pair(Path(name), size)
        given = sum((path / "model.safetensors").stat().st_size for path in pair)
        try:
            if group is not None:
                group.mkdir(exist_ok=True)
                (group / "memory.limit_in_bytes").write_text(str(limit))
            result = run_limited(pair, Path(name) / "out", limit, group)
            written = (Path(name) / "out" / "model.safetensors").stat().st_size
        finally:
            if group is not None and group.exists():
                (group / "memory.force_empty").write_text("0")
                group.rmdir()
    result = {
        "command": " ".join(["python", *(Path(a).name for a in sys.argv)]),
        "limit": "cgroup" if group is not None else "RLIMIT_DATA",
        "limit_bytes": limit,
        "pair_bytes": given,
        "written_bytes": written,
        **result,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
