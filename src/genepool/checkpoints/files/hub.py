"""Models by their id on the Hugging Face Hub; the only file that imports huggingface_hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from genepool.checkpoints.fetching import aside, fetching
from genepool.errors import CheckpointError, MissingExtraError
from genepool.messages import one_line

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w./-]*)?", re.ASCII)

# No model of the Hub is called like a file of weights.
_FILES = (
    *(".safetensors", ".safetensor", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz"),
    *(".json", ".yaml", ".yml", ".onnx", ".h5", ".msgpack", ".zip", ".tar", ".gz"),
)

# Configuration, tokenizer, licence, and weights as safetensors; never code and never pickles.
_TEXTS = (
    *("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm", "README.md", "LICENSE*"),
    *("LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*"),
)
_WEIGHTS = ("*.safetensors",)
PATTERNS = (*_TEXTS, *_WEIGHTS)
# Folders hold other formats, but for `additional_chat_templates` and the modules of
# sentence-transformers (`1_Pooling`); the patterns cannot say "not that name", so all are unwanted
# whose names begin otherwise. `consolidated` files hold the same weights
# under other names.
_UNWANTED = ("[!a1-9]*/*", "[1-9][!_]*/*", "a[!d]*/*", "ad[!d]*/*", "*/*/*", "consolidated*")
# A pipeline has a folder for each component. What lies beside these is the same in one file, or of
# other formats; below them are other formats too.
_INDEX = "model_index.json"
_PROCESSORS = "*processor_config.json"
_NO_COMPONENTS = ("*/*/*", "safety_checker/*")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form `org/name` or `org/name@revision`, and is no file's name."""
    return (
        _ID.fullmatch(text) is not None and ".." not in text and not text.lower().endswith(_FILES)
    )


def fetch(model: str, variant: str) -> Path:
    """The folder of a model of the Hub, downloaded unless the Hub's own cache holds it.

    Of a pipeline, weights are fetched once: the plain ones, or where a component has none, or the
    variant is named, those of variants.

    Args:
        model: `org/name`, or `org/name@revision` with a branch, tag or commit.
        variant: of a pipeline's weights, such as "fp16".

    Raises:
        CheckpointError: there is no such model, it may not be read, or the Hub cannot be reached
            and the cache does not hold it.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise MissingExtraError(
            "huggingface_hub", "hub", f"'{one_line(model)}' is no path here; a model of the Hub"
        ) from None
    name, _, revision = model.partition("@")
    quoted = f"'{one_line(model)}'"
    try:
        # Its declared type depends on an option of newer releases that is not used here.
        download = cast("Callable[..., str]", huggingface_hub.snapshot_download)  # pyright: ignore
        tqdm = cast("type[Any]", huggingface_hub.utils.tqdm)

        def get(wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
            def show(bar: Any, *arguments: Any, **options: Any) -> None:
                if not told:  # Only now it is known that there is something to fetch.
                    told.append(f"fetching {quoted} from the Hugging Face Hub")
                    stage.enter_context(fetching(told[0]))
                if not shown:
                    others.enter_context(aside())
                shown.append(bar)
                # Bars are for terminals, and nothing of them stays there.
                options = {"disable": None, **options, "leave": False}
                if options.get("unit") != "B":
                    options["desc"] = f"{name}: {options.get('desc')}"
                tqdm.__init__(bar, *arguments, **options)

            shown: list[Any] = []
            with contextlib.ExitStack() as others:
                try:
                    found = download(
                        name,
                        revision=revision or None,
                        allow_patterns=list(wanted),
                        ignore_patterns=list(unwanted),
                        tqdm_class=type("Bars", (tqdm,), {"__init__": show}),
                    )
                finally:
                    for bar in shown:  # Some are left to the garbage collector, which draws later.
                        bar.close()
            return Path(found)

        told: list[str] = []
        with contextlib.ExitStack() as stage:
            return fetch_model(get, variant)
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{quoted}: the Hugging Face Hub gives this model only to those who accepted its terms;"
            " accept them there, then run: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{quoted}: the Hugging Face Hub has '{name}', but not its revision '{revision}'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{quoted}: no such file or directory, and the Hugging Face Hub has no such model (if "
            "it is private, run: hf auth login)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{quoted}: no such file or directory; as an id of the Hugging Face Hub it cannot be "
            "fetched either, because there is no connection to the Hub and its cache on this "
            "machine does not hold the model; give a local path, or fetch it where there is a "
            f"network with: hf download {name}"
        ) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{quoted}: no such file or directory, and it cannot be fetched from the Hugging Face "
            f"Hub: {one_line(error)}"
        ) from error


def fetch_model(get: Callable[[Sequence[str], Sequence[str]], Path], variant: str) -> Path:
    """The folder of a model: texts first, then the weights that are needed.

    Args:
        get: fetches what fits one of the first patterns and none of the others, and says where.
        variant: as `fetch` takes it.
    """
    folder = get(_TEXTS, _UNWANTED)
    if not (folder / _INDEX).is_file():
        if any(folder.glob(_PROCESSORS)):  # Some have further tokenizers, in folders of their own.
            get([f"*_tokenizer/{text}" for text in _TEXTS], ["*/*/*"])
        return get(PATTERNS, _UNWANTED)
    if variant:
        weights = [f"*.{variant}.safetensors", f"*.{variant}-?????-of-?????.safetensors"]
    else:
        stems = ("diffusion_pytorch_model", "model")
        ends = (".safetensors", "-?????-of-?????.safetensors")
        weights = [f"*/{stem}{end}" for stem in stems for end in ends]
    folder = get((*_TEXTS, *weights), _NO_COMPONENTS)
    homes = (config.parent for config in folder.glob("*/config.json"))
    lacking = [home.name for home in homes if not any(home.glob("*.safetensors"))]
    if lacking:
        get([f"{name}/*.safetensors" for name in lacking], _NO_COMPONENTS)
    return folder
