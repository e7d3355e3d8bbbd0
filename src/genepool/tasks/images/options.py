"""Options of the evaluator `images`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from genepool.settings import Section


class ImagesOptions(Section):
    """Options of the evaluator `images`."""

    examples: str = Field(
        description="The examples, which hold a prompt each, are in this .jsonl or .json file of "
        "mappings, or 'module:name' is a list of them or a function that returns one."
    )
    prompt: str = Field(default="prompt", description="An example's prompt has this key.")
    id: str = Field(
        default="id",
        description="An example's id has this key; the noise is made from it that the picture is "
        "drawn from. Examples without ids are known by a digest of their content.",
    )
    group: str | None = Field(
        default=None,
        description="The kind of an example has this key, for strategies and reports that tell "
        "kinds of examples apart.",
    )
    filter: dict[str, list[str | int]] = Field(
        default={},
        description="Only examples count whose value under each of these keys is one of those "
        "listed.",
    )
    shuffle: int | None = Field(
        default=None,
        description="This number and the ids of the examples decide in which order they are "
        "taken; by default it is the order in which they are stored.",
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Members are selected by the first so many examples only."
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="This share of 'examples' is held out, from the end; by default it is 0. It "
        "cannot be given together with 'held_out_examples'.",
    )
    held_out_examples: str | None = Field(
        default=None, description="The held-out examples are given like 'examples'."
    )
    held_out_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Only the first so many held-out examples are scored."
    )
    pictures: str | None = Field(
        default=None,
        description="The real pictures are in this folder, or in an array of an .npz file, "
        "'file.npz:array', uint8[rows, height, width, 3]. Without it the examples hold arrays.",
    )
    picture: str = Field(
        default="picture",
        description="An example's real picture has this key; it is the name of a file in the "
        "folder, the number of a row of the array, or an array.",
    )
    score: str = Field(
        default="reference",
        description="With 'reference' the score is how alike the tower finds a picture and the "
        "real one; with 'prompt' how alike it finds a picture and the prompt; a 'module:function' "
        "is called as function(pictures, examples) with uint8[n, height, width, 3] and the n "
        "examples, and returns one score in [0, 1] for each. Likeness is the cosine of features, "
        "and 0 where that is negative.",
    )
    tower: str | None = Field(
        default=None,
        description="The tower is a model of transformers that sees pictures (CLIP, SigLIP, DINOv2 "
        "and others), given by its directory or its id on the Hugging Face Hub. For 'prompt' it "
        "reads text too.",
    )
    device: str = Field(
        default="cpu",
        description="The tower runs here; it is written as in torch: 'cpu', 'cuda:0'.",
    )
    resize: bool = Field(
        default=False,
        description="Pictures of another size than the tower's are made to fit, where no "
        "preprocessor_config.json beside it says how; without it they are refused.",
    )
    batch: int = Field(
        default=16,
        ge=1,
        description="Pictures are drawn and scored in fixed blocks of so many, so that scores do "
        "not depend on what else is asked.",
    )
    noise: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="With 'refuse' the run ends where noise or a picture of one colour scores as "
        "highly as real pictures, or as those of the best seed; with 'allow' it goes on.",
    )
    languages: dict[str, str] = Field(
        default={},
        description="Behind the name of a language stands the key of the prompt in it. Seeds and "
        "champion draw from each, and people see how alike the pictures are to what is meant, and "
        "how alike those from two languages are. Nobody is selected by it.",
    )
    measured: int = Field(
        default=64,
        ge=1,
        description="Each language is measured on so many examples, held-out ones if there are "
        "any.",
    )
