"""A seed as a run file describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from genepool.settings import Section


class SeedOptions(Section):
    """An input checkpoint."""

    path: str = Field(
        min_length=1,
        description="safetensors file, directory as Hugging Face writes it, pipeline as diffusers "
        "writes it, LoRA adapter as peft writes it, GGUF file, or id of the Hugging Face Hub "
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
