"""Configurations as transformers builds them: what a key that config.json leaves out stands for."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import re
from collections.abc import Generator, Mapping
from functools import lru_cache
from typing import Any, cast

from genepool.errors import installing
from genepool.messages import failures_as, one_line, spoken

# Numbers of layers: a configuration makes a list with an entry for each.
_LAYERS = re.compile(r"(.*_)?(n|num)_(.*_)?layers?|layers|(en|de)coder_layers")
_MOST_LAYERS = 10_000
_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


@contextlib.contextmanager
def without_remarks(*libraries: Any) -> Generator[None, None, None]:
    """Without what transformers or diffusers print: remarks and progress bars.

    Around each block of examples: where remarks are off already, as in the command, they stay so
    without a word to `logging`, which looks through all its loggers at each change.
    """
    logs = [library.utils.logging for library in libraries]
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log, level, _ in before:
        if level < log.ERROR:
            log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, bars in before:
            if log.get_verbosity() != level:
                log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()


class NotBuilt(Exception):
    """Why transformers builds no configuration of a config.json, to be told behind its name."""


def build_config(raw: Mapping[str, Any]) -> Any:
    """The configuration object that `transformers.AutoConfig` makes of a config.json's content.

    Code that comes with a model is never run, nor is anything fetched.

    Raises:
        NotBuilt: transformers is not installed, does not know the type, or takes offence.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise NotBuilt("expected a transformers config with 'model_type'; got none")
    _require_few_layers(raw)
    if importlib.util.find_spec("transformers") is None:
        raise NotBuilt(f"the package 'transformers' is not installed: {installing('llm')}")
    import transformers

    made = cast("Any", transformers)  # Its own annotations do not cover what is used here.
    # As AutoConfig tells two families apart that were saved under one name.
    name = "ministral" if kind == "mistral" and "layer_types" in raw else kind
    known: Mapping[str, Any] = made.CONFIG_MAPPING
    if name not in known:
        name = kind
    if name not in known:
        raise NotBuilt(
            f"transformers {made.__version__} has no model type '{one_line(kind)}'; a newer "
            "transformers may (pip install -U transformers). Code that comes with a model is never "
            "run"
        )
    what = f"not a usable '{one_line(kind)}' config"
    with failures_as(NotBuilt, what, told=spoken), without_remarks(made):
        return known[name].from_dict({**copy.deepcopy(decoded(dict(raw))), "model_type": name})


def built_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the configuration that transformers builds, defaults and all.

    Raises:
        NotBuilt: as `build_config`.
    """
    values, reason = _values(json.dumps(raw, sort_keys=True))
    if values is None:
        raise NotBuilt(reason)
    return values


def decoded(value: Any) -> Any:
    """JSON with the numbers back that it cannot hold; transformers 5 writes objects for them."""
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        if entries.keys() == {"__float__"} and str(entries["__float__"]) in _FLOATS:
            return _FLOATS[str(entries["__float__"])]
        return {key: decoded(part) for key, part in entries.items()}
    if isinstance(value, list):
        return [decoded(part) for part in cast("list[Any]", value)]
    return value


@lru_cache(maxsize=64)
def _values(raw: str) -> tuple[dict[str, Any] | None, str]:
    try:
        config = build_config(json.loads(raw))
        values = config.to_dict()
        # Some classes have this one as a constant, which is in no file.
        if (tied := getattr(config, "tie_word_embeddings", None)) is not None:
            values.setdefault("tie_word_embeddings", tied)
        # As a file would hold them: keys are text, what JSON has no type for is its name.
        return cast("dict[str, Any]", json.loads(json.dumps(values, default=str))), ""
    except NotBuilt as error:
        return None, str(error)
    except (TypeError, ValueError) as error:
        return None, spoken(error)


def _require_few_layers(config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            _require_few_layers(cast("dict[str, Any]", value))
        elif isinstance(value, int) and value > _MOST_LAYERS and _LAYERS.fullmatch(key):
            raise NotBuilt(f"{one_line(key)} is {value}; expected at most {_MOST_LAYERS}")
