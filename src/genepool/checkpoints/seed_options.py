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
        description="This is a safetensors file, a directory as Hugging Face writes it, a pipeline "
        "as diffusers writes it or one in a single file, a LoRA adapter as peft writes it, a LoRA "
        "file of an image generator with its base, a GGUF file, an id of the Hugging Face Hub "
        "(`org/name`, `org/name@revision`), or the URL of one of these (`s3://BUCKET/FOLDER`, "
        "`https://HOST/model.safetensors`; extra 'url'), which is copied into the cache once.",
    )
    name: str = Field(
        default="",
        description="The seed is called so; by default it has the name of the last part of its "
        "path.",
    )
    base: str | None = Field(
        default=None,
        description="An adapter was trained on this model, which is given as a path or an id; by "
        "default it is the one that its configuration names.",
    )
    rename: dict[str, str] = Field(
        default={}, description="A prefix of tensor names is replaced by what stands behind it."
    )
    dtype: Literal["BF16", "F16", "F32"] = Field(
        default="BF16", description="The weights of a GGUF file are unpacked to this type."
    )
    variant: str = Field(
        default="",
        pattern=r"^\w*$",
        max_length=50,
        description="Of several files of weights of a pipeline the ones with this name are taken, "
        "such as `fp16`; by default the plain ones are, or the only ones that are there.",
    )
    licence: str = Field(
        default="",
        description="The model card names this licence, written as on the hub, such as "
        "apache-2.0; by default it is the one that the seed's README.md or LICENSE file declares, "
        "and of an adapter that of its base too.",
    )
