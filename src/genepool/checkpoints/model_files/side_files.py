"""Model files: what lies beside the weights of a checkpoint and goes with them into a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.files.checkpoint import Checkpoint, safe_target
from genepool.checkpoints.files.dtypes import TORCH_NAMES
from genepool.checkpoints.model_files.configs import read_json
from genepool.documents import parse_json
from genepool.messages import at, some

_WEIGHTS = (
    *(".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"),
    *(".h5", ".msgpack", ".ot", ".gguf", ".ggml", ".onnx", ".onnx_data", ".tflite", ".npz", ".npy"),
    *(".zip", ".tar", ".gz"),
)
# A merged model is data: nothing in its directory is there to be run.
_CODE = (
    *(".py", ".pyc", ".pyo", ".pyd", ".ipynb", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat"),
    *(".ps1", ".js", ".jar"),
)
# These describe the seed, not what was made from it; both are written anew.
_OF_THE_SEED = ("readme", "genepool.json")


def side_files(first: Checkpoint, dtype: str | None) -> dict[str, bytes | Path]:
    """The files that a new checkpoint takes from the directory of its first seed.

    Configurations, tokenizer, chat template, licence and the like: everything except weights and
    pickles, code, hidden files, subdirectories, and what describes the seed itself (README,
    genepool.json).

    Args:
        first: the seed; one that is came without a directory has none.
        dtype: that the merged tensors are converted to, entered into the copied `config.json`.

    Returns:
        Name to the file to copy or its new content, by name.

    Raises:
        CheckpointError: a file is a link that leads out of the seed's directory.
    """
    if first.directory is None:
        return {}
    found: dict[str, bytes | Path] = {}
    for path in sorted(first.directory.iterdir()):
        lower = path.name.lower()
        left_out = lower.startswith((".", *_OF_THE_SEED)) or lower.endswith((*_WEIGHTS, *_CODE))
        if left_out or path.is_dir():
            continue
        if path.is_file() or not path.exists():  # a dangling link is refused, not passed over
            found[path.name] = safe_target(first.directory, path.name)
    if dtype is not None and (config := found.get("config.json")) is not None:
        found["config.json"] = _with_dtype(cast(Path, config), dtype)
    return found


def code_notice(first: Checkpoint) -> str | None:
    """What to say of code that the model needs and that stays where it is, if there is any."""
    directory = first.directory
    if directory is None or not (directory / "config.json").is_file():
        return None
    if "auto_map" not in read_json(directory / "config.json"):
        return None
    code = sorted(path.name for path in directory.glob("*.py") if path.is_file())
    if not code:
        return None
    return (
        f"{at(directory)} brings code of its own ({some(code)}); what is written never holds code: "
        "copy it there yourself, if you trust it"
    )


def _with_dtype(config: Path, dtype: str) -> bytes:
    """A transformers configuration that names the dtype that its weights now have."""
    data = config.read_bytes()
    try:
        content: Any = parse_json(data)
        changed = _set_dtype(content, TORCH_NAMES[dtype])
    except ValueError:
        return data
    return (json.dumps(content, indent=2) + "\n").encode() if changed else data


def _set_dtype(content: Any, dtype: str) -> bool:
    """Change the dtype of a configuration and of those inside it (a language model's in a vision
    model's); True if there was one."""
    if not isinstance(content, dict):
        return False
    entries = cast("dict[str, Any]", content)
    changed = False
    for key, value in entries.items():
        if key in ("dtype", "torch_dtype"):
            entries[key] = dtype
            changed = True
        elif _set_dtype(value, dtype):
            changed = True
    return changed
