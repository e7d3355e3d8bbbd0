"""Pipelines of diffusers as live models: built once, drawn from, filled by genomes.

Here alone diffusers is imported. Components are made by their own classes. Those that evolve are
given memory and no weights: these are a genome's. All others are loaded as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import accelerate  # pyright: ignore[reportMissingTypeStubs]
import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from genepool.checkpoints.files.checkpoint import Checkpoint
from genepool.checkpoints.layout import Layout
from genepool.checkpoints.model_files.built import without_remarks
from genepool.checkpoints.pipelines.components import DENOISERS, Component, Pipeline
from genepool.checkpoints.pipelines.files import SAFETY_CHECKER
from genepool.checkpoints.pipelines.ldm_names import ldm_modules
from genepool.checkpoints.pipelines.single_file import is_xl, noise_settings, require_denoiser
from genepool.checkpoints.pipelines.variants import require_weights
from genepool.documents import at_home
from genepool.errors import CheckpointError, ConfigError, EvaluationError
from genepool.messages import agreeing, at, count, failures_as, one_line, some
from genepool.models.filled import own_dtype, same_draws
from genepool.models.kind import Building, Options
from genepool.models.live import refuse_one_colour
from genepool.models.transformers import held_as_saved, with_own_weights
from genepool.models.transformers import quiet as quiet_transformers

# Its own annotations are not complete enough to check against.
_DF = cast("Any", diffusers)
_init_empty_weights = cast("Any", accelerate).init_empty_weights

# What a text does not need to become a picture. The safety checker would paint pictures black.
_LEFT_OUT = (SAFETY_CHECKER, "feature_extractor", "image_encoder")

# A pipeline that has one of these draws from more than a text, or draws no picture.
_NOT_FROM_TEXT = (
    *("image", "mask_image", "control_image", "video", "num_frames", "audio_length_in_s"),
)

# What is asked of a pipeline, by the option that sets it.
_CALLED = {
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale",),
    "size": ("height", "width"),
}

_LONGEST = "max_sequence_length"
# How pipelines are told to rewrite prompts by the packages bs4 and ftfy, where both are installed.
_CLEANING = "clean_caption"
# Bytes of encoded prompts that are kept.
_MOST_ENCODED = 2**30


def build_pipeline(building: Building) -> tuple[Any, dict[str, Any], dict[str, torch.Tensor]]:
    """Make a text-to-image pipeline with memory for a genome.

    It computes in float32 on a CPU and in the dtype that most of the first seed's weights have
    elsewhere, if nothing else is said.

    Args:
        building: its first seed has a pipeline.

    Returns:
        The pipeline; what it is called with besides prompts and noise; and the tensors of the
        components that evolve, by the checkpoint's names.

    Raises:
        ConfigError: the device, scheduler or size is of no use here.
        CheckpointError: a component is missing or cannot be loaded.
    """
    options, first = building.options, building.first
    device = _device(options.device)
    dtype = _dtype(options.dtype, device, building.layout)
    if first.evolving:
        return _from_single_file(building, dtype, device)
    if first.pipeline is None:
        raise ConfigError(f"{at(first.path)} is no pipeline")
    held, made = dict[str, torch.Tensor](), dict[str, Any]()
    with quiet():
        kind = _pipeline_class(first.pipeline, first.path)
        call = _call(kind, building)
        for name, component in _needed(kind, first.pipeline, first.path).items():
            made[name] = None
            if component is None:
                continue
            make = _empty if name in first.pipeline.evolving else _whole
            what = f"the component '{one_line(name)}' cannot be loaded by diffusers"
            text = f"{at(component.directory)}: {what} {_DF.__version__}"
            with failures_as(CheckpointError, text, passing=CheckpointError):
                made[name] = make(component, dtype, device)
            if name in first.pipeline.evolving:
                held.update(_held(component, made[name]))
        _require_no_moves(first, made, dtype)
        pipeline = _assembled(kind, first, made)
        if options.scheduler is not None:
            pipeline.scheduler = _scheduler(options.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if all(name in (*DENOISERS, "vae") for name in first.pipeline.evolving):
        _remember_prompts(pipeline)
    return pipeline, call, held


def _from_single_file(
    building: Building, dtype: torch.dtype, device: torch.device
) -> tuple[Any, dict[str, Any], dict[str, torch.Tensor]]:
    """`build_pipeline` where the seeds are single files."""
    options, first = building.options, building.first
    own, place = first.files[0].path, options.configs
    kind = _single_class(first)
    given: dict[str, Any] = {"add_watermarker": False} if is_xl(first) else {"safety_checker": None}
    if place is not None:
        given |= {"config": str(building.directory / at_home(place)), "local_files_only": True}
    call = _call(kind, building)
    what = f"{at(own)}: cannot be loaded as a single file by diffusers {_DF.__version__}"
    advice = "" if place else "; name a directory with its settings (model.configs)"
    with quiet(), failures_as(CheckpointError, what, advice, passing=ConfigError):
        pipeline = kind.from_single_file(str(own), torch_dtype=dtype, **given).to(device)
        name = options.scheduler or type(pipeline.scheduler).__name__
        pipeline.scheduler = _scheduler(name, pipeline.scheduler, **noise_settings(first))
    pipeline.set_progress_bar_config(disable=True)
    for tensor in (*pipeline.unet.parameters(), *pipeline.unet.buffers()):
        tensor.data = tensor.data.clone()  # See `_empty`.
    state: dict[str, torch.Tensor] = pipeline.unet.state_dict()
    names = ldm_modules(state)
    held: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        held[f"{first.evolving[0]}{names.get(module, module)}.{parameter}"] = tensor
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    _remember_prompts(pipeline)
    return pipeline, call, held


def draw(
    pipeline: Any, call: Mapping[str, Any], prompts: Sequence[str], ids: Sequence[str]
) -> NDArray[np.uint8]:
    """See `ImageGenerator.pictures`."""
    noise = [torch.Generator().manual_seed(noise_seed(name)) for name in ids]
    # Its own draws are for what draws beside the noise that it is given.
    with quiet(), same_draws(), failures_as(EvaluationError, "the pipeline failed"):
        out = pipeline(prompt=list(prompts), generator=noise, output_type="np", **call)
        found = np.asarray(out.images, dtype=np.float32)
    if found.ndim != 4 or found.shape[0] != len(ids) or found.shape[3] != 3:
        raise EvaluationError(
            f"expected {len(ids)} pictures of three colours from the pipeline; got an array of "
            f"shape {found.shape}"
        )
    for name, picture in zip(ids, found, strict=True):
        if not np.isfinite(picture).all():
            raise EvaluationError(
                f"the picture for example '{one_line(name)}' holds NaN or infinity; a VAE that "
                "overflows in float16 does so too: try 'dtype: bfloat16' or 'float32'"
            )
    pictures = np.rint(found * 255).clip(0, 255).astype(np.uint8)
    refuse_one_colour(ids, pictures)
    return pictures


def noise_seed(name: str) -> int:
    """Of the noise of an example."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """Without the progress bars and remarks of diffusers and transformers."""
    with without_remarks(_DF), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# What is needed


def _pipeline_class(pipeline: Pipeline, path: Path) -> Any:
    name = pipeline.class_name
    found = getattr(_DF, name, None)
    if not (isinstance(found, type) and issubclass(found, _DF.DiffusionPipeline)):
        raise CheckpointError(
            f"{at(path)}: diffusers {_DF.__version__} has no pipeline '{one_line(name)}'"
        )
    parameters = inspect.signature(cast("Any", found).__call__).parameters
    wants = [other for other in _NOT_FROM_TEXT if other in parameters]
    if wants or not {"prompt", "generator", "output_type"} <= set(parameters):
        reason = f"takes {some(wants)}" if wants else "takes no prompt"
        raise CheckpointError(
            f"{at(path)}: '{one_line(name)}' does not draw a picture from a text alone (it "
            f"{reason}); expected a text-to-image pipeline such as StableDiffusionPipeline"
        )
    return found


def _single_class(first: Checkpoint) -> Any:
    require_denoiser(first)
    return _DF.StableDiffusionXLPipeline if is_xl(first) else _DF.StableDiffusionPipeline


def _call(kind: Any, building: Building) -> dict[str, Any]:
    """What a pipeline is called with; what is not said is left to it."""
    options = building.options
    given: dict[str, tuple[Any, ...]] = {
        "steps": (options.steps,),
        "guidance": (options.guidance,),
        "size": (None, None) if options.size is None else tuple(options.size),
    }
    parameters = inspect.signature(kind.__call__).parameters
    out: dict[str, Any] = {}
    for option, names in _CALLED.items():
        for name, value in zip(names, given[option], strict=True):
            if value is None:
                continue
            if name not in parameters:
                raise ConfigError(
                    f"model.{option}: '{kind.__name__}' takes no {name}; leave it out"
                )
            out[name] = value
    # Whether prompts are rewritten would depend on packages that are there or not.
    return {**out, _CLEANING: False} if _CLEANING in parameters else out


def told(
    options: Options, first: Checkpoint, texts: Sequence[str], settings: Pipeline | None
) -> tuple[str, ...]:
    """What a run file leaves to the pipeline (of a single file, one with its `settings`), and what
    is there and not used: a safety checker, and the ends of long texts.

    Raises:
        CheckpointError: there is no such pipeline.
    """
    pipeline, out = first.pipeline, list[str]()
    with quiet():
        kind = _single_class(first) if pipeline is None else _pipeline_class(pipeline, first.path)
        parameters = inspect.signature(kind.__call__).parameters
    given = {"steps": options.steps, "guidance": options.guidance, "size": options.size}
    for option, (name, *_) in _CALLED.items():
        if given[option] is None and name in parameters:
            value = parameters[name].default
            said = "what the pipeline was made for" if value is None else str(value)
            out.append(f"model.{option} is {said}")
    components = dict[str, Component]() if settings is None else settings.components
    if options.scheduler is None and "scheduler" in components:
        out.append(f"model.scheduler is {one_line(components['scheduler'].class_name)}")
    notices = [f"{', '.join(out)}, as {kind.__name__} has it where nothing is said"] if out else []
    if _CLEANING in parameters and parameters[_CLEANING].default:
        notices.append(
            f"prompts are drawn as they are written ({_CLEANING} is False): {kind.__name__} would "
            "rewrite them where the packages bs4 and ftfy are installed"
        )
    if SAFETY_CHECKER in components:
        notices.append(
            f"{at(first.path)}: pictures are drawn without its safety checker, which would paint "
            "some of them black"
        )
    most = parameters[_LONGEST].default if _LONGEST in parameters else None
    return (*notices, *_cut(components, texts, most))


def _cut(components: Mapping[str, Component], texts: Sequence[str], most: int | None) -> list[str]:
    """A notice of texts that no text encoder reads to their end, because diffusers cuts them."""
    long, limit = list(texts), 0
    for name, component in components.items():
        if name.startswith("tokenizer") and not component.fault:
            with quiet():
                words = _whole(component, torch.float32, torch.device("cpu"))
                own = min(words.model_max_length, most or words.model_max_length)
                long = [text for text in long if len(words(text)["input_ids"]) > own]
            limit = max(limit, own)
    told = (
        f"{len(long)} of {count(len(texts), 'prompt')} {agreeing(len(long), 'has', 'have')} more "
        f"tokens than the {limit} that are read, and what follows these is not drawn"
    )
    return [told] if long and limit else []


def _device(name: str) -> torch.device:
    what = f"model: the pipeline cannot be put on device '{one_line(name)}'"
    with failures_as(ConfigError, what):
        device = torch.device(name)
        torch.empty(1, device=device)
    return device


def _dtype(name: str | None, device: torch.device, layout: Layout) -> torch.dtype:
    if name is not None:
        return getattr(torch, name)
    return torch.float32 if device.type == "cpu" else own_dtype(layout)


def _needed(kind: Any, pipeline: Pipeline, path: Path) -> dict[str, Component | None]:
    """The components that the pipeline's class asks for; None for those that are left out."""
    parameters = inspect.signature(kind.__init__).parameters
    index, out = pipeline.index, dict[str, Component | None]()
    for name in kind._get_signature_keys(kind)[0]:
        component = pipeline.components.get(name)
        null = isinstance(index.get(name), list)
        optional = name in kind._optional_components or name in _LEFT_OUT
        if component is not None and name not in _LEFT_OUT:
            component.require()
            out[name] = component
        elif null or optional:
            out[name] = None
        elif name in parameters:
            raise CheckpointError(
                f"{at(path)}: '{kind.__name__}' needs a component '{one_line(name)}'; the "
                f"pipeline has {some(pipeline.components, limit=20)}"
            )
    return out


# Making components


def _class(component: Component) -> Any:
    found = getattr(importlib.import_module(component.library), component.class_name, None)
    if not isinstance(found, type) or getattr(found, "from_pretrained", None) is None:
        raise CheckpointError(
            f"{at(component.directory)}: {component.library} has no class "
            f"'{one_line(component.class_name)}' for the component '{one_line(component.name)}'"
        )
    return found


def _whole(component: Component, dtype: torch.dtype, device: torch.device) -> Any:
    """A component with its own weights."""
    kind, place = _class(component), component.directory
    # Without a word classes called Auto would ask whoever sits there.
    automatic = component.class_name.startswith("Auto")
    given: dict[str, Any] = {"trust_remote_code": False} if automatic else {}
    if not issubclass(kind, torch.nn.Module) and not component.class_name.startswith("AutoModel"):
        return kind.from_pretrained(str(place), local_files_only=True, **given)
    found = require_weights(component)
    key = "dtype" if component.library == "transformers" else "torch_dtype"
    given |= {"variant": (found[0] if found else "") or None, key: dtype}
    return with_own_weights(kind, place, **given).to(device)


def _empty(component: Component, dtype: torch.dtype, device: torch.device) -> Any:
    """A component with memory for weights of any values."""
    kind = _class(component)
    if component.library == "transformers" or not issubclass(kind, _DF.ModelMixin):
        module = _whole(component, dtype, device)
        for tensor in (*module.parameters(), *module.buffers()):
            # What was loaded may be a window onto the seed's file.
            tensor.data = tensor.data.clone()
        return module
    with _init_empty_weights():
        config = kind.load_config(str(component.directory), local_files_only=True)
        module = kind.from_config(config)
    kept = set(kind._keep_in_fp32_modules or ())
    for path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            own = torch.float32 if kept & {*path.split("."), name} else dtype
            memory = torch.empty(parameter.shape, dtype=own, device=device)
            setattr(owner, name, torch.nn.Parameter(memory, requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            saved = name not in owner._non_persistent_buffers_set
            own = dtype if saved and buffer.is_floating_point() else buffer.dtype
            setattr(owner, name, buffer.to(device=device, dtype=own))
    return module.eval()


def _held(component: Component, module: Any) -> dict[str, torch.Tensor]:
    """The tensors of a component by the checkpoint's names."""
    foreign = component.library == "transformers"
    state = held_as_saved(module, component.directory) if foreign else module.state_dict()
    return {f"{component.name}.{name}": tensor for name, tensor in state.items()}


def _require_no_moves(first: Checkpoint, made: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Refuse a VAE that evolves and that the pipeline would put elsewhere to decode in float32."""
    vae: Any = made.get("vae")
    evolves = first.pipeline is not None and "vae" in first.pipeline.evolving
    if evolves and dtype == torch.float16 and vae.config.get("force_upcast"):
        raise ConfigError(
            "model.dtype: a VAE that evolves and decodes in float32 (its config says "
            "'force_upcast') cannot be kept in float16; say 'dtype: bfloat16' or 'float32'"
        )


def _assembled(kind: Any, first: Checkpoint, made: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {} if first.pipeline is None else first.pipeline.settings
    # Whether there is a watermark would depend on a package that is there or not.
    given |= {"requires_safety_checker": False, "add_watermarker": False}
    settings = {name: value for name, value in given.items() if name in parameters}
    what = f"the components do not make a '{kind.__name__}' of diffusers {_DF.__version__}"
    with failures_as(CheckpointError, f"{at(first.path)}: {what}"):
        return kind(**made, **settings)


def _scheduler(name: str, own: Any, **noise: Any) -> Any:
    """A scheduler with another's settings, and what else is known of the noise of training."""
    known = {kind.__name__: kind for kind in own.compatibles}
    if (found := known.get(name)) is None:
        raise ConfigError(
            f"model.scheduler: this pipeline has no scheduler '{one_line(name)}'; its own is "
            f"{type(own).__name__}, and it may have {some(sorted(known), limit=40)}"
        )
    # Latents may be beyond -1 and 1: DDIM and DDPM would cut them off, unless told otherwise.
    noise["clip_sample"] = own.config.get("clip_sample", False)
    with failures_as(ConfigError, f"model.scheduler: {name} cannot be used"):
        made = found.from_config(own.config, **noise)
    taken, trained = inspect.signature(found.__init__).parameters, {**dict(own.config), **noise}
    for key in ("prediction_type", "rescale_betas_zero_snr"):
        if key not in taken and trained.get(key) not in (None, False, "epsilon"):
            text = f"model.scheduler: {name} has no {key}, with which the denoiser was trained"
            raise ConfigError(f"{text}; name another, such as EulerDiscreteScheduler")
    return made


# Prompts


def _remember_prompts(pipeline: Any) -> None:
    """Let a pipeline encode each batch of prompts once: its text encoders do not evolve."""
    own: Callable[..., Any] | None = getattr(pipeline, "encode_prompt", None)
    if own is None:
        return
    known, size = dict[str, Any](), 0

    def encode_prompt(*given: Any, **named: Any) -> Any:
        nonlocal size
        key = repr((given, sorted(named.items())))
        if key in known:
            return known[key]
        out = own(*given, **named)
        more = _bytes(out)
        if size + more <= _MOST_ENCODED and not _holds_tensors((given, named)):
            known[key] = out
            size += more
        return out

    pipeline.encode_prompt = encode_prompt


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(cast("Mapping[Any, Any]", value).values())
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, cast("Sequence[Any]", value)))
    return isinstance(value, (torch.Tensor, np.ndarray))


def _bytes(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(map(_bytes, cast("Sequence[Any]", value)))
    return value.nbytes if isinstance(value, torch.Tensor) else 0
