"""A member as a checkpoint, scored again from what was written before it is announced."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from genepool.checkpoints.family import make_family
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.files.dtypes import as_float32
from genepool.checkpoints.files.safetensors import Tensor
from genepool.checkpoints.pipelines.components import evolving
from genepool.checkpoints.pipelines.directory import is_pipeline, open_pipeline
from genepool.checkpoints.pipelines.single_file import as_single_file, is_single_file
from genepool.core.genome import seed_recipe
from genepool.errors import EvaluationError, GenepoolError, InputError
from genepool.messages import at, count
from genepool.models.image_generator import ImageGenerator
from genepool.output import member as out
from genepool.output.write.model import Exported, PathLike
from genepool.output.write.weights import SHARD_BYTES, Writing
from genepool.pool.members import member_number
from genepool.pool.reader import Pool
from genepool.run.executors.scorer import Part, Scorer
from genepool.run.finished.reopen import model_of, reopen
from genepool.run.pins import changed_model_files, model_file_digests
from genepool.threads import Progress

# Seconds of scoring up to which an export is verified unless told otherwise.
_AT_ONCE = 60.0


class _Unverifiable(GenepoolError):
    """What was written cannot be scored here."""


def export(
    pool: Pool | PathLike,
    member: int | str,
    directory: PathLike,
    *,
    seeds: Mapping[str, PathLike] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    advance: Progress | None = None,
    verify: bool | None = None,
    stage: Callable[[str], object] | None = None,
) -> Exported:
    """Write a member as an ordinary checkpoint directory, with `genepool.json` beside the weights.

    Args:
        pool: where it lives, opened or by its directory.
        member: id, "best" for the champion, or a seed's name.
        directory: new or empty; but see `overwrite`.
        seeds: where seeds lie now, by name, for those that have moved.
        dtype: of all merged tensors, as safetensors names it; None keeps the first seed's. What is
            written in another dtype than the first seed's was never scored, and claims no scores.
        shard_bytes: largest size of a file.
        overwrite: a checkpoint that genepool wrote in that place before is replaced, and nothing
            else; a seed of the pool is not either.
        advance: called with the fraction that is done.
        verify: whether what was written is read by the package safetensors too, loaded, scored
            again, by the guards as well, and given up if it differs from what the pool says; None
            where that can be done and takes less than a minute. A pipeline that was written draws a
            picture first, unless this is false.
        stage: called with what is done once all is written, which may take a while.

    Raises:
        InputError, PoolError: no such member.
        CheckpointError: a seed is missing or holds other tensors than when the pool was made.
        GenepoolError: what was written scores otherwise or draws nothing, or it cannot be verified
            and `verify` is true. Nothing is left at `directory`.
    """
    found: list[str | int] = []
    changed: list[str] = []
    with contextlib.nullcontext(pool) if isinstance(pool, Pool) else Pool(pool) as opened:
        number = member_number(opened, str(member))

        def check(first: Checkpoint, caveat: str, written: Path) -> None:
            changed.extend(_changed_files(opened, first))
            if verify is False:
                return
            if stage is not None:
                stage("loading and scoring what was written")
            try:
                hurry = verify is None
                scorer = _scorer(opened, written, hurry=hurry) if is_pipeline(written) else None
                if scorer is not None and isinstance(scorer.value, ImageGenerator):
                    _require_picture(scorer.value)
                if caveat:
                    raise _Unverifiable(caveat)
                found.append(_verify(opened, number, written, scorer, hurry=hurry))
            except _Unverifiable as error:
                if verify:
                    raise InputError(
                        f"{at(Path(directory))}: cannot be verified: {error}; it is written all "
                        "the same where 'verify' is not asked for"
                    ) from None
                found.append(str(error))
            except GenepoolError as error:
                if changed:
                    raise GenepoolError(". ".join((str(error), *changed))) from error
                raise

        writing = Writing(dtype, shard_bytes, overwrite)
        exported = out.export(
            opened, number, directory, writing, seeds=seeds, advance=advance, check=check
        )
    exported = replace(exported, changed=tuple(changed))
    for result in found:
        if isinstance(result, int):
            return replace(exported, verified=result)
        return replace(exported, unverified=result)
    return exported


def _changed_files(pool: Pool, first: Checkpoint) -> list[str]:
    """What to say of files beside the first seed's weights that are others than in the run."""
    if first.pipeline is not None or first.evolving:
        return []  # Other components are refused, and the rest was compared where these are.
    try:
        options, directory = model_of(pool)
        changed = changed_model_files(pool, model_file_digests(options, first, directory))
    except GenepoolError:  # The tokenizer that the run names is not there, say.
        return []
    if options.tokenizer is not None:
        # The run's tokenizer is not the first seed's, and the first seed's is written.
        changed = [name for name in changed if name in ("configuration", "generation settings")]
    return [
        f"{at(first.path)}: another {name} than when the pool was made; what is written has the "
        "one of now, with which no member was scored"
        for name in changed
    ]


def _require_picture(generator: ImageGenerator) -> None:
    """Let a pipeline that was written draw a picture.

    Raises:
        GenepoolError: it fails, or the picture holds NaN or is of one colour.
    """
    try:
        generator.pictures(["a picture"], ["genepool"])
    except EvaluationError as error:
        raise GenepoolError(f"what was written was not kept: {error}") from error


def _verify(pool: Pool, number: int, written: Path, scorer: Scorer | None, *, hurry: bool) -> int:
    """Score what was written on all that the pool has scores for; the number of examples.

    Raises:
        _Unverifiable: it cannot be scored here, or would take longer than somebody in a hurry has.
        GenepoolError: the scores differ.
    """
    record, held_out = pool.record(number), pool.held_out_scores(number)
    if record.scores is None:
        raise _Unverifiable("the pool has no scores of this member")
    known: dict[Part, NDArray[np.float32]] = {"train": record.scores}
    if held_out is not None:
        known["held-out"] = held_out
    guards = _guards(pool, number)
    size = sum(int((~np.isnan(scores)).sum()) for scores in known.values())
    size += sum(indices.size for _, indices, _ in guards)
    if hurry and record.seconds * size / max(record.asked, 1) > _AT_ONCE:
        raise _Unverifiable("it would take more than a minute; --verify does it")
    scorer = scorer or _scorer(pool, written, hurry=hurry)
    for part, scores in known.items():
        asked = np.flatnonzero(~np.isnan(scores))
        got, expected = scorer.score(asked, part), scores[asked]
        if differing := int((got != expected).sum()):
            where = f"{differing} of {count(asked.size, f'{part} example')}"
            raise _otherwise(where, float(got.mean()), float(expected.mean()))
    for name, indices, expected_mean in guards:
        mean = float(scorer.score(indices, "guard").mean(dtype=np.float64))
        if mean != expected_mean:
            raise _otherwise(f"the guard '{name}'", mean, expected_mean)
    return size


def _guards(pool: Pool, number: int) -> list[tuple[str, NDArray[np.int64], float]]:
    """The guards that a member was asked: name, int64[n] of its examples, mean score."""
    means, start = pool.guard_means().get(number, ()), 0
    found: list[tuple[str, NDArray[np.int64], float]] = []
    for guard, mean in zip(pool.guards(), means, strict=False):
        if mean is not None:
            found.append((guard.name, np.arange(start, start + guard.examples), mean))
        start += guard.examples
    return found


def _otherwise(where: str, got: float, expected: float) -> GenepoolError:
    return GenepoolError(
        f"what was written scores otherwise than the pool says on {where} ({got:.4f} on average "
        f"against {expected:.4f}), so that it was not kept. On another machine, or with other "
        "releases of torch or transformers, last bits may differ, and what a task asks may have "
        "changed; --no-verify writes it all the same"
    )


def _require_same_tensors(written: Checkpoint) -> None:
    """Read what was written with the package safetensors too, as others will, tensor by tensor.

    Raises:
        GenepoolError: it reads other tensors than genepool does.
    """
    for file in written.files:
        # Its way to numpy knows no bfloat16, and only for that is torch needed.
        wide = any(tensor.dtype == "BF16" for tensor in file.tensors.values())
        torch = wide and importlib.util.find_spec("torch") is not None
        reader: Any = safe_open(file.path, framework="pt" if torch else "numpy")
        with reader as other:
            same = {*other.keys()} == {*file.tensors} and all(
                _same(other, tensor, torch=torch) for tensor in file.tensors.values()
            )
        if not same:
            raise GenepoolError(
                f"{at(file.path)}: the package safetensors reads other tensors than were written, "
                "so that it was not kept; this is a fault of genepool"
            )


def _same(other: Any, tensor: Tensor, *, torch: bool) -> bool:
    """Whether an opened file of the package safetensors has a tensor as genepool reads it."""
    found = other.get_slice(tensor.name)
    if (found.get_dtype(), tuple(found.get_shape())) != (tensor.dtype, tensor.shape):
        return False
    if tensor.dtype != "BF16":
        value = other.get_tensor(tensor.name)
        return (value.numpy() if torch else value).tobytes() == tensor.raw.tobytes()
    value = as_float32(tensor.raw, "BF16")
    return not torch or other.get_tensor(tensor.name).float().numpy().tobytes() == value.tobytes()


def _scorer(pool: Pool, written: Path, *, hurry: bool) -> Scorer:
    """The run's tasks around a live model that holds what was written, and nothing else.

    Raises:
        _Unverifiable: it cannot be opened here, or the tasks cannot.
    """
    try:
        pinned: dict[str, str] = pool.meta()["pins"].get("components", {})
        if is_pipeline(written):
            first = open_pipeline(written, evolving(pinned))
        else:
            first = open_checkpoint(written)
            if is_single_file(first):
                first = as_single_file(first, evolving(pinned))
        family = make_family([first])
        scorer = Scorer(reopen(pool, (), family, hurry=hurry))
    except GenepoolError as error:
        raise _Unverifiable(str(error)) from error
    _require_same_tensors(first)
    scorer.load(seed_recipe(family.layout.axis.size, 0, 1))
    return scorer
