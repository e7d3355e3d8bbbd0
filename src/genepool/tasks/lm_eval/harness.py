"""lm-evaluation-harness: its tasks, its prompts and its way to ask a model; imported late.

Only parts of it are used, never its own loop: the evaluator decides what is asked.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.documents import Unreadable, read_bytes
from genepool.errors import ConfigError
from genepool.messages import at, cause, failures_as, one_line, pass_on, some
from genepool.models.language import LanguageModel
from genepool.yaml_documents import texts_under

# Of task files that users name: bytes of each, and how many there may be.
_LARGEST = 1_000_000
_MOST_FILES = 20_000
# Characters of texts whose tokens are remembered.
_REMEMBERED = 2**25
# Of the few-shot examples that are drawn; the harness's own default.
_FEWSHOT_SEED = 1234

# What tasks call the number of tokens that are generated, the first of them first.
_GENERATED = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_NOWHERE = logging.NullHandler()
_LOGGERS = ("lm_eval", "datasets", "evaluate", "huggingface_hub", "fsspec")

# Its own annotations are not complete enough to check against.
_DATASETS: Any = importlib.import_module("datasets")
_MANAGER: Any = importlib.import_module("lm_eval.tasks").TaskManager
_TEMPLATES: Any = importlib.import_module("lm_eval.utils").env
_HFLM: Any = importlib.import_module("lm_eval.models.huggingface").HFLM


@contextlib.contextmanager
def quiet(directory: Path | None = None) -> Generator[None, None, None]:
    """Without the harness's bars, remarks and warnings, and without the work that it repeats.

    Args:
        directory: the working directory meanwhile: relative paths in task files start from there.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    bars, here = _DATASETS.is_progress_bar_enabled(), Path.cwd()
    # Not by their levels: at each change of one, `logging` looks through all its loggers, and this
    # is around each block of examples.
    for logger in loggers:
        logger.handlers, logger.propagate = [_NOWHERE], False
    _DATASETS.disable_progress_bars()
    if directory is not None:
        os.chdir(directory)
    try:
        with warnings.catch_warnings(), _compiled_once():
            warnings.simplefilter("ignore")
            yield
    finally:
        if directory is not None:
            os.chdir(here)
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        if bars:
            _DATASETS.enable_progress_bars()


_compiled = functools.lru_cache(1000)(_TEMPLATES.from_string)


@contextlib.contextmanager
def _compiled_once() -> Generator[None, None, None]:
    """Compile templates of tasks once; the harness does so for each document."""
    within = "from_string" in vars(_TEMPLATES)
    _TEMPLATES.from_string = _compiled
    try:
        yield
    finally:
        if not within:
            del _TEMPLATES.from_string


def open_harness_task(name: str, include: Path | None, directory: Path) -> Any:
    """Find a task by name, or by the path of its YAML file, and load its data set.

    Args:
        name: of a task, or a path that ends in .yaml or .yml.
        include: directory with further task files, or one such file.
        directory: relative paths start from here.

    Raises:
        ConfigError: there is no such task, it is a group, or its data cannot be loaded.
    """
    with quiet(directory):
        if name.endswith((".yaml", ".yml")):
            path = directory / name
            if not path.is_file():
                raise ConfigError(f"task: {at(path)}: no such file")
            _require_bounded([path])
            return _load(_MANAGER(include_defaults=False), str(path), name)
        own: list[str] = []
        if include is not None:
            if not include.exists():
                raise ConfigError(f"include: {at(include)}: no such file or directory")
            folder = include if include.is_dir() else include.parent
            _require_bounded(folder.glob("**/*.yaml"))
            mine = _MANAGER(include_path=str(folder), include_defaults=False)
            if name in mine.task_index:
                return _load(mine, name, name)
            own = list(mine.all_tasks)
        return _load(_everything(), name, name, own)


@functools.cache
def _everything() -> Any:
    """All tasks of the harness: thousands of files are read, so only if need be, and once."""
    return _MANAGER()


def _require_bounded(paths: Iterable[Path]) -> None:
    """Refuse task files that the harness would read for hours, and those that they include.

    Raises:
        ConfigError: naming the first that is out of all proportion.
    """
    seen: set[Path] = set()
    for path in paths:
        waiting = [path]
        while waiting:
            file = waiting.pop().absolute()
            if file in seen:
                continue
            seen.add(file)
            if len(seen) > _MOST_FILES:
                raise ConfigError(f"include: more than {_MOST_FILES:,} task files; name a folder")
            try:
                inner = texts_under(read_bytes(file, _LARGEST), "include")
            except Unreadable as error:
                line = "" if error.line is None else f", line {error.line}"
                raise ConfigError(f"task: {at(file)}{line}: {error}") from None
            except OSError:
                continue  # The harness says so, if it is that file's turn.
            waiting += [file.parent / one for one in inner]


def _load(manager: Any, spec: str, name: str, own: Sequence[str] = ()) -> Any:
    entry = manager.task_index.get(spec)
    if entry is not None and entry.kind.name in ("GROUP", "TAG"):
        members = _members(entry)
        raise ConfigError(
            f"task: '{one_line(name)}' is a {entry.kind.name.lower()} of lm-evaluation-harness "
            f"with the members {some(members, limit=12)}; make each that you want a task of its own"
        )
    try:
        loaded: Mapping[str, Any] = manager.load(spec)
    except KeyError as error:
        if entry is not None or Path(spec).is_file():
            raise ConfigError(
                f"task '{one_line(name)}' cannot be loaded: {cause(error)}"
            ) from error
        # Whoever includes tasks means one of these rather than one of the harness' thousands.
        known = cast("list[str]", manager.all_tasks)
        close = difflib.get_close_matches(name, own, n=3)
        close = close or difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {some(close)}?" if close else "`lm-eval ls tasks` lists them"
        raise ConfigError(
            f"task: lm-evaluation-harness has no task '{one_line(name)}'; {hint}"
        ) from error
    except BaseException as error:
        pass_on(error)
        absent = isinstance(error, OSError)
        hint = "; its data set must be on this machine or within reach" if absent else ""
        raise ConfigError(
            f"task '{one_line(name)}' cannot be loaded: {cause(error)}{hint}"
        ) from error
    found = list(loaded["tasks"].values())
    if loaded.get("groups") or len(found) != 1:
        raise ConfigError(
            f"task: '{one_line(name)}' is a group with the members "
            f"{some([task.task_name for task in found], limit=12)}; make each that you want a task "
            "of its own"
        )
    return found[0]


def _members(entry: Any) -> list[str]:
    if entry.kind.name == "TAG":
        return sorted(entry.tags)
    listed: Any = entry.cfg["task"]
    members = cast("list[Any]", listed if isinstance(listed, list) else [listed])
    return [str(cast("Any", one)["task"] if isinstance(one, dict) else one) for one in members]


def documents(task: Any, split: str | None) -> list[Any]:
    """The documents of a split; None means those that the harness itself would score.

    Raises:
        ConfigError: the task has no such split, or it is empty.
    """
    name = f"task '{one_line(task.task_name)}'"
    has = {
        "train": task.has_training_docs,
        "validation": task.has_validation_docs,
        "test": task.has_test_docs,
    }
    there = [key for key, ask in has.items() if ask()]
    if split is not None and split not in there:
        raise ConfigError(f"{name} has no split '{split}'; it has {some(there) or 'none'}")
    give = {
        "train": task.training_docs,
        "validation": task.validation_docs,
        "test": task.test_docs,
        None: lambda: task.eval_docs,
    }
    with failures_as(ConfigError, f"{name}: its examples cannot be read"), quiet():
        found = list(give[split]())
    if not found:
        raise ConfigError(f"{name} holds no examples" + (f" in split '{split}'" if split else ""))
    return found


def prompts(
    task: Any, docs: Sequence[Any], system: str | None, template: LanguageModel | None
) -> list[list[Any]]:
    """The requests of each document, as the harness makes them; few-shot examples are drawn anew.

    None of these is the document itself, whose answer would stand in its prompt; the harness sees
    to that where they come from the test split alone.

    Args:
        task: of the harness.
        docs: its documents, always the same in the same order.
        system: system instruction.
        template: whose tokenizer's chat template is applied; None applies none.
    """
    render = None if template is None else wrap(template, 1).apply_chat_template
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    out: list[list[Any]] = []
    for number, doc in enumerate(docs):
        with _without(doc, task):
            context = task.fewshot_context(
                doc,
                num_fewshot=task.config.num_fewshot or 0,
                system_instruction=system,
                apply_chat_template=render is not None,
                fewshot_as_multiturn=render is not None,
                chat_template=render,
                gen_prefix=task.doc_to_prefix(doc),
            )
        made = task.construct_requests(
            doc=doc,
            ctx=context,
            metadata=(task.config.task, number, task.config.repeats),
            apply_chat_template=render is not None,
            chat_template=render,
        )
        out.append(cast("list[Any]", made) if isinstance(made, list) else [made])
    return out


@contextlib.contextmanager
def _without(doc: Any, task: Any) -> Generator[None, None, None]:
    """Few-shot examples other than a document: those that are drawn, or others if it is one."""
    if not task.config.num_fewshot:
        yield
        return
    own = task.sampler.sample

    def sample(n: int, eval_doc: Any = None) -> Sequence[Any]:
        found = own(n=n, eval_doc=eval_doc)
        return own(n=n, eval_doc=doc) if doc in found else found

    task.sampler.sample = sample
    try:
        yield
    finally:
        del task.sampler.sample


def wrap(value: LanguageModel, batch: int) -> Any:
    """The harness's own wrapper around a live model; nothing is loaded."""
    made = _HFLM(
        pretrained=value.model, tokenizer=value.tokenizer, backend="causal", batch_size=batch
    )
    # Only the first of several processes shows bars; some of them cannot be turned off otherwise.
    made._rank = 1
    made.tok_encode = _remembering(made.tok_encode)
    return made


def _remembering(encode: Callable[..., list[int]]) -> Callable[..., list[int]]:
    """The tokens of a text, worked out once: each child is asked the same ones."""
    known: dict[Any, NDArray[np.int32]] = {}
    room = _REMEMBERED

    def tokens(text: str, *more: Any, **named: Any) -> list[int]:
        nonlocal room
        key = (text, more, *named.items())
        found = known.get(key)
        if found is None:
            found = np.array(encode(text, *more, **named), dtype=np.int32)
            if len(text) <= room:
                room -= len(text)
                known[key] = found
        return found.tolist()

    return tokens


@contextlib.contextmanager
def own_lengths(model: Any) -> Generator[None, None, None]:
    """Answers are as long as the task says: to generate, `max_new_tokens` of the model's own
    generation_config.json would come before that."""
    settings = model.generation_config
    given, settings.max_new_tokens = settings.max_new_tokens, None
    try:
        yield
    finally:
        settings.max_new_tokens = given


def ask(lm: Any, requests: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Answers to the requests of each document, in copies of them."""
    copies = [[copy.copy(request) for request in one] for one in requests]
    every = [request for one in copies for request in one]
    for request in every:
        request.resps, request.filtered_resps = [], {}
    for kind in dict.fromkeys(request.request_type for request in every):
        same = [request for request in every if request.request_type == kind]
        repeated = [request for request in same for _ in range(request.repeats or 1)]
        answers = getattr(lm, kind)(repeated, disable_tqdm=True)
        for request, answer in zip(repeated, answers, strict=True):
            request.resps.append(answer)
    return copies


def cut(lm: Any, requests: Sequence[Sequence[Any]]) -> int:
    """Of how many documents a prompt has more tokens than the model has room for.

    The harness leaves out their beginnings.
    """
    return sum(any(_is_cut(lm, request) for request in one) for one in requests)


def _is_cut(lm: Any, request: Any) -> bool:
    text, room = request.args[0], lm.max_length
    if request.request_type == "generate_until":
        given = [request.args[1][key] for key in _GENERATED if key in request.args[1]]
        room -= given[0] if given else lm.max_gen_toks
    elif request.request_type == "loglikelihood":
        # The last token is not read.
        text, room = text + request.args[1], room + 1
    else:
        return False
    # A token is a byte at least; a few may be added.
    return len(text.encode()) > room - 8 and len(lm.tok_encode(text)) > room


def targets(task: Any, docs: Sequence[Any]) -> list[str]:
    """The right answers of documents as text; none where a task does not have any."""
    try:
        with quiet():
            return [str(task.doc_to_target(doc)) for doc in docs]
    except BaseException as error:
        pass_on(error)
        return []


def questions(task: Any, docs: Sequence[Any]) -> list[str]:
    """What documents ask and what is right, without the examples that a prompt shows besides."""
    parts = [task.doc_to_text, task.doc_to_target]
    if task.OUTPUT_TYPE == "multiple_choice":
        parts.append(task.doc_to_choice)
    try:
        with quiet():
            return [json.dumps([part(doc) for part in parts], default=str) for doc in docs]
    except BaseException as error:
        pass_on(error)
        return []


def unanswerable(task: Any, docs: Sequence[Any]) -> int:
    """How many documents have a right choice that is none of their choices.

    The harness counts any answer as wrong there. It is 0 where the task looks at answers in a way
    of its own.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or callable(task.config.process_results):
        return 0
    try:
        with quiet():
            return 0 if task.multiple_input else sum(not _answerable(task, doc) for doc in docs)
    except BaseException as error:
        pass_on(error)
        return 0


def _answerable(task: Any, doc: Any) -> bool:
    right, choices = task.doc_to_target(doc), task.doc_to_choice(doc)
    several = cast("list[Any]", right if isinstance(right, list) else [right])
    return any(one in (range(len(choices)) if isinstance(one, int) else choices) for one in several)


def metrics(
    task: Any, docs: Sequence[Any], answered: Sequence[Sequence[Any]], chosen: str
) -> list[Mapping[str, Any]]:
    """What the task's metrics say of each document, after the filter of that name."""
    task._instances = [request for one in answered for request in one]
    task.apply_filters()
    return [
        task.process_results(doc, [request.filtered_resps[chosen] for request in one])
        for doc, one in zip(docs, answered, strict=True)
    ]


def filter_names(task: Any) -> list[str]:
    """Names of the task's filters, in its order."""
    return [one.name for one in task._filters]
