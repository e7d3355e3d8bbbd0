"""Contract tests for extensions, to be called from their own test suites.

def test_contract(tmp_path):
    def open_it():
        return MyEvaluator(MyEvaluator.Options(limit=50), tmp_path)

    check_task(open_it(), my_model(), reopen=open_it)
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from genepool.errors import EvaluationError
from genepool.models.image_generator import ImageGenerator
from genepool.models.language import LanguageModel
from genepool.tasks.task import Blocked, Drawn, Task
from genepool.testing.require import require

__all__ = ["check_task"]

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


def check_task(
    task: Task,
    model: Any,
    *,
    reopen: Callable[[], Task] | None = None,
    broken: Any = None,
    at_most: int = 200,
    seed: int = 0,
) -> None:
    """Check that a task keeps the contract of `genepool.tasks.task.Task`.

    Ids are text, all different, held-out ones apart from selection ones. Scores are float32 in
    [0, 1], one per example asked and none for none, 0 or 1 if the task says that it is binary, in a
    new array. They are the same bits when asked a second time, in any order, in any blocks and one
    by one. Fixed blocks (see `Blocked`) number the selection examples without falling or leaving
    out a number. A task whose models draw (see `Drawn`) shows as many pictures as are asked for.
    The model is left as it was. A model that cannot be judged ends in EvaluationError, and a
    position that does not exist in an error. Opened again, the task has the same ids, digest and
    scores.

    Args:
        task: the task.
        model: what a live model gives to tasks: a mapping of arrays, a torch network, a language
            model or an image generator. It should be one that gets some examples right and others
            wrong.
        reopen: opens the same task again; without it that part is not checked.
        broken: a model that must be refused; by default `model` with every weight NaN; to be
            given for an image generator.
        at_most: examples that are scored of each set, evenly spread; each is scored about six
            times.
        seed: of the orders and blocks that are tried.

    Raises:
        AssertionError: what is wrong, with the first example or value that shows it.
    """
    _check_ids(task)
    _check_blocks(task)
    before = _snapshot(model)
    for held_out, ids in ((False, task.samples), (True, task.held_out)):
        if ids:
            _check_scores(task, model, held_out, ids, at_most, np.random.default_rng(seed))
            _check_drawn(task, model, held_out, ids)
    require(_same(before, _snapshot(model)), "scoring changed the model")
    _check_refusal(task, _with_nan(model) if broken is None else broken)
    if reopen is not None:
        _check_reopened(task, reopen(), model, at_most)


def _check_ids(task: Task) -> None:
    for name, ids in (("samples", task.samples), ("held_out", task.held_out)):
        require(
            type(ids) is tuple and all(type(i) is str for i in cast("tuple[object, ...]", ids)),
            f"{name} must be a tuple of str; got {type(ids).__name__}",
        )
    require(len(task.samples) > 0, "samples is empty: a task needs at least one example")
    seen: set[str] = set()
    for name in (*task.samples, *task.held_out):
        require(name not in seen, f"id '{name}' occurs twice (in samples and held_out together)")
        seen.add(name)
    require(
        type(cast("object", task.digest)) is str and len(task.digest) >= 16,
        f"digest must be text of at least 16 characters; got {task.digest!r}",
    )
    require(type(cast("object", task.binary)) is bool, f"binary must be a bool; got {task.binary}")
    again = (task.samples, task.held_out, task.digest, task.binary)
    first = (task.samples, task.held_out, task.digest, task.binary)
    require(again == first, "samples, held_out, digest and binary must not change")


def _check_blocks(task: Task) -> None:
    if not isinstance(task, Blocked):
        return
    blocks: Any = task.blocks
    require(
        type(blocks) is np.ndarray
        and blocks.dtype == np.int64
        and blocks.shape == (len(task.samples),),
        f"blocks must be int64[{len(task.samples)}], one per selection example; got "
        f"{_what(blocks)}",
    )
    steps = np.diff(cast("Int64", blocks), prepend=0)
    require(
        bool(((steps == 0) | (steps == 1)).all()) and steps[0] == 0,
        f"blocks must count up from 0 in steps of 1; got {cast('Int64', blocks)[:8].tolist()}...",
    )


def _check_scores(
    task: Task,
    model: Any,
    held_out: bool,
    ids: Sequence[str],
    at_most: int,
    draws: np.random.Generator,
) -> None:
    where = "held-out examples" if held_out else "selection examples"
    indices = _spread(len(ids), at_most)

    def ask(wanted: Int64) -> Float32:
        return _asked(task, model, wanted, held_out, where)

    def agree(wanted: Int64, got: Float32, how: str) -> None:
        expected = scores[np.searchsorted(indices, wanted)]
        differing = np.flatnonzero(got.view(np.uint32) != expected.view(np.uint32))
        if differing.size:
            at = int(differing[0])
            raise AssertionError(
                f"{where}: example '{ids[int(wanted[at])]}' scores {got[at]:.9g} {how}, but "
                f"{expected[at]:.9g} when all are asked in order ({differing.size} of {got.size} "
                "differ); a score must not depend on what else is asked"
            )

    scores = ask(indices).copy()
    fine = (scores >= 0) & (scores <= 1)
    require(
        bool(fine.all()),
        f"{where}: scores must lie in [0, 1]; got {scores[~fine][:3].tolist()}",
    )
    if task.binary:
        odd = scores[(scores != 0) & (scores != 1)]
        require(
            odd.size == 0, f"{where}: binary is true, but scores such as {odd[:3].tolist()} occur"
        )
    agree(indices, ask(indices), "when asked a second time")
    kept = ask(indices)
    kept[:] = 0.5
    agree(indices, ask(indices), "after a returned array was written to (return a new one)")
    shuffled = draws.permutation(indices)
    agree(shuffled, ask(shuffled), "when asked in another order")
    cuts = np.sort(draws.integers(0, shuffled.size + 1, size=5))
    for block in np.split(shuffled, cuts):
        agree(block, ask(block), f"when asked in a block of {block.size}")
    for one in shuffled[:12]:
        agree(one[None], ask(one[None]), "when asked alone")
    twice = np.repeat(indices[:3], 2)
    agree(twice, ask(twice), "when asked twice in one call")
    ask(np.zeros(0, dtype=np.int64))
    for wrong in (len(ids), -1):
        _check_out_of_range(task, model, wrong, held_out, where)


def _asked(task: Task, model: Any, wanted: Int64, held_out: bool, where: str) -> Float32:
    given = wanted.copy()
    got: Any = task.score(model, given, held_out=held_out)
    require(
        type(got) is np.ndarray and got.dtype == np.float32 and got.shape == wanted.shape,
        f"{where}: expected scores float32[{wanted.size}]; got {_what(got)}",
    )
    require(np.array_equal(given, wanted), f"{where}: score() changed the indices it was given")
    return cast("Float32", got)


def _check_drawn(task: Task, model: Any, held_out: bool, ids: Sequence[str]) -> None:
    if not isinstance(task, Drawn):
        return
    for wanted in (np.arange(min(2, len(ids)), dtype=np.int64), np.zeros(0, dtype=np.int64)):
        drawn = {
            "drawn": task.drawn(model, wanted, held_out=held_out),
            "references": task.references(wanted, held_out=held_out),
        }
        for name, found in drawn.items():
            if found is None and name == "references":
                continue
            require(
                type(found) is np.ndarray
                and (found.dtype, found.ndim) == (np.uint8, 4)
                and found.shape[::3] == (wanted.size, 3),
                f"{name}: expected uint8[{wanted.size}, height, width, 3]; got {_what(found)}",
            )
        captions = task.captions(wanted, held_out=held_out)
        require(
            len(captions) == wanted.size,
            f"captions: expected {wanted.size} texts; got {len(captions)}",
        )


def _check_out_of_range(task: Task, model: Any, wrong: int, held_out: bool, where: str) -> None:
    try:
        got = task.score(model, np.array([wrong], dtype=np.int64), held_out=held_out)
    except (EvaluationError, IndexError):
        return
    raise AssertionError(
        f"{where}: position {wrong} does not exist, yet it was scored ({got}); "
        "raise EvaluationError"
    )


def _check_refusal(task: Task, broken: Any) -> None:
    everything = np.arange(min(len(task.samples), 32), dtype=np.int64)
    try:
        got = task.score(broken, everything)
    except EvaluationError as error:
        text = str(error)
        require(bool(text) and "\n" not in text, f"an error must be one line of text; got {text!r}")
        return
    except Exception as error:
        raise AssertionError(
            f"a model that cannot be scored must end in EvaluationError; got {error!r}"
        ) from error
    raise AssertionError(
        f"a model whose weights are all NaN was given scores ({got[:3].tolist()}...); raise "
        "EvaluationError instead of making up a score"
    )


def _check_reopened(task: Task, again: Task, model: Any, at_most: int) -> None:
    for name in ("samples", "held_out", "digest", "binary"):
        require(getattr(task, name) == getattr(again, name), f"opened again, {name} differs")
    indices = _spread(len(task.samples), at_most)
    one, other = task.score(model, indices), again.score(model, indices)
    require(one.tobytes() == other.tobytes(), "opened again, the task gives other scores")


def _spread(size: int, at_most: int) -> Int64:
    return np.unique(np.linspace(0, size - 1, min(size, at_most)).astype(np.int64))


def _with_nan(model: Any) -> Any:
    if isinstance(model, Mapping):
        arrays = cast("Mapping[str, NDArray[Any]]", model)
        return MappingProxyType(
            {
                name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array
                for name, array in arrays.items()
            }
        )
    if isinstance(model, LanguageModel):
        return replace(model, model=_with_nan(model.model))
    require(_is_network(model), "give `broken`: a model that the task must refuse")
    network = copy.deepcopy(model)
    for tensor in network.parameters():
        if tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
    return network


def _snapshot(model: Any) -> dict[str, NDArray[Any]] | None:
    if isinstance(model, Mapping):
        arrays = cast("Mapping[str, NDArray[Any]]", model)
        return {name: np.array(array) for name, array in arrays.items()}
    if isinstance(model, LanguageModel):
        return _snapshot(model.model)
    if isinstance(model, ImageGenerator):
        parts: Mapping[str, Any] = model.pipeline.components
        held_by = {name: _snapshot(part) for name, part in parts.items() if _is_network(part)}
        return {f"{n}.{key}": a for n, held in held_by.items() for key, a in (held or {}).items()}
    if _is_network(model):
        held: Mapping[str, Any] = model.state_dict()
        return {
            name: np.atleast_1d(tensor.detach().cpu().contiguous().float().numpy().copy())
            for name, tensor in held.items()
        }
    return None


def _same(one: dict[str, NDArray[Any]] | None, other: dict[str, NDArray[Any]] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def _is_network(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def _what(value: Any) -> str:
    if type(value) is np.ndarray:
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
