"""How examples are divided into those for selection and held-out ones."""

from __future__ import annotations

import math

from genepool.errors import ConfigError


def train_size(size: int, held_out: float) -> int:
    """How many of `size` examples stay for selection: int(size * (1 - held_out)).

    Raises:
        ConfigError: none would stay.
    """
    # A little more than 0, so that 10 examples less a share of 0.9 leave 1 in spite of rounding.
    n = math.floor(size * (1 - held_out) + 1e-9)
    if n < 1:
        raise ConfigError(
            f"held_out: a share of {held_out} of {size} examples leaves none to select by"
        )
    return n
