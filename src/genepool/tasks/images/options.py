"""Options of the evaluator `images`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ImagesOptions(BaseModel):
    """Options of the evaluator `images`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: str = Field(
        description="Prompts, one an example: a .jsonl or .json file of mappings, or "
        "'module:name' of a list or of a function that returns one."
    )
    prompt: str = Field(default="prompt", description="Key of an example's prompt.")
    id: str = Field(
        default="id",
        description="Key of an example's id, from which the noise is made that its picture is "
        "drawn from; examples without ids are known by a digest of their content.",
    )
    group: str | None = Field(
        default=None,
        description="Key of the kind of an example, for strategies and reports that tell kinds of "
        "examples apart.",
    )
    filter: dict[str, list[str | int]] = Field(
        default={},
        description="Only examples whose value under each of these keys is one of those listed.",
    )
    shuffle: int | None = Field(
        default=None,
        description="Take the examples in an order that this number and their ids decide; by "
        "default as they are stored.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Select by the first so many examples only."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="Share of 'examples' held out, from the end; by default 0. Not together with "
        "'held_out_examples'.",
    )
    held_out_examples: str | None = Field(
        default=None, description="Held-out examples, given like 'examples'."
    )
    held_out_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The first so many held-out examples only."
    )
    pictures: str | None = Field(
        default=None,
        description="Where the real pictures are: a folder, or an array of an .npz file, "
        "'file.npz:array', uint8[rows, height, width, 3]. Without it the examples hold arrays.",
    )
    picture: str = Field(
        default="picture",
        description="Key of an example's real picture: the name of a file in the folder, the "
        "number of a row of the array, or an array.",
    )
    score: str = Field(
        default="reference",
        description="'reference': how alike the tower finds a picture and the real one; 'prompt': "
        "how alike it finds a picture and the prompt; or 'module:function', called as "
        "function(pictures, examples) with uint8[n, height, width, 3] and the n examples, which "
        "returns one score in [0, 1] for each. Likeness is the cosine of features, and 0 where "
        "that is negative.",
    )
    tower: str | None = Field(
        default=None,
        description="Directory, or id on the Hugging Face Hub, of a model of transformers that "
        "sees pictures (CLIP, SigLIP, DINOv2 and others). For 'prompt' it reads text too.",
    )
    device: str = Field(
        default="cpu", description="Where the tower runs, as torch writes it: 'cpu', 'cuda:0'."
    )
    resize: bool = Field(
        default=False,
        description="Whether pictures of another size than the tower's are made to fit, where no "
        "preprocessor_config.json beside it says how; they are refused otherwise.",
    )
    batch: int = Field(
        default=16,
        ge=1,
        description="Pictures are drawn and scored in fixed blocks of so many, so that scores do "
        "not depend on what else is asked.",
    )
    noise: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="'refuse': the run ends where noise or a picture of one colour scores as "
        "highly as real pictures, or as those of the best seed. 'allow' goes on.",
    )
    languages: dict[str, str] = Field(
        default={},
        description="Name of a language to the key of the prompt in it. Seeds and champion draw "
        "from each, for people to see: how alike the pictures are to what is meant, and how alike "
        "those from two languages. Nobody is selected by it.",
    )
    measured: int = Field(
        default=64,
        ge=1,
        description="Examples that each language is measured on, held-out ones if there are any.",
    )
