"""A family of seeds: each opened from where it is, compared, and laid on one parameter axis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from genepool.checkpoints import by_url
from genepool.checkpoints.depth import depth_key
from genepool.checkpoints.files import gguf, hub
from genepool.checkpoints.files import lora as adapters
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.files.lora import AdapterMismatch
from genepool.checkpoints.files.safetensors import Tensor
from genepool.checkpoints.layout import Layout, build_layout, layout_again
from genepool.checkpoints.model_files.configs import compare_configs, language_config
from genepool.checkpoints.model_files.side_files import code_notice, module_notices, plain_notice
from genepool.checkpoints.model_files.tied import tie_notice, without_tied_copies
from genepool.checkpoints.model_files.tokenizer_files import (
    FEEDING,
    compare_settings,
    compare_tokenizer_settings,
)
from genepool.checkpoints.model_files.vocabularies import (
    Vocabulary,
    common_rows,
    comparable,
    compare_further_tokenizers,
    conflict,
    read_vocabulary,
    rows_notice,
    same_files,
    with_own_tokenizer,
)
from genepool.checkpoints.naming import WRAPPERS, unwrapped
from genepool.checkpoints.pipelines.agreement import compare_pipelines, whole_differs
from genepool.checkpoints.pipelines.directory import (
    assembled,
    is_pipeline,
    open_pipeline,
    open_whole,
)
from genepool.checkpoints.pipelines.fit import require_fit
from genepool.checkpoints.pipelines.lora_files import lora_file, open_lora, taken_as_it_is
from genepool.checkpoints.pipelines.single_file import (
    as_single_file,
    compare_single_files,
    is_single_file,
)
from genepool.checkpoints.quantised import QuantisedError
from genepool.checkpoints.tensor_notices import tensor_notices
from genepool.errors import CheckpointError
from genepool.messages import agreeing, at, count, one_line, some

# As bases are called that hold 4 or 8 bits a weight.
_QUANTISED = re.compile(r"bnb|[48][-_]?bit|int[48]|gptq|awq|nf4", re.IGNORECASE)

Words = Literal["same", "common"]
GGUFType = Literal["BF16", "F16", "F32"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a seed is found, with nothing left that depends on a current folder.

    Attributes:
        path: absolute path of a checkpoint, an adapter's directory or a GGUF file; or an id of
            the Hugging Face Hub, `org/name` or `org/name@revision`; or a URL.
        base: the same, of an adapter's base; None where there is none.
        rename: prefixes of tensor names and what stands in their place.
        dtype: of a GGUF file's unpacked weights.
        components: names of a pipeline's components that evolve; none means its denoiser, and
            nothing for what is no pipeline.
        variant: of a pipeline's weights, such as "fp16"; "" for plain ones or the only ones.
    """

    path: str
    base: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict[str, str])
    dtype: GGUFType = "BF16"
    components: tuple[str, ...] = ()
    variant: str = ""


def find_source(
    path: str,
    directory: Path,
    *,
    base: str | None = None,
    rename: Mapping[str, str] | None = None,
    dtype: GGUFType = "BF16",
) -> Source:
    """A seed as a user names it, made independent of `directory`, from which paths start.

    Raises:
        CheckpointError: an adapter without a base, or a base for what is no adapter.
    """
    found = locate(path, directory)
    place = Path(found)
    if place.is_absolute() and place.is_dir() and adapters.is_adapter(place):
        base = base or adapters.named_base(place)
        if base is None:
            raise CheckpointError(
                f"{at(place)}: an adapter whose {adapters.CONFIG} names no base model "
                "(base_model_name_or_path); say which: {path: ..., base: ...} in a run file, "
                "--adapter-base on the command line"
            )
    elif base is not None and place.is_absolute() and place.exists() and lora_file(place) is None:
        raise CheckpointError(
            f"{at(place)}: a base is given, but this is no adapter (it has no {adapters.CONFIG}, "
            "or whole weights beside it) and no LoRA of an image generator; leave out the base"
        )
    return Source(found, base and locate(base, directory), dict(rename or {}), dtype)


def locate(text: str, directory: Path) -> str:
    """An absolute path, unless only the Hub can be meant, `org/name` without a folder `org`, or a
    URL; `file://` is a path.

    Raises:
        CheckpointError: a URL that nothing can be fetched by.
    """
    text = text.removeprefix("file://")
    if by_url.is_url(text):
        by_url.require_url(text)
        return text
    try:
        path = directory.absolute() / Path(text).expanduser()
        here = path.exists() or path.is_symlink() or path.parent.is_dir()
    except (OSError, ValueError, RuntimeError):
        return text
    return text if not here and hub.is_hub_id(text) else str(path)


def open_source(source: Source) -> Checkpoint:
    """Open a seed: safetensors, an adapter folded into its base, a GGUF file, a model of the Hub.

    Raises:
        CheckpointError: it cannot be opened; the message is one line and names the file.
        MissingExtraError: it needs a package that is not installed.
        GenepoolError: the cache cannot be written.
    """
    try:
        checkpoint = _open(source)
        return renamed(checkpoint, source.rename) if source.rename else checkpoint
    except AdapterMismatch:
        # An adapter may have been trained under the names that its base is to get.
        if not source.rename:
            raise
        return _open(source, source.rename)


def _open(
    source: Source, rename: Mapping[str, str] | None = None, adapter: Path | None = None
) -> Checkpoint:
    """Open what is at a path or under an id.

    The tensors of an adapter's base get other names first, if they are given; `adapter` is whose
    base it is to be, if anyone's.
    """
    place = fetched(source.path, source.variant)
    try:
        opened = _open_local(place, source, rename, adapter)
    except CheckpointError as error:
        if not by_url.is_url(source.path):
            raise
        raise type(error)(f"'{source.path}': {error}") from None
    hub_id = place != Path(source.path) and not by_url.is_url(source.path)
    return replace(opened, path=Path(source.path), _digest=[]) if hub_id else opened


def fetched(path: str, variant: str = "") -> Path:
    """Where the files of a `Source.path` lie on this machine.

    Args:
        path: what `locate` gives.
        variant: of a pipeline's weights, such as "fp16".

    Raises:
        CheckpointError, MissingExtraError, GenepoolError: as `hub.fetch` and `by_url.fetch`.
    """
    if by_url.is_url(path):
        return by_url.fetch(path, variant)
    if not Path(path).is_absolute() and hub.is_hub_id(path):
        return hub.fetch(path, variant)
    return Path(path)


def _open_local(
    place: Path, source: Source, rename: Mapping[str, str] | None, adapter: Path | None
) -> Checkpoint:
    base = source.base
    if is_pipeline(place):
        return without_wrappers(open_pipeline(place, source.components, source.variant))
    if base is not None and adapter is None and lora_file(place) is not None:
        return open_lora(place, _open(replace(source, path=base, base=None), adapter=place))
    if source.variant:
        raise CheckpointError(
            f"{at(place)}: is no pipeline, and only pipelines have variants; leave out 'variant'"
        )
    if gguf.is_gguf(place):
        return gguf.open_gguf(place, source.dtype)
    if not (place.is_dir() and adapters.is_adapter(place)):
        opened = without_tied_copies(without_wrappers(open_checkpoint(place)))
        if notice := taken_as_it_is(place, opened):
            opened = replace(opened, notices=(*opened.notices, notice))
        return as_single_file(opened, source.components) if is_single_file(opened) else opened
    if adapter is not None:
        raise CheckpointError(
            f"{at(place)}: is an adapter too, and an adapter's base must be a whole model; merge "
            "this one into its own base first (in peft: model.merge_and_unload())"
        )
    named = base or adapters.named_base(place)
    if named is None:
        raise CheckpointError(f"{at(place)}: an adapter without a base; say which it is")
    try:
        whole = _open(replace(source, path=named, base=None), adapter=place)
        whole = renamed(whole, rename) if rename else whole
    except QuantisedError as error:
        raise QuantisedError(
            f"base of the adapter {at(place)}: {error}. An adapter that was trained on a quantised "
            "base fits the original: name it with --adapter-base (base: in a run file)"
        ) from None
    except CheckpointError as error:
        hint = ""
        if base is None or base == adapters.named_base(place):
            original = " (the original, where it is quantised)" if _QUANTISED.search(named) else ""
            hint = f"; name another with --adapter-base (base: in a run file){original}"
        raise CheckpointError(f"base of the adapter {at(place)}: {error}{hint}") from None
    return with_own_tokenizer(adapters.open_adapter(place, whole), place)


def open_giver(source: Source, component: str) -> Checkpoint:
    """Open a pipeline, or the folder of one component, for taking a component as it is.

    No weights are opened: the checkpoint has no tensors.

    Raises:
        CheckpointError: it is neither, or cannot be read.
        MissingExtraError: it needs a package that is not installed.
    """
    place = fetched(source.path)
    opened = open_whole(place, component)
    return opened if by_url.is_url(source.path) else replace(opened, path=Path(source.path))


def without_wrappers(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under the names that its tensors had before torch wrapped modules."""
    names = {name: unwrapped(name) for name in checkpoint.tensors}
    if all(name == plain for name, plain in names.items()) or len(set(names.values())) < len(names):
        return checkpoint
    tensors = {names[n]: replace(t, name=names[n]) for n, t in checkpoint.tensors.items()}
    marks = [mark for mark in WRAPPERS if any(mark in name for name in names)]
    notice = (
        f"{at(checkpoint.path)}: was saved from a model that "
        f"{' and '.join(WRAPPERS[mark] for mark in marks)} had wrapped; its tensors are taken "
        f"without {some(marks)} in their names"
    )
    notices = (*checkpoint.notices, notice)
    return replace(checkpoint, tensors=MappingProxyType(tensors), notices=notices, _digest=[])


def renamed(checkpoint: Checkpoint, prefixes: Mapping[str, str]) -> Checkpoint:
    """A checkpoint whose tensors have other names: the longest prefix that fits is replaced.

    Raises:
        CheckpointError: a prefix fits no tensor, or two tensors get one name.
    """
    used: set[str] = set()
    tensors: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in checkpoint.tensors.items():
        prefix = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
        new = name if prefix is None else prefixes[prefix] + name[len(prefix) :]
        if prefix is not None:
            used.add(prefix)
        if new in tensors or not new:
            raise CheckpointError(
                f"{at(checkpoint.path)}: rename makes '{one_line(new)}' of "
                f"{some([origins.get(new, name), name])}; every tensor needs a name of its own"
            )
        pipeline = checkpoint.pipeline
        if pipeline is not None and new.partition(".")[0] not in pipeline.evolving:
            raise CheckpointError(
                f"{at(checkpoint.path)}: rename makes '{one_line(new)}' of '{one_line(name)}'; "
                f"tensors of a pipeline begin with the component that evolves, "
                f"{some(f'{part}.' for part in pipeline.evolving)}"
            )
        origins[new] = name
        tensors[new] = replace(tensor, name=new)
    if idle := sorted(prefixes.keys() - used):
        raise CheckpointError(
            f"{at(checkpoint.path)}: rename: no tensor begins with {some(idle)}; its tensors are "
            f"called like {some(checkpoint.tensors)}"
        )
    return replace(checkpoint, tensors=MappingProxyType(tensors), _digest=[])


@dataclass(frozen=True, eq=False)
class Family:
    """Seeds that fit together.

    Attributes:
        checkpoints: in order.
        layout: where their tensors lie on the parameter axis.
        notices: one line each, of what differs and does no harm, or is good to know.
        vocabulary: how vocabularies were treated, as `make_family` was told.
        whole: of pipelines: component -> the number of the seed that it is taken from as it is,
            givers counted after the seeds; those that are not named come from the first.
    """

    checkpoints: tuple[Checkpoint, ...]
    layout: Layout
    notices: tuple[str, ...]
    vocabulary: Words = "same"
    whole: Mapping[str, int] = field(default_factory=dict[str, int])


def make_family(
    checkpoints: Sequence[Checkpoint],
    chromosomes: Mapping[str, Sequence[str]] | None = None,
    *,
    partial: bool = False,
    vocabulary: Words = "same",
    whole: Mapping[str, int] | None = None,
    givers: Sequence[Checkpoint] = (),
    layout: str | None = None,
) -> Family:
    """Compare opened seeds and lay them on one parameter axis.

    Args:
        checkpoints: one or more.
        chromosomes: as `build_layout` takes them.
        partial: whether the seeds may share only part of their tensors.
        vocabulary: "same" refuses tokenizers that differ; "common" merges the embeddings' rows of
            the tokens that are the same in all seeds, from id 0 to the first that is not, and takes
            the further rows from the first seed.
        whole: see `Family`. In the family the first checkpoint's pipeline has these components.
        givers: pipelines that give whole components and do not merge.
        layout: the digest that it had, where it is laid out again; see `layout_again`.

    Raises:
        CheckpointError: they do not fit together; the message names files, field and both values.
        InputError: chromosomes that cannot be used.
    """
    of_first = [notice(checkpoints[0]) for notice in (code_notice, plain_notice, rows_notice)]
    told = [*of_first, *map(tie_notice, checkpoints)]
    notices = [notice for notice in told if notice is not None]
    notices += dict.fromkeys(notice for each in checkpoints for notice in each.notices)
    notices += module_notices(checkpoints)
    for other in checkpoints[1:]:
        notices += _compare(checkpoints[0], other, partial, vocabulary)
    taken = assembled([*checkpoints, *givers], whole or {})
    if taken.pipeline is not None:
        require_fit(taken.pipeline)
        for other in checkpoints[1:]:
            notices += whole_differs(taken.pipeline, other, whole or {})
    rows: dict[str, int] = {}
    if vocabulary == "common" and len(checkpoints) > 1:
        rows, text = _common_rows(checkpoints)
        notices.append(text)
    if layout is None:
        laid = build_layout(checkpoints, chromosomes, partial=partial, rows=rows)
    else:
        laid = layout_again(layout, checkpoints, chromosomes or {}, partial=partial, rows=rows)
    notices += tensor_notices(checkpoints, laid)
    if partial:
        notices.append(_share(checkpoints[0], laid))
    return Family((taken, *checkpoints[1:]), laid, tuple(notices), vocabulary, dict(whole or {}))


def _compare(first: Checkpoint, other: Checkpoint, partial: bool, words: Words) -> list[str]:
    """Notices of how two seeds' configurations and tokenizers differ; refuses what must agree."""
    if first.evolving or other.evolving:
        return compare_single_files(first, other)
    if first.pipeline is not None or other.pipeline is not None:
        if words == "common":
            raise CheckpointError(
                f"{at(first.path)}: 'vocabulary: common' is for language models; of a pipeline, "
                "tokenizer and text encoder are taken whole from one seed ('components')"
            )
        return compare_pipelines(first, other, partial=partial)
    ours, theirs = first.directory, other.directory
    notices: list[str] = []
    if theirs is not None and _has_config(theirs) and not (ours and _has_config(ours)):
        notices.append(
            f"{at(first.path)} comes without config.json and {at(theirs)} has one; files come from "
            "the first seed, so that what is made will have none: put another first, or copy it"
        )
    if ours is None or theirs is None:
        return notices
    if ours != theirs:
        notices += compare_configs(ours, theirs, partial=partial, vocabulary=words == "common")
    if first.words is not None and other.words is not None and first.words != other.words:
        notices += _compare_tokenizers(first.words, other.words, partial, words)
        notices += compare_tokenizer_settings(first.words, other.words)
    notices += compare_further_tokenizers(first, other)
    for name in FEEDING:
        notices += compare_settings(name, ours, theirs, missed=_has_config(ours))
    return notices


def _compare_tokenizers(ours: Path, theirs: Path, partial: bool, words: Words) -> list[str]:
    if same_files(ours, theirs):
        return []
    a, b = read_vocabulary(ours), read_vocabulary(theirs)
    if a is None or b is None:
        has, lacks = (ours, theirs) if b is None else (theirs, ours)
        lost = " (the result will have none)" if a is None else ""
        return [
            f"{at(lacks)} has no tokenizer; its tokens are taken to be those of {at(has)}{lost}"
        ]
    if words != "same":
        return []
    if not comparable(a, b):
        return [
            f"{at(b.file)} could not be compared with {at(a.file)}, because they number tokens in "
            "different forms: make sure that the tokens are the same, or save both tokenizers in "
            "one form (in transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)); "
            "the first seed's is kept"
        ]
    if reason := conflict(a, b, nested=partial):
        raise CheckpointError(
            f"{at(b.file)} does not fit {at(a.file)}: {reason}; rows of the embeddings would "
            "be mixed that mean different tokens ('vocabulary: common' merges only the rows "
            "of the tokens that are the same)"
        )
    same = a.ids == b.ids and bool(a.ids)
    tokens = "its tokens are the same" if same else "the tokens that both have are the same"
    return [f"{at(b.file)} differs from {at(a.file)}; {tokens}, and the first seed's is kept"]


def _has_config(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _common_rows(checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, int], str]:
    """How many rows of which tensors belong to tokens that all seeds share, and that in words."""
    sizes: list[int] = []
    found: list[Vocabulary] = []
    for checkpoint in checkpoints:
        directory = checkpoint.directory
        size = language_config(directory).get("vocab_size")
        words = None if checkpoint.words is None else read_vocabulary(checkpoint.words)
        if not isinstance(size, int) or words is None or not words.ids:
            raise CheckpointError(
                f"{at(checkpoint.path)}: 'vocabulary: common' needs a config.json with vocab_size "
                "and a tokenizer.json (or vocab.json, vocab.txt) beside the weights of every seed"
            )
        sizes.append(size)
        found.append(words)
    number = common_rows(found)
    if number is None:
        number = min(sizes) if len(set(sizes)) == 1 else 1 + max(found[0].ids.values())
    number = min(number, *sizes)
    if number == 0:
        raise CheckpointError(
            f"{at(found[1].file)} has no tokens in common with {at(found[0].file)}: already id 0 "
            "is another token"
        )
    first = checkpoints[0]
    rows: dict[str, int] = {}
    for name, tensor in first.tensors.items():
        held = [checkpoint.tensors.get(name) for checkpoint in checkpoints]
        shapes = [None if other is None else other.shape for other in held]
        wanted = [(size, *tensor.shape[1:]) for size in sizes]
        if depth_key(name)[0] != 1 and shapes == wanted:
            rows[name] = number
    if number == sizes[0] and len(set(sizes)) == 1:
        return {}, "all seeds have the same tokens"
    further = sizes[0] - number
    return rows, (
        f"the tokens with ids 0 to {number - 1} are the same in all seeds, and their rows of "
        f"{some(rows)} merge; {count(further, 'further row')} {agreeing(further, 'comes', 'come')} "
        f"from {at(first.path)}"
    )


def _share(first: Checkpoint, layout: Layout) -> str:
    """What merges and what is carried, in one line."""
    size = sum(tensor.raw.size for tensor in first.tensors.values())
    shared, carried = len(layout.slots), len(layout.carried)
    text = (
        f"{count(shared, 'tensor')} ({layout.axis.size / max(1, size):.1%} of the parameters of "
        f"{at(first.path)}) {agreeing(shared, 'is', 'are')} shared by all seeds and "
        f"{agreeing(shared, 'merges', 'merge')}"
    )
    if not layout.carried:
        return text
    groups = dict.fromkeys(".".join(name.split(".")[:2]) for name in layout.carried)
    return (
        f"{text}; {carried} {agreeing(carried, 'is', 'are')} carried over from it ({some(groups)})"
    )
