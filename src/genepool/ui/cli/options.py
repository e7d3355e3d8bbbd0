"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Whole(click.IntRange):
    """A whole number in a range, which messages call so."""

    name = "whole number"


def budget_option(text: str) -> Callable[[Command], Command]:
    """The option `--budget N`, with its help."""
    return click.option("--budget", type=Whole(0, 10**9), metavar="N", help=text)


class _DTypeName(click.Choice[str]):
    """A dtype as safetensors names it, or as torch and others do, in either case."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        from genepool.checkpoints.files.dtypes import floating_named

        return floating_named(str(choice)) or str(choice)


json_option = click.option("--json", "as_json", is_flag=True, help="The result is printed as JSON.")
moved_option = click.option(
    "--moved",
    multiple=True,
    metavar="NAME=PATH",
    help="The seed NAME lies at PATH now, if it has moved; the option may be repeated.",
)
pool_argument = click.argument("pool", type=click.Path(path_type=Path), metavar="POOL")


def output_to(
    where: str, metavar: str = "DIR", *, required: bool = True
) -> Callable[[Command], Command]:
    """The option -o, whose help says where the result goes."""
    return click.option(
        "-o",
        "--output",
        required=required,
        type=click.Path(path_type=Path),
        metavar=metavar,
        help=where,
    )


output_option = output_to("The result is written to this directory, which must be new or empty.")
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="A checkpoint that genepool wrote to that directory before is replaced; whatever else "
    "there is is kept, and refused.",
)
shards_option = click.option(
    "--shard-size",
    metavar="SIZE",
    default="5GB",
    show_default=True,
    help="A weight file is at most so large, in bytes or as 500MB, 2GB, 4GiB.",
)
seed_option = click.option(
    "--seed",
    type=Whole(0, 2**63 - 1),
    metavar="S",
    default=0,
    show_default=True,
    help="The random seed decides all that is drawn.",
)
dtype_option = click.option(
    "--dtype",
    type=_DTypeName(["F64", "F32", "F16", "BF16"]),
    help="All merged tensors have this type; it may also be written as float32, fp16, bfloat16 "
    "and so on.  [default: as in the first checkpoint]",
)


def named_values(option: str, entries: Sequence[str], form: str, what: str) -> dict[str, str]:
    """Name -> value of an option that is repeated.

    Args:
        option: as it is typed.
        entries: what was typed behind it.
        form: that each entry must have, such as "NAME=PATH".
        what: the name is one of.
    """
    out: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not (name and equals and value):
            raise click.UsageError(f"{option}: expected {form}; got '{entry}'")
        if name in out:
            raise click.UsageError(f"{option}: the {what} '{name}' is given twice")
        out[name] = value
    return out


def named_places(entries: Sequence[str]) -> dict[str, str]:
    """Where seeds lie, from entries NAME=PATH of `--moved`."""
    return named_values("--moved", entries, "NAME=PATH", "seed")
