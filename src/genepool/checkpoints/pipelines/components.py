"""A pipeline and its components, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genepool.errors import CheckpointError
from genepool.messages import at, one_line

# As diffusers calls the components that turn noise into a picture; some pipelines have two.
DENOISERS = ("unet", "transformer", "transformer_2")

# Settings of a pipeline's class of which its pictures know nothing.
_NO_MATTER = ("requires_safety_checker",)

EVOLVE = "evolve"
"""What a run file or a command says of a component whose weights are merged."""


def evolving(components: Mapping[str, object]) -> tuple[str, ...]:
    """The components that are said to evolve, of what is said of each."""
    return tuple(name for name, value in components.items() if value == EVOLVE)


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a pipeline with files of its own: U-Net, text encoder, tokenizer, scheduler.

    Attributes:
        name: as the pipeline calls it; the name of its folder too.
        library: that loads it, "diffusers" or "transformers".
        class_name: in that library.
        directory: where its files lie.
        variant: of the weights, such as "fp16", that its seed was said to have; "" for none.
        fault: why it cannot be used; "" where it can, as far as is known without reading it.
    """

    name: str
    library: str
    class_name: str
    directory: Path
    variant: str = ""
    fault: str = ""

    def require(self) -> None:
        """Raise CheckpointError if it cannot be used."""
        if self.fault:
            raise CheckpointError(
                f"{at(self.directory)}: the component '{one_line(self.name)}' {self.fault}; take "
                "it from another pipeline ('components' in a run file)"
            )


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What `model_index.json` says.

    Attributes:
        class_name: of the pipeline, in diffusers.
        components: those that are there, by name; any of them may lie in another seed's directory.
        evolving: names of those whose weights are merged, at least one, in the order in which
            they run. Tensors of a checkpoint are called `COMPONENT.NAME`, and only those of these
            components belong to it.
        index: the whole content of `model_index.json`.
    """

    class_name: str
    components: Mapping[str, Component]
    evolving: tuple[str, ...]
    index: Mapping[str, Any]

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the components that are taken as they are, from one seed each."""
        return tuple(name for name in self.components if name not in self.evolving)

    @property
    def settings(self) -> dict[str, bool | int | float | str]:
        """What its class is given besides components, such as `force_zeros_for_empty_prompt`."""
        return {
            name: value
            for name, value in self.index.items()
            if isinstance(value, (bool, int, float, str))
            and not name.startswith("_")
            and name not in _NO_MATTER
        }

    def with_components(self, others: Mapping[str, Component]) -> Pipeline:
        """The same pipeline with other components under these names."""
        merged = {**self.components, **others}
        return replace(self, components=MappingProxyType(merged))
