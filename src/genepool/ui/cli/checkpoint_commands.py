"""The commands that write checkpoints: export, rebuild, merge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from genepool.messages import count
from genepool.ui.cli.options import (
    Whole,
    dtype_option,
    json_option,
    moved_option,
    named_places,
    named_values,
    output_option,
    overwrite_option,
    pool_argument,
    shards_option,
)

if TYPE_CHECKING:
    from genepool.output.write.model import Exported


# Before click 8.4 it takes no type.
class _MethodName(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """The name of a method of merging by hand; `specify` refuses others."""

    name = "method"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        from genepool.output.methods.registry import METHODS

        return f"[{'|'.join(METHODS)}]"


@click.command()
@pool_argument
@click.argument("member", default="best")
@output_option
@overwrite_option
@moved_option
@dtype_option
@shards_option
@click.option(
    "--verify/--no-verify",
    default=None,
    help="What was written is loaded and scored again, and refused if it differs from the pool. "
    " [default: where that takes less than a minute]",
)
@json_option
def export(
    pool: Path,
    member: str,
    output: Path,
    overwrite: bool,
    moved: tuple[str, ...],
    dtype: str | None,
    shard_size: str,
    verify: bool | None,
    as_json: bool,
) -> None:
    """Write a member as an ordinary checkpoint directory.

    MEMBER is its number, `best` for the champion (which is the default), or the name of a seed. A
    model card and a file genepool.json, which `genepool rebuild` reads, tell what it was made from.
    """
    from genepool.pool.members import member_number
    from genepool.pool.reader import Pool
    from genepool.run.finished.verify import export
    from genepool.ui.terminal.progress import watcher

    seeds, shard_bytes = named_places(moved), _bytes(shard_size)
    with Pool(pool) as opened, watcher() as progress:
        number = member_number(opened, member)
        progress.stage(f"writing member {number}")
        written = export(
            opened,
            number,
            output,
            seeds=seeds,
            dtype=dtype,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            advance=progress.advance,
            verify=verify,
            stage=progress.stage,
        )
        seeds_there = opened.seeds()
        if number < len(seeds_there) and member == "best":
            name = seeds_there[number].name
            progress.notice(f"the champion is a seed: this is {name} as it is")
        for notice in written.changed:
            progress.notice(notice)
    _report_checkpoint(written, as_json)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE.json")
@click.argument("more", nargs=-1, metavar="NAME=PATH")
@click.option(
    "--moved",
    "--seeds",
    "places",
    multiple=True,
    metavar="NAME=PATH",
    help="The seed NAME of the recipe lies at PATH; more of them may follow, with or without "
    "the option's name.",
)
@output_option
@overwrite_option
@shards_option
@json_option
def rebuild(
    recipe: Path,
    more: tuple[str, ...],
    places: tuple[str, ...],
    output: Path,
    overwrite: bool,
    shard_size: str,
    as_json: bool,
) -> None:
    """Make a checkpoint again from its recipe, bit for bit.

    It takes the same seeds. RECIPE.json is the genepool.json of an exported or merged checkpoint;
    its directory, or one of its weight files, will do too. NAME=PATH, as often as there are seeds,
    says where they lie.
    """
    from genepool.output.rebuild import rebuild
    from genepool.ui.terminal.progress import watcher

    seeds, shard_bytes = named_places((*places, *more)), _bytes(shard_size)
    with watcher() as progress:
        progress.stage("rebuilding")
        written = rebuild(
            recipe,
            output,
            seeds=seeds,
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            advance=progress.advance,
        )
        for notice in written.changed:
            progress.notice(notice)
    _report_checkpoint(written, as_json)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="A B...")
@output_option
@overwrite_option
@click.option(
    "--method",
    type=_MethodName(),
    default="slerp",
    show_default=True,
    help="The method slerp takes A and B; all others take any number of models, and all but "
    "linear a base.",
)
@click.option(
    "--ratio",
    "ratios",
    multiple=True,
    metavar="R",
    help="It is required for slerp: left of the split point 0 gives A and 1 gives B; right of "
    "it 1 - R holds. R1,R2,... go along the layers, from first to last; TEXT=R or "
    "TEXT=R1,R2,... is for tensors whose name contains TEXT, and may be repeated (the "
    "first that fits holds).",
)
@click.option(
    "--split",
    metavar="S",
    help="The split point is a fraction of the parameter axis, or the name of the first tensor "
    "right of it; 1 merges everything at R.  [default: 1]",
)
@click.option(
    "--angle",
    type=click.Choice(["global", "side", "tensor"]),
    help="The SLERP angle is taken over the whole parameter axis, each side, or each tensor.  "
    "[default: global]",
)
@click.option(
    "--base",
    metavar="MODEL",
    help="The models were trained from this one; all methods but slerp and linear need it.",
)
@click.option(
    "--weight",
    "weights",
    type=float,
    multiple=True,
    metavar="W",
    help="A model has this weight; give one for each, in their order.  [default: 1 each]",
)
@click.option(
    "--density",
    "densities",
    type=float,
    multiple=True,
    metavar="D",
    help="The methods ties and dare keep this share of what training changed; give one for all "
    "models, or one for each in their order.  [default: 0.5]",
)
@click.option(
    "--seed",
    type=Whole(0, 2**63 - 1),
    metavar="S",
    help="The random seed decides what dare keeps, and which of equal changes ties keeps.  "
    "[default: 0]",
)
@click.option(
    "--normalise/--no-normalise",
    default=None,
    help="The merge is divided by the sum of the weights.  [default: for linear and ties]",
)
@click.option(
    "--scale",
    type=float,
    metavar="L",
    help="The merged change is multiplied by this factor before it is added to the base.  "
    "[default: 1]",
)
@click.option(
    "--adapter-base",
    metavar="MODEL",
    help="The adapters among the models were trained on this base.  [default: as the adapter says]",
)
@click.option(
    "--partial",
    is_flag=True,
    help="What all models share is merged, and the rest is taken from A.",
)
@click.option(
    "--vocabulary",
    type=click.Choice(["same", "common"]),
    default="same",
    show_default=True,
    help="Where tokenizers differ, the models are refused, or the rows of the tokens that are "
    "the same are merged.",
)
@click.option(
    "--rename",
    "prefixes",
    multiple=True,
    metavar="OLD=NEW",
    help="Tensor names that begin with OLD begin with NEW instead, in each of the other models and "
    "the base if more of its tensors are then called as A's are; the option may be repeated.",
)
@click.option(
    "--component",
    "parts",
    multiple=True,
    metavar="NAME=FROM",
    help="For a component of a pipeline, FROM is 'evolve' if it is merged (the denoiser is, if "
    "none is named), or what it is taken from as it is: the name or path of a model, or "
    "another pipeline. The option may be repeated.  [default: the first model]",
)
@dtype_option
@shards_option
@json_option
@click.pass_context
def merge(
    context: click.Context,
    models: tuple[str, ...],
    output: Path,
    overwrite: bool,
    method: str,
    ratios: tuple[str, ...],
    split: str | None,
    angle: Any,
    base: str | None,
    weights: tuple[float, ...],
    densities: tuple[float, ...],
    seed: int | None,
    normalise: bool | None,
    scale: float | None,
    adapter_base: str | None,
    partial: bool,
    vocabulary: Any,
    prefixes: tuple[str, ...],
    parts: tuple[str, ...],
    dtype: str | None,
    shard_size: str,
    as_json: bool,
) -> None:
    """Merge checkpoints once, by hand.

    Each of A B... is a safetensors file, a directory as Hugging Face writes it, a pipeline as
    diffusers writes it, a LoRA adapter as peft writes it, a GGUF file, an id of the Hugging Face
    Hub, or a URL (s3://BUCKET/FOLDER). The result has A's configuration and tokenizer.

    A configuration of mergekit (CONFIG.yaml) may stand for the models. What it says is done, or
    refused; options that are given besides come before it.
    """
    from genepool.errors import InputError
    from genepool.output.by_hand import Opening, merge_models
    from genepool.output.mergekit import read_config
    from genepool.output.methods.registry import specify
    from genepool.output.methods.specification import Options
    from genepool.output.write.weights import Writing
    from genepool.ui.terminal.progress import watcher

    if (command := read_config(models)) is not None:
        command.require_layers()
        with watcher() as progress:
            progress.notice(
                f"what {models[0]} says is: {'; '.join((f'{command}', *command.but()))}"
            )
        own = {
            name: value
            for name, value in context.params.items()
            if name != "models" and context.get_parameter_source(name) != ParameterSource.DEFAULT
        }
        with merge.make_context("merge", [*command.arguments, "-o", str(output)]) as said:
            context.invoke(merge, **{**said.params, **own})
        return
    options = Options(
        ratio=_ratio(ratios),
        split=_split(split),
        angle=angle,
        base=base,
        weights=weights or None,
        density=densities or None,
        seed=seed,
        normalise=normalise,
        scale=scale,
    )
    try:
        specification = specify(method, options, len(models))
    except InputError as error:
        raise click.UsageError(str(error)) from None
    components = named_values("--component", parts, "NAME=FROM, as vae=PATH", "component")
    rename = dict(_renamed(entry) for entry in prefixes)
    opening = Opening(partial, vocabulary, adapter_base, components, rename)
    writing = Writing(dtype, _bytes(shard_size), overwrite)
    given = [*models] if base is None else [*models, base]
    with watcher() as progress:
        progress.stage("merging")
        written = merge_models(given, specification, opening, output, writing, progress.advance)
        for notice in written.notices:
            progress.notice(notice)
    _report_checkpoint(written, as_json)


def _ratio(entries: Sequence[str]) -> float | list[float] | dict[str, float | list[float]] | None:
    """A ratio for `Options`, from entries R, R1,R2,..., TEXT=R and TEXT=R1,R2,..."""
    if not entries:
        return None
    found: dict[str, float | list[float]] = {}
    for entry in entries:
        text, _, values = entry.rpartition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            raise click.UsageError(
                "--ratio: expected a number (0.4), numbers along the layers (0,0.5,1), or those "
                f"of a part (mlp=0.4); got '{entry}'"
            ) from None
        if text in found:
            where = f"for '{text}'" if text else "for all tensors"
            raise click.UsageError(f"--ratio: there is more than one {where}")
        found[text] = numbers[0] if len(numbers) == 1 else numbers
    # What is for all is what is left over, wherever it was given.
    if "" in found:
        found[""] = found.pop("")
    return found[""] if [*found] == [""] else found


def _split(text: str | None) -> float | str | None:
    try:
        split = None if text is None else float(text)
    except ValueError:
        return text
    if split is not None and not 0 <= split <= 1:
        raise click.UsageError(
            f"--split: expected a fraction of the parameter axis in [0, 1]; got '{text}'"
        )
    return split


def _bytes(text: str) -> int:
    """A size such as 500MB, 2GB (powers of ten), 4GiB (of two), or a number of bytes."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    size = 0
    if found is not None:
        power = " kmgt".index(found[2] or " ")
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if size < 1:
        raise click.UsageError(f"--shard-size: expected a size such as 500MB or 2GB; got '{text}'")
    return size


def _renamed(entry: str) -> tuple[str, str]:
    old, equals, new = entry.partition("=")
    if not equals:
        raise click.UsageError(f"--rename: expected OLD=NEW; got '{entry}'")
    return old, new


def _report_checkpoint(written: Exported, as_json: bool) -> None:
    from genepool.ui.terminal.console import console, print_json

    if as_json:
        found: dict[str, Any] = {"directory": str(written.directory), **written.details}
        if written.verified or written.unverified:
            found |= {"verified": written.verified, "unverified": written.unverified}
        print_json(found)
        return
    out = console()
    out.print(f"wrote {written.directory} (genome {written.genome})")
    if written.verified:
        scored = count(written.verified, "example")
        out.print(f"loaded it and scored it on {scored}: as the pool says")
    if written.unverified:
        out.print(f"not scored again: {written.unverified}", markup=False)


COMMANDS = (export, rebuild, merge)
