"""Seeds and their chromosomes as a run file describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from genepool.checkpoints.layout import PRESETS
from genepool.messages import some
from genepool.settings import Section


def _preset(value: Any) -> Any:
    """The chromosomes that a word stands for."""
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        text = f"expected a mapping, or the word {some(PRESETS)}"
        raise PydanticCustomError("preset", "{text}", {"text": text})
    return dict(PRESETS[value])


Chromosomes = Annotated[dict[str, list[str]], BeforeValidator(_preset)]


class SeedOptions(Section):
    """An input checkpoint."""

    path: str = Field(
        min_length=1,
        description="safetensors file, directory as Hugging Face writes it, pipeline as diffusers "
        "writes it, LoRA adapter as peft writes it, LoRA file of an image generator with its base, "
        "GGUF file, or id of the Hugging Face Hub "
        "(`org/name`, `org/name@revision`)",
    )
    name: str = Field(default="", description="what to call it; default: the last part of the path")
    base: str | None = Field(
        default=None,
        description="of an adapter: the model it was trained on, path or id; default: the one that "
        "its configuration names",
    )
    rename: dict[str, str] = Field(
        default={}, description="prefix of tensor names -> what to put in its place"
    )
    dtype: Literal["BF16", "F16", "F32"] = Field(
        default="BF16", description="of a GGUF file: the type of its unpacked weights"
    )
    variant: str = Field(
        default="",
        pattern=r"^\w*$",
        max_length=50,
        description="of a pipeline: which of several files of weights, such as `fp16`; default: "
        "the plain ones, or the only ones that are there",
    )
    licence: str = Field(
        default="",
        description="as the hub writes it, such as apache-2.0, for the model card; default: what "
        "the seed's README.md or LICENSE file declares",
    )
