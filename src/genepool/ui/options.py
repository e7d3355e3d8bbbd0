"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
pool_argument = click.argument("pool", type=click.Path(path_type=Path), metavar="POOL")
output_option = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory to write; new or empty.",
)
shards_option = click.option(
    "--shard-size",
    metavar="SIZE",
    default="5GB",
    show_default=True,
    help="Largest size of a weight file, in bytes or as 500MB, 2GB, 4GiB.",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["F64", "F32", "F16", "BF16"]),
    help="Type of all merged tensors.  [default: as in the first checkpoint]",
)
