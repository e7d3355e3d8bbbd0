"""Language models of transformers as live models: built from config.json, filled by genomes.

Here alone live models import transformers. Its loader makes the model, given memory of the right
shape in place of weights, so that ties, buffers and dtypes are as in a model that it loads from
disk; and its saver's view of the parameters says which part of which parameter a checkpoint's
tensor is (a fused layer of experts holds many).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MethodType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import transformers
from transformers import core_model_loading

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.model_files.built import NotBuilt, build_config, without_remarks
from genepool.checkpoints.model_files.configs import read_json
from genepool.errors import CheckpointError, ConfigError, EvaluationError
from genepool.materialise.torch import TORCH_DTYPES
from genepool.messages import at, cause, failures_as, one_line, pass_on, some
from genepool.models.filled import own_dtype, put_on, same_draws
from genepool.models.kind import CONFIG, GENERATION, Building, Options

# Its own annotations are not complete enough to check against.
_TF = cast("Any", transformers)
_STATIC: type[Any] = _TF.StaticCache
_reverted = cast("Any", core_model_loading).revert_weight_conversion


# Some chat templates tell the model today's date, so that a member would be asked otherwise
# tomorrow than the others were today. What they call is made to say the same day always; it is that
# which Llama's take where there is no clock. (What is given to a template must be plain data.)
_DAY = date(2024, 7, 26)
_TODAY = "".join(
    (
        "{%- macro strftime_now(format) -%}{{ format",
        *(f" | replace('%{code}', '{_DAY.strftime(f'%{code}')}')" for code in "aAbBdHIjmMpSyY"),
        " }}{%- endmacro -%}{{ '' }}",
    )
)

# Of each model those of its modules that turn positions: to look for them among all modules takes
# milliseconds, a good part of a small model's pass on a GPU.
_ROTARY = WeakKeyDictionary[Any, list[Any]]()
_LENGTH = "max_seq_len_cached"

# Nothing is chosen by measuring, and weights are read where they lie: they are others for each
# child. Each of these can be set otherwise by a variable of the environment.
_COMPILING = {
    "freezing": False,
    "deterministic": True,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "coordinate_descent_tuning": False,
    "triton.cudagraphs": False,
}
# After so many shapes torch would silently compile no more, so that scores would depend on what was
# asked before; and so it would where it fails to compile.
_NEVER_EAGER = {
    "recompile_limit": 2**30,
    "accumulated_recompile_limit": 2**30,
    "suppress_errors": False,
}

# Any of these is a tokenizer's.
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip

# Either says how pictures become numbers.
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def build_language_model(building: Building) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Make a language model with memory for a genome; no weights are read.

    It computes in the dtype that most of the first seed's weights have, if nothing else is said,
    and comes with the tokenizer of the first seed, if that holds one.

    Args:
        building: its first seed's directory holds config.json.

    Returns:
        The model; its tokenizer, or None; and the model's tensors by the checkpoint's names.

    Raises:
        ConfigError: the devices or the tokenizer's directory is of no use here, the model generates
            without a static cache, or torch cannot compile here.
        CheckpointError: config.json cannot be used, or does not fit the tensors.
    """
    options, layout, first = building.options, building.layout, building.first
    directory = first.directory or first.path
    tokenizer = None if options.tokenizer is None else building.directory / options.tokenizer
    chosen = getattr(torch, options.dtype) if options.dtype else own_dtype(layout)
    with quiet():
        model = _make(directory, first, chosen)
        put_on(model, options)
        if (head := model.get_output_embeddings()) is not None:
            head.register_forward_pre_hook(_laid_out)
        held = held_as_saved(model, directory)
        prefix = f"{model.base_model_prefix}."
        if not any(name.startswith(prefix) for name in first.tensors):
            # The model was saved without its head, as GPT-2 on the Hub.
            held = {name.removeprefix(prefix): tensor for name, tensor in held.items()}
        words = _tokenizer(tokenizer or first.words or directory, needed=tokenizer is not None)
        model.eval()
        model.requires_grad_(False)
        _set_up_generation(model, options)
        if options.torch_compile:
            _require_compiler()
            _compile(model)
    return model, words, held


def _laid_out(_head: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """States of a batch's last tokens, a view of those of all, as a tensor without gaps: for such a
    view torch copies the head's weights, a good part of a model's, once for each row."""
    return tuple(one.contiguous().view(-1, one.shape[-1]).view(one.shape) for one in given)


@contextlib.contextmanager
def inference(model: Any) -> Generator[None, None, None]:
    """Run what is inside without gradients and from the same random numbers each time.

    What draws (sampling, say) gives each block of examples the same draws whatever was asked
    before; the process's own random numbers go on as if nothing had happened.

    Raises:
        EvaluationError: the model gave logits that are NaN or infinite, whatever was made of them.
    """
    broken: list[str] = []
    # A static cache would be as large as the largest before, and sums over it may depend on its
    # size: what a model says would depend on what was asked before.
    kept = cast("dict[str, Any]", vars(model))
    for name in ("_previous_max_cache_length", "_cache"):
        kept.pop(name, None)
    _forget_longest_text(model)

    def check(_module: Any, _given: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        # The largest is NaN if any is; minus infinity may be meant (a token ruled out).
        if isinstance(logits, torch.Tensor) and not bool(logits.amax().isfinite()):
            broken.append("the model's logits hold NaN or infinity")
            raise EvaluationError(broken[0])

    hook = model.register_forward_hook(check)
    try:
        with quiet(), same_draws():
            yield
    finally:
        hook.remove()
    if broken:
        raise EvaluationError(broken[0])


def _forget_longest_text(model: Any) -> None:
    """Turn positions as at first: dynamic RoPE turns them as the longest text so far needed it."""
    if (rotary := _ROTARY.get(model)) is None:
        found = [module for module in model.modules() if "original_max_seq_len" in vars(module)]
        rotary = _ROTARY[model] = found
    for module in rotary:
        kept = cast("dict[str, Any]", vars(module))
        first = kept["original_max_seq_len"]
        # Where kinds of layers differ, each has its own, and its name before what it keeps.
        for name in [name for name in kept if name.endswith(_LENGTH)]:
            if kept[name] != first:
                # Some releases, such as 5.8, write None where there is one kind.
                kind = name.removesuffix(_LENGTH).removeprefix("None_")
                own, original = f"{kind}inv_freq", getattr(module, f"{kind}original_inv_freq")
                setattr(module, own, original.to(getattr(module, own).device))
                kept[name] = first


def _make(directory: Path, first: Checkpoint, dtype: torch.dtype) -> Any:
    config = _config(directory)
    make = _class(config, directory)
    empty = {
        name: torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype])
        for name, tensor in first.tensors.items()
        if tensor.dtype in TORCH_DTYPES
    }
    what = f"{at(directory / CONFIG)}: transformers {_TF.__version__} cannot build the model"
    with failures_as(CheckpointError, what):
        model, report = make.from_pretrained(
            None,
            config=config,
            state_dict=empty,
            dtype=dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _require_fit(report, directory, first)
    model.generation_config = _generation_config(directory, model.generation_config)
    return model


def _require_fit(report: Mapping[str, Any], directory: Path, first: Checkpoint) -> None:
    pair = f"{at(directory / CONFIG)} does not fit {at(first.path)}"
    hint = "is it the config.json that was saved with these weights?"
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{pair}: the checkpoint has no {some(missing)}; {hint}")
    if unexpected := sorted(report["unexpected_keys"]):
        raise CheckpointError(f"{pair}: the model has no {some(unexpected)}; {hint}")
    for name, saved, wanted in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{pair}: '{one_line(name)}' is {list(saved)} in the checkpoint and {list(wanted)} in "
            f"the model; {hint}"
        )


def _config(directory: Path) -> Any:
    raw = read_json(directory / CONFIG)
    if raw.get("quantization_config") is not None:
        raise CheckpointError(
            f"{at(directory / CONFIG)}: the model is quantised ('quantization_config'); merge the "
            "unquantised weights, and quantise what is exported; if these are dequantised, take "
            "the entry out"
        )
    try:
        return build_config(raw)
    except NotBuilt as error:
        raise CheckpointError(f"{at(directory / CONFIG)}: {error}") from error


def _class(config: Any, directory: Path) -> Any:
    named: Sequence[str] = config.architectures or ()
    for auto in (_TF.AutoModelForCausalLM, _TF.AutoModelForImageTextToText):
        classes = auto._model_mapping
        if type(config) not in classes:
            continue
        found = classes[type(config)]
        options = cast("tuple[Any, ...]", found if isinstance(found, tuple) else (found,))
        fitting = [one for one in options if one.__name__ in named]
        if fitting or not named:
            return [*fitting, *options][0]
    # A language model may be saved under a class that no Auto class lists first.
    for name in named:
        found = getattr(_TF, name, None)
        if found is not None and name.endswith(("ForCausalLM", "ForConditionalGeneration")):
            return found
    raise CheckpointError(
        f"{at(directory / CONFIG)}: transformers {_TF.__version__} has no language model "
        f"for '{one_line(config.model_type)}' ({some(named) or 'no architectures named'}); "
        "expected one such as LlamaForCausalLM. For another kind of network give 'model.network'"
    )


def _generation_config(directory: Path, made: Any) -> Any:
    file = directory / GENERATION
    if not file.is_file():
        return made
    # A score must not depend on how fast a machine is.
    given = {**read_json(file), "max_time": None}
    with failures_as(CheckpointError, f"{at(file)}: cannot be used"):
        return _TF.GenerationConfig(**given)


def _set_up_generation(model: Any, options: Options) -> None:
    settings = model.generation_config
    # transformers would compile by itself where the cache is static, and with measured choices.
    settings.disable_compile = True
    if options.cache_implementation is None:
        return
    settings.cache_implementation = options.cache_implementation
    settings.max_cache_len = options.max_cache_len
    tokens = torch.zeros((1, 2), dtype=torch.int64, device=model.device)
    try:
        with torch.inference_mode():
            said = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=2,
                min_new_tokens=2,
                do_sample=False,
                return_dict_in_generate=True,
            )
        fixed = isinstance(said.past_key_values, _STATIC)
        reason = "" if fixed else ": it generates with another cache, or without any"
    except BaseException as error:
        pass_on(error)
        reason = f": {cause(error)}"
    if reason:
        raise ConfigError(
            f"model.cache_implementation: {type(model).__name__} of transformers "
            f"{_TF.__version__} cannot keep what it has read in a static cache{reason}; leave the "
            "option out"
        )


def _require_compiler() -> None:
    def probe(x: torch.Tensor) -> torch.Tensor:
        return x + (2 if torch.compiler.is_compiling() else 1)

    try:
        done = float(_compiled(probe)(torch.zeros(1))) == 2
        reason = "compiling is turned off (TORCHDYNAMO_DISABLE, TORCH_COMPILE_DISABLE)"
    except BaseException as error:
        pass_on(error)
        done, reason = False, f"{cause(error)} (a C++ compiler, and torch 2.9 or later?)"
    if not done:
        raise ConfigError(
            f"model.torch_compile: torch {torch.__version__} cannot compile here: {reason}; see to "
            "that, or leave the option out"
        )


def _compile(model: Any) -> None:
    """Compile a model's forward pass where shapes are few; that of a deep copy is not compiled.

    These are whole texts that are read without keeping anything, and single tokens after what a
    static cache holds. Otherwise each length would be another shape, also where a cache slides, and
    is computed as it is without compiling.
    """
    kind = cast("Any", type(model))
    own: Callable[..., Any] = kind.forward
    compiled = _compiled(model.forward)

    @functools.wraps(own)
    def forward(self: Any, *given: Any, **named: Any) -> Any:
        cache: Any = named.get("past_key_values")
        tokens: Any = named.get("input_ids")
        if isinstance(cache, _STATIC):
            few = tokens is not None and tokens.shape[1] == 1 and not any(cache.is_sliding)
        else:
            few = cache is None and not named.get("use_cache")
        if few and self is model:
            return compiled(*given, **named)
        return own(self, *given, **named)

    # A plain function would be the same one in a deep copy, and compute with this model's weights.
    model.forward = MethodType(forward, model)


def _compiled(own: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for each shape by itself.

    So scores do not depend on what was asked before, in this process or in another. It is compiled
    whole: parts between which values are looked at could be of another shape for each child.
    """
    dynamo, inductor = (
        importlib.import_module(f"torch.{name}.config") for name in ("_dynamo", "_inductor")
    )
    compiled: Callable[..., Any] = cast("Any", torch).compile(own, dynamic=False, fullgraph=True)

    def call(*given: Any, **named: Any) -> Any:
        # As options of torch.compile they would not be heeded everywhere.
        with dynamo.patch(**_NEVER_EAGER), inductor.patch(**_COMPILING):
            return compiled(*given, **named)

    return call


class _Window(torch.Tensor):
    """A tensor whose pieces stay windows onto it: transformers' saver copies them otherwise."""

    def contiguous(self, *_: Any, **__: Any) -> torch.Tensor:
        return self


def held_as_saved(model: Any, directory: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors as parts of the model's, by the checkpoint's names."""
    state = cast("Mapping[str, torch.Tensor]", model.state_dict())
    owned = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    windows = {name: tensor.as_subclass(_Window) for name, tensor in state.items()}
    what = "transformers cannot say how the model's parameters are stored in a checkpoint"
    with failures_as(CheckpointError, f"{at(directory / CONFIG)}: {what}"):
        saved: Mapping[str, torch.Tensor] = _reverted(model, windows)
    held = {name: tensor.as_subclass(torch.Tensor) for name, tensor in saved.items()}
    computed = [n for n, t in held.items() if t.untyped_storage().data_ptr() not in owned]
    if computed:
        raise CheckpointError(
            f"{at(directory / CONFIG)}: transformers recomputes {some(computed)} when it loads "
            "this architecture, so that a child cannot be written in place; not supported"
        )
    return held


def _tokenizer(directory: Path, needed: bool) -> Any:
    if not any((directory / name).is_file() for name in _TOKENIZER):
        if needed:
            raise ConfigError(
                f"model.tokenizer: {at(directory)} holds no tokenizer (expected "
                f"{some(_TOKENIZER[:2])} or the like)"
            )
        return None
    with failures_as(CheckpointError, f"{at(directory)}: its tokenizer cannot be loaded"):
        found: Any = _TF.AutoTokenizer.from_pretrained(
            str(directory), trust_remote_code=False, local_files_only=True
        )
    if "strftime_now" in str(found.chat_template):
        given: Any = found.chat_template
        several = isinstance(given, dict)
        found.chat_template = (
            {name: _TODAY + text for name, text in cast("dict[str, str]", given).items()}
            if several
            else _TODAY + given
        )
    found.padding_side = "left"
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


def quiet() -> contextlib.AbstractContextManager[None]:
    """Without transformers' progress bars and remarks."""
    return without_remarks(_TF)


def with_own_weights(kind: Any, directory: Path, **given: Any) -> Any:
    """A model of transformers or diffusers as it was saved, ready to be asked.

    Raises:
        CheckpointError: some of its weights are not there. Either library would make up random
            ones, which are others in each process.
    """
    model, report = kind.from_pretrained(
        str(directory),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **given,
    )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{at(directory)}: its weights lack {some(missing)}, which {type(model).__name__} has; "
            "are its config.json and its weights of one model? Fetch them again"
        )
    return model.eval().requires_grad_(False)


def load_tower(directory: Path) -> tuple[Any, Any, Any]:
    """A model that sees pictures: itself, its image processor and its tokenizer; None where the
    directory has none of these two.

    Raises:
        CheckpointError: transformers cannot load one of them.
    """
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        named: Sequence[str] = _config(directory).architectures or ()
        own = [name for name in named if name.endswith(("Model", "ModelWithProjection"))]
        kind = getattr(_TF, own[0], _TF.AutoModel) if own else _TF.AutoModel
        what = f"transformers {_TF.__version__} cannot load it as a model that sees pictures"
        with failures_as(CheckpointError, f"{at(directory)}: {what}", passing=CheckpointError):
            model = with_own_weights(kind, directory, dtype=torch.float32, trust_remote_code=False)
            processor = None
            if any((directory / name).is_file() for name in _PROCESSOR):
                # Without a word it would be another one, with other pixels, beside torchvision.
                given["backend"] = "pil"
                processor = _TF.AutoImageProcessor.from_pretrained(str(directory), **given)
        words = _tokenizer(directory, needed=False)
        if words is not None:
            words.padding_side = "right"
        return model, processor, words
