"""The settings of a run file: default, range, help and type of each stand on its field here.

The command line, the schema and docs/run-file.md are made from them. A strategy, an evaluator, a
seed and the live model have their own options where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from genepool.checkpoints.naming import told_apart
from genepool.checkpoints.pipelines.components import EVOLVE
from genepool.checkpoints.seed_options import Chromosomes, SeedOptions
from genepool.models.build import ModelOptions
from genepool.settings import Section


class StrategyEntry(BaseModel):
    """A strategy: its name; its own options stand beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(default="m2n2", description="This strategy makes the children.")


class TaskOptions(BaseModel):
    """A task: what every evaluator shares; its own options stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(min_length=1, description="The task is called so.")
    evaluator: str = Field(description="This evaluator scores it.")
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="The task weighs so much; by default all weigh equally, of whatever size.",
    )
    guard: bool = Field(
        default=False,
        description="Nobody competes for this task, but a child whose mean score on it falls "
        "below the best seed's, less 'tolerance', is not admitted.",
    )
    tolerance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="On a guard a child's mean score may fall so far below the best seed's.",
    )


_Amount = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class RayEnvironment(Section):
    """What Ray prepares for a worker before it starts: a part of its `runtime_env`."""

    env_vars: dict[str, str] = Field(
        default={}, description="These environment variables are set in every worker."
    )
    pip: list[str] = Field(
        default=[], description="These packages are installed on each node for the workers, by pip."
    )
    conda: str | None = Field(
        default=None,
        description="This conda environment of each node is the one that workers run in.",
    )
    py_modules: list[str] = Field(
        default=[],
        description="These folders with Python code are copied to each node, where workers can "
        "import what is in them. A relative path starts from the run file's folder.",
    )


class RayOptions(Section):
    """Where the executor 'ray' finds its workers, and what each of them needs."""

    address: str = Field(
        default="auto",
        min_length=1,
        description="The Ray cluster is found here: 'auto' is the one that this machine is a node "
        "of (or that RAY_ADDRESS names), HOST:PORT that of a head node. This machine must be a "
        "node of it.",
    )
    cpus: _Amount = Field(default=1, description="A worker needs so many CPUs of its node.")
    gpus: _Amount = Field(
        default=0,
        description="A worker needs so many GPUs of its node; with 0.25, four workers share one.",
    )
    custom: dict[str, _Amount] = Field(
        default={},
        description="A worker needs so much of what nodes were started with under these names.",
    )
    environment: RayEnvironment = Field(
        default=RayEnvironment(), description="Ray prepares this before a worker starts."
    )
    wait: _Amount = Field(
        default=60,
        description="The run ends if no worker has found a place in the cluster for so many "
        "seconds. Where nodes are started on demand, that takes minutes.",
    )

    @field_validator("cpus", "gpus")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("more than 1 must be a whole number")
        return value


class RunConfig(Section):
    """A run file."""

    pool: str = Field(min_length=1, description="The population lives in this directory.")
    seeds: list[str | SeedOptions] = Field(
        min_length=1, description="The run starts from these checkpoints."
    )
    partial: bool = Field(
        default=False,
        description="The seeds may share only part of their tensors: what all hold under one name "
        "and in one shape evolves, and all else comes from the first seed.",
    )
    vocabulary: Literal["same", "common"] = Field(
        default="same",
        description="With 'same', seeds whose tokenizers differ are refused; with 'common', the "
        "rows of the tokens that are the same in all seeds, from id 0 on, are merged, and the "
        "further rows come from the first seed.",
    )
    tasks: list[TaskOptions] = Field(min_length=1, description="Members are scored on these.")
    strategy: StrategyEntry = Field(
        default=StrategyEntry(),
        description="It says how children are made and which survive; a name alone stands for the "
        "strategy with its defaults.",
    )
    model: ModelOptions = Field(default=ModelOptions(), description="Children live in this model.")
    components: dict[str, str] = Field(
        default={},
        description="A component of a pipeline that is named here evolves ('evolve'), or comes as "
        "it is from the seed whose name stands behind it. The denoiser (U-Net or transformer) "
        "evolves unless others are named that do; what is not named comes from the first seed.",
    )
    chromosomes: Chromosomes = Field(
        default={},
        description="A name stands for the tensors that fit the patterns behind it, and these have "
        "split points of their own; the word `attention` stands for all attention layers and "
        "everything else. A pattern is one of file names (`*.mlp.*`), or after `re:` a regular "
        "expression for a whole name; look-around and back-references in it need the package "
        "regex, which transformers brings. What fits several goes to the first.",
    )
    budget: int = Field(default=1000, ge=0, le=10**9, description="So many children are scored.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="The random seed decides all draws.")
    in_flight: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = Field(
        default=1,
        description="So many children are proposed before the oldest is absorbed; the paper has 1. "
        "With 'auto' there are twice as many as workers (1 for one worker; with the executor 'ray' "
        "the number of 'workers' must be given), or as many as the strategy allows; the pool keeps "
        "the number that it began with.",
    )
    early_stop: bool = Field(
        default=True,
        description="A child is scored no further once its rejection is certain (lossless), with "
        "the strategies m2n2, ga, sweep and random; the others ask all examples.",
    )
    track_held_out: bool = Field(
        default=False, description="Every new champion is also scored on the held-out examples."
    )
    changed_scores: Literal["stop", "tell"] = Field(
        default="stop",
        description="When a run goes on, a block of each task's examples is scored again by a "
        "seed. If the scores are not what the pool holds, because a function, a server or what "
        "computes has changed, the run stops; with 'tell' it says so and goes on. With 'stop' a "
        "run also ends at a worker that does not score such blocks as the others do, and at a task "
        "whose scores do not repeat because it draws random numbers that all code shares, or its "
        "environment does not repeat itself.",
    )
    executor: Literal["serial", "process", "ray"] = Field(
        default="serial",
        description="Children are scored in this process, one at a time, in worker processes on "
        "this machine, or by workers on the nodes of a Ray cluster.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="There are so many workers; 0 means as many as cores, or as fit into the Ray "
        "cluster, at most 'in_flight'; that is 1 by default, and several workers need more, or "
        "'auto'. Where 'devices' are named, it is the number for each of them, and 0 means 1.",
    )
    devices: Annotated[list[str], Field(min_length=1)] | Literal["auto"] | None = Field(
        default=None,
        description="Each worker of the executor 'process' has one of these devices for its model "
        "and its copy of the seeds, in place of 'model.device', and they must be of that kind: "
        "[cuda:0, cuda:1]. With 'auto' they are all that the machine has of it.",
    )
    ray: RayOptions = Field(
        default=RayOptions(), description="These options are for the executor 'ray'."
    )

    @property
    def width(self) -> int:
        """Number W of children in flight, of a run in which `settled` has replaced 'auto'."""
        if self.in_flight == "auto":
            raise RuntimeError("in_flight is still 'auto'")
        return self.in_flight

    @property
    def whole(self) -> dict[str, str]:
        """Component -> the name of the seed that it is taken from as it is."""
        return {name: value for name, value in self.components.items() if value != EVOLVE}

    @property
    def contested(self) -> list[TaskOptions]:
        """The tasks that members compete for, in order; at least one."""
        return [task for task in self.tasks if not task.guard]

    @property
    def guards(self) -> list[TaskOptions]:
        """The guard tasks, in order."""
        return [task for task in self.tasks if task.guard]

    @property
    def named_seeds(self) -> tuple[SeedOptions, ...]:
        """The seeds with their names filled in; equal names get a number."""
        seeds = [SeedOptions(path=each) if isinstance(each, str) else each for each in self.seeds]
        names = [
            seed.name or Path(seed.path).name.removesuffix(".safetensors") or seed.path
            for seed in seeds
        ]
        return tuple(
            seed.model_copy(update={"name": name})
            for seed, name in zip(seeds, told_apart(names), strict=True)
        )
