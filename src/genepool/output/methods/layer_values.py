"""A number for each tensor, from values along the layers and for parts of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from genepool.checkpoints.depth import depth_key, layer_of
from genepool.errors import InputError
from genepool.messages import some

Values = float | Sequence[float]


def along_layers(names: Sequence[str], values: Mapping[str, Values]) -> list[float]:
    """What holds for each tensor.

    Several values stand at equal distances from the first layer to the last, and between them it
    goes in straight lines. Layers are counted as the names do, each stack (encoder, decoder) by
    itself; where there is one layer the last value holds. Outside of layers it is as in mergekit
    before 0.1: the first for what lies before them (embeddings), the last for final norm and head.

    Args:
        names: of the tensors.
        values: text to a number or numbers; of the texts that a name contains, the first decides.

    Raises:
        InputError: a tensor that no text fits, a text that decides for none, or no numbers.
    """
    if empty := [text for text, given in values.items() if not np.size(given)]:
        raise InputError(f"expected one value or more for {some(empty)}; got none")
    last: dict[str, int] = {}
    for name in names:
        if layer := layer_of(name):
            last[layer[0]] = max(last.get(layer[0], 0), layer[1])
    chosen = [next((text for text in values if text in name), None) for name in names]
    if lacking := [name for name, text in zip(names, chosen, strict=True) if text is None]:
        raise InputError(
            f"there is no value for {some(lacking)}; one without a text holds for all others"
        )
    if idle := [text for text in values if text and text not in chosen]:
        raise InputError(
            f"no tensor's value comes from {some(idle)}: it is in no name, or what is before it "
            f"fits them all; tensors are called like {some(names)}"
        )
    return [
        _between(values[text or ""], _depth(name, last))
        for name, text in zip(names, chosen, strict=True)
    ]


def _depth(name: str, last: Mapping[str, int]) -> float:
    layer = layer_of(name)
    if layer is None:
        # Of a pipeline, a name begins with the component.
        (stage, _, norm, *_), inside = depth_key(name), depth_key(name.partition(".")[2])
        return float(stage == 2 or norm == 1 or (stage == 1 and inside[0] == 2))
    stack, number = layer
    return number / last[stack] if last[stack] else 1.0


def _between(values: Values, depth: float) -> float:
    points = [values] if isinstance(values, int | float) else list(values)
    place = depth * (len(points) - 1)
    low = min(int(place), len(points) - 1)
    high = min(low + 1, len(points) - 1)
    return (1.0 - (place - low)) * points[low] + (place - low) * points[high]
