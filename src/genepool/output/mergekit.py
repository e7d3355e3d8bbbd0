"""Configurations of mergekit, known by their keys, and the command that does the same here.

`genepool merge CONFIG.yaml` runs that command; whoever gives one to `genepool evolve` is told it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genepool.checkpoints.depth import layer_of
from genepool.checkpoints.family import open_source
from genepool.checkpoints.seeds import named_source
from genepool.documents import list_of, mapping_of, read_text
from genepool.errors import InputError
from genepool.messages import at, count, one_line, some

_METHODS = {
    "slerp": "slerp",
    "linear": "linear",
    "task_arithmetic": "task-arithmetic",
    "ties": "ties",
    "dare_linear": "dare-linear",
    "dare_ties": "dare-ties",
}
_KEYS = {"merge_method", "slices", "models", "genome", "modules"}
_OURS = {"pool", "seeds"}
# What is looked at, and what changes no merge.
_TOP = {"base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer"}
_PART = {"model", "parameters", "sources", "layer_range", "base_model"}
_OF_ALL = {"int8_mask"}
_OF_SLERP = {"t"}
_OF_OTHERS = {"weight", "density", "normalize", "lambda", "rescale", "rescale_norm"}
_LARGEST = 1_000_000
_NO_MODEL = "expected a model; got a YAML file"


class _NoCounterpart(Exception):
    """Why no command does the same."""


@dataclass(frozen=True, slots=True)
class MergeCommand:
    """What does the same as a configuration of mergekit.

    Attributes:
        arguments: what to type behind `genepool merge`, but where the result goes.
        models: of the arguments those that are models, the base included.
        layers: that each of them has to have; None where the configuration does not say.
        provisos: in what the result is another one than mergekit's.
    """

    arguments: tuple[str, ...]
    models: tuple[str, ...]
    layers: int | None
    provisos: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["genepool", "merge", *self.arguments])

    def but(self, *besides: str) -> list[str]:
        """The provisos and what is to be told besides, as one end of a sentence; or nothing."""
        provisos = "; and ".join((*self.provisos, *besides))
        return [f"but {provisos}"] if provisos else []

    def require_layers(self) -> None:
        """Refuse models with other numbers of layers: mergekit would take some of them only.

        Raises:
            InputError: naming the first of them.
            CheckpointError: one cannot be opened.
        """
        for model in self.models if self.layers is not None else ():
            checkpoint = open_source(named_source(model, None))
            found = max(
                (layer[1] + 1 for layer in map(layer_of, checkpoint.tensors) if layer), default=0
            )
            if found != self.layers:
                raise InputError(
                    f"{at(checkpoint.path)}: has {count(found, 'layer')}, and the configuration of "
                    f"mergekit takes {self.layers} of them; slices of models have no counterpart "
                    "here"
                )


def read_config(models: Sequence[str]) -> MergeCommand | None:
    """The command that does what a configuration says which is given in the place of models.

    Returns:
        None where there is no such file among the models.

    Raises:
        InputError: no command does the same, or it is given beside models, or another YAML file.
    """
    for path in map(Path, models):
        if path.suffix.lower() in (".yaml", ".yml") and not path.is_dir():
            command = _read(path)
            if len(models) > 1:
                raise InputError(f"{at(path)}: {_NO_MODEL}; one of mergekit is given alone")
            return command
    return None


def _read(path: Path) -> MergeCommand:
    from genepool.yaml_documents import parse_yaml

    try:
        content, _ = parse_yaml(read_text(path, _LARGEST))
    except OSError as error:
        raise InputError(f"{at(path)}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{at(path)}: {_NO_MODEL}: {error}") from None
    entries = mapping_of(content)
    advice = mergekit_advice(content)
    if advice is not None and "genome" not in entries and not _idle(entries):
        with suppress(_NoCounterpart):
            return _command(entries)
    if advice is None and _OURS & entries.keys():
        advice = "is a run file, and no model; breed what it says with `genepool evolve`"
    raise InputError(f"{at(path)}: {advice or _NO_MODEL}")


def mergekit_advice(content: object) -> str | None:
    """What to say of a document that is meant for mergekit; None for any other.

    Args:
        content: plain values, as they are read from YAML.
    """
    entries = mapping_of(content)
    if not _KEYS & entries.keys() or _OURS & entries.keys():
        return None
    if "genome" in entries:
        genome = mapping_of(entries["genome"])
        seeds = ", ".join(str(model) for model in list_of(genome.get("models")))
        return one_line(
            "this is a configuration of mergekit-evolve; here a run file says it, with "
            f"'seeds: [{seeds}]', 'strategy: {{name: cma-es}}', its tasks with 'evaluator: "
            "lm-eval', and a pool: see docs/run-file.md"
        )
    try:
        command = _command(entries)
    except _NoCounterpart as reason:
        # Where a key is mistyped, these are what shows it.
        idle = [key for key in _idle(entries) if key not in str(reason)]
        besides = f"; nor has {some(idle, limit=9)}" if idle else ""
        return one_line(
            f"this is a configuration of mergekit, and no command does the same here: {reason}"
            f"{besides}; see docs/merge-methods.md"
        )
    idle = _idle(entries)
    besides = (f"for {some(idle, limit=9)} there is no counterpart",) if idle else ()
    provisos = command.but(*besides)
    if command.layers is not None:
        provisos.insert(0, f"of models that have {count(command.layers, 'layer')}, no more")
    told = f" ({'; '.join(provisos)})" if provisos else ""
    return one_line(
        f"this is a configuration of mergekit; this does the same{told}: {command} -o merged"
    )


def _idle(content: Mapping[str, Any]) -> list[str]:
    """Keys that the command says nothing of, though they may change the merge."""
    slices = [mapping_of(part) for part in list_of(content.get("slices"))]
    sources = [mapping_of(each) for part in slices for each in list_of(part.get("sources"))]
    parts = [*slices, *sources, *(mapping_of(each) for each in list_of(content.get("models")))]
    own = _OF_SLERP if content.get("merge_method") == "slerp" else _OF_OTHERS
    found = [key for key in content if key not in _KEYS | _TOP]
    found += [key for part in parts for key in part if key not in _PART]
    for settings in (mapping_of(part.get("parameters")) for part in (content, *parts)):
        plain = {"consensus_method"} if settings.get("consensus_method") == "sum" else set[str]()
        found += [key for key in settings if key not in own | _OF_ALL | plain]
    if own == _OF_SLERP:
        found += [
            "t" for part in parts if "model" in part and "t" in mapping_of(part.get("parameters"))
        ]
    return list(dict.fromkeys(map(str, found)))


def _command(content: Mapping[str, Any]) -> MergeCommand:
    called = content.get("merge_method")
    method = _METHODS.get(str(called))
    if method is None:
        what = "it has no merge_method" if called is None else f"merge_method '{called}' has none"
        raise _NoCounterpart(f"{what}; {', '.join(_METHODS)} have")
    listed, shared, layers = _models(content)
    provisos: list[str] = []
    base = None if content.get("base_model") is None else _model(content["base_model"])
    models = {name: own for name, own in listed.items() if name != base}
    out: list[str]
    if method == "slerp":
        if base is None or len(models) != 1:
            raise _NoCounterpart("slerp takes a base_model and one other")
        ratios = _ratios(shared.get("t"))
        out = [base, *models, "--angle", "tensor", *ratios]
        if any(map(_reaches_the_end, ratios)):
            provisos.append(
                "final norm and head get the last value of a list, as in mergekit before 0.1, "
                "which has given them the first since"
            )
    else:
        if method == "linear":
            # Where the base is among them it gives the files beside the weights, as the first does.
            models, base = {**({base: listed[base]} if base in listed else {}), **listed}, None
        elif base is None:
            raise _NoCounterpart(f"{called} takes a base_model")
        out = [*models, "--method", method, *(() if base is None else ("--base", base))]
        if base is not None:
            provisos.append("configuration and tokenizer are the first model's, not the base's")
        out += _each("weight", models, shared, None)
        if method.startswith(("ties", "dare")):
            # Where mergekit is told nothing, it keeps everything.
            out += _each("density", models, shared, 1)
        if (normalise := _switch(shared, "normalize")) is not None:
            out.append("--normalise" if normalise else "--no-normalise")
        if (scale := shared.get("lambda")) is not None:
            out += ["--scale", _number(scale, "lambda")]
        dare = method.startswith("dare")
        if dare:
            provisos.append("what dare keeps is drawn otherwise")
        rescaled = _switch(shared, "rescale") not in (None, dare) or "rescale_norm" in shared
        if rescaled and (dare or method == "ties"):
            raise _NoCounterpart(f"'rescale' other than the default of {called} has none")
    dtype = content.get("out_dtype") or content.get("dtype")
    if dtype is not None:
        out += ["--dtype", str(dtype)]
    named = dict.fromkeys([*models, *(() if base is None else (base,))])
    return MergeCommand((*out,), (*named,), layers, (*provisos,))


def _models(
    content: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], int | None]:
    """The models with their own parameters, those of all of them, and how many layers are taken."""
    layers: int | None = None
    shared = mapping_of(content.get("parameters"))
    entries = list_of(content.get("models"))
    if "slices" in content:
        slices = [mapping_of(part) for part in list_of(content["slices"])]
        entries = list_of(slices[0].get("sources")) if len(slices) == 1 else []
        ranges = [list_of(mapping_of(entry).get("layer_range")) for entry in entries]
        if not ranges or any(given != ranges[0] or given[:1] not in ([], [0]) for given in ranges):
            raise _NoCounterpart("slices of models have none")
        if "base_model" in slices[0]:
            raise _NoCounterpart("a slice with a base_model of its own has none")
        shared = {**shared, **mapping_of(slices[0].get("parameters"))}
        if ranges[0]:
            last = ranges[0][-1]
            if not isinstance(last, int):
                raise _NoCounterpart(f"layer_range {ranges[0]} has none")
            layers = last
    source = content.get("tokenizer_source")
    for key in ("modules", "tokenizer"):
        if key in content:
            raise _NoCounterpart(f"'{key}' has none")
    if source not in (None, "base"):
        raise _NoCounterpart(
            f"tokenizer_source {source!r} has none; without it the tokenizer is the first model's, "
            "and where others differ from that, '--vocabulary common' says what is merged"
        )
    if content.get("chat_template") is not None:
        raise _NoCounterpart("chat_template has none")
    models = {
        _model(mapping_of(entry).get("model")): mapping_of(mapping_of(entry).get("parameters"))
        for entry in entries
    }
    if len(models) != len(entries):
        raise _NoCounterpart("a model is named twice")
    return models, shared, layers


def _model(value: object) -> str:
    # What begins with a dash would be read as an option.
    if isinstance(value, str) and "+" in value:
        raise _NoCounterpart(
            f"'{value}', a model with an adapter, has none; name the adapter alone in its place, "
            "and the model with --adapter-base"
        )
    if not isinstance(value, str) or value[:1] in ("", "-"):
        raise _NoCounterpart(f"{value!r} is no plain path or id of a model")
    return value


def _ratios(given: object) -> list[str]:
    """Options for the values of `t`, of which the first that fits a name holds; those behind it
    that never hold are left out."""
    out: list[str] = []
    held: list[str] = []
    several = list_of(given)
    for entry in several if several and mapping_of(several[0]) else [{"value": given}]:
        part = mapping_of(entry)
        text = "" if part.get("filter") in (None, "*") else str(part["filter"])
        if any(earlier in text for earlier in held):
            continue
        held.append(text)
        values = part.get("value")
        numbers = ",".join(_number(value, "t") for value in (list_of(values) or [values]))
        out += ["--ratio", f"{text}={numbers}" if text else numbers]
    return out


def _reaches_the_end(ratio: str) -> bool:
    """Whether values along the layers, which begin and end unlike, are for final norm or head."""
    text, _, listed = ratio.rpartition("=")
    values, ends = listed.split(","), ("model.norm.weight", "lm_head.weight")
    return values[0] != values[-1] and any(text in name for name in ends)


def _each(
    key: str, models: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any], default: object
) -> list[str]:
    """An option for each model; none where nothing is said."""
    values = [own.get(key, shared.get(key, default)) for own in models.values()]
    if all(value is None for value in values):
        return []
    if None in values:
        raise _NoCounterpart(f"{key} that is given for some of the models only has none")
    return [word for value in values for word in (f"--{key}", _number(value, key))]


def _switch(shared: Mapping[str, Any], key: str) -> bool | None:
    value = shared.get(key)
    if value not in (None, True, False):
        raise _NoCounterpart(f"{key} {value!r} has none; true and false have")
    return None if value is None else bool(value)


def _number(value: object, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _NoCounterpart(f"{key} {value!r} has none; a number has")
    return str(value)
