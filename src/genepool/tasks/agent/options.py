"""Options of the evaluator `agent`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from genepool.settings import Section


class AgentOptions(Section):
    """Options of the evaluator `agent`."""

    environment: str = Field(
        description="The environment has this name: agentgym, openenv, gymnasium, textworld, or "
        "what another package adds; a 'module:Class' of yours is one too."
    )
    settings: dict[str, Any] = Field(
        default={},
        description="The environment has options of its own, which are given here.",
    )
    split: str = Field(
        default="train", description="The selection examples are tasks of this split."
    )
    ids: list[str] | None = Field(
        default=None, description="Only these tasks of the split count, in this order."
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Members are selected by the first so many tasks only."
    )
    held_out_split: str | None = Field(
        default=None, description="The tasks of this other split are held out."
    )
    held_out_limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Only the first so many held-out tasks are played."
    )
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=7, description="An episode ends after so many actions, if it has not ended before."
    )
    score: Literal["final", "sum", "max"] = Field(
        default="final",
        description="The score comes from the reward of the last action ('final'), from the sum of "
        "all rewards, or from the highest one.",
    )
    scale: list[float] = Field(
        default=[0.0, 1.0],
        description="Of [lo, hi], a reward (or sum) of lo scores 0 and one of hi scores 1. What "
        "lies outside ends the run, since the scale is wrong then.",
    )
    policy: str = Field(
        default="generate",
        description="With 'generate' the model writes its reply, and what follows the last "
        "'Action:' in it is the action; with 'choose' it takes the admissible action that it finds "
        "likeliest, by the mean log-likelihood of the tokens; a 'module:function' of yours is "
        "called as function(model, tokenizer, asked), or function(model, asked) for models of "
        "other kinds, and returns an action for each of `asked`.",
    )
    instructions: str | None = Field(
        default=None,
        description="What the agent is told before each episode is in this text file; by default "
        "the environment says it.",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=128, description="A reply that is generated has at most so many tokens."
    )
    context: Annotated[int, Field(ge=16)] = Field(
        default=4096,
        description="An episode ends when its text, with room for a reply, has more tokens.",
    )
    leave_out: list[str] = Field(
        default=[],
        description="Actions that match one of these patterns are never chosen ('examine *', "
        "'click[Back *]'); * stands for any text and ? for any character.",
    )
    repeat: bool = Field(
        default=True,
        description="Whether an action may be chosen again that was taken before in the episode.",
    )
    batch: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=16,
        description="So many episodes are always played together, turn by turn, each in a session "
        "of its own, so that scores do not depend on what else is asked.",
    )
    patience: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=300.0,
        description="An environment that does not answer is tried again for so many seconds, more "
        "and more seldom; then the run stops, and nothing is lost.",
    )
    measured: Annotated[int, Field(ge=0)] = Field(
        default=32,
        description="Seeds and champion play so many episodes besides, held-out ones if there are "
        "any: how many were solved, how long they took, how many were cut off. Nobody is selected "
        "by it.",
    )
