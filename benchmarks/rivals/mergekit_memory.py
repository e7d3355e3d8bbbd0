"""mergekit's ways of making a child in memory, timed in its own environment; see ../merge.py.

Called by merge.py with the interpreter that has mergekit: A B REPEATS. Prints one JSON object of
lists of seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from mergekit.architecture import arch_info_for_config
from mergekit.evo.genome import ModelGenome, ModelGenomeDefinition
from mergekit.graph import Executor
from mergekit.io.tasks import ReturnTensor
from mergekit.merge_methods import merge_state_dicts
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from safetensors.torch import load_file
from transformers import AutoConfig


def main(first: str, second: str, repeats: int) -> None:
    """Time both, one round more than is counted."""
    torch.set_grad_enabled(False)
    states = [load_file(Path(path) / "model.safetensors") for path in (first, second)]
    live = {name: torch.zeros_like(tensor) for name, tensor in states[0].items()}
    genome = ModelGenome(
        ModelGenomeDefinition.model_validate(
            {"models": [first, second], "merge_method": "slerp", "layer_granularity": 1}
        )
    )
    llama = AutoConfig.from_pretrained(first)
    info = arch_info_for_config(llama)
    options = MergeOptions(lazy_unpickle=True, low_cpu_memory=False)

    def state_dicts() -> None:
        merge_state_dicts(states, "slerp", parameters={"t": 0.3}, base=0)

    def evolve() -> None:
        # What mergekit.evo.actors.InMemoryMergeEvaluator.evaluate does before it evaluates.
        # Its plan_in_memory fails with new versions of pydantic, which try to build an abstract
        # class; making the same tasks unchecked is all that differs here.
        config = genome.genotype_merge_config(genome.initial_genotype(random=True))
        planner = MergePlanner(config, getattr(info, "info", info), options, llama)
        planner._plan()
        tasks = [
            ReturnTensor.model_construct(
                weight_info=info_, tensor_task=task, dtype=info_.force_dtype or config.out_dtype
            )
            for info_, task in planner._tensors
        ]
        for task, value in Executor(tasks, math_device="cpu", storage_device="cpu").run(quiet=True):
            live[task.weight_info.name].copy_(value, non_blocking=True)

    found: dict[str, list[float]] = {"merge_state_dicts": [], "mergekit_evolve": []}
    for turn in range(repeats + 1):
        for name, program in (("merge_state_dicts", state_dicts), ("mergekit_evolve", evolve)):
            start = time.perf_counter()
            program()
            if turn:
                found[name].append(time.perf_counter() - start)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
