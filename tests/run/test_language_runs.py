"""Whole runs on tiny language models: lm-eval and function tasks, early stop, worker processes."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from genepool.core.genome import recipe, seed_recipe
from genepool.errors import ConfigError, EvaluationError, PoolError
from genepool.output.member import export
from genepool.pool.reader import Pool
from genepool.pool.writer import PoolWriter
from genepool.run.evolve import evolve
from genepool.run.executors.scorer import Scorer
from genepool.run.inputs import open_inputs
from genepool.run.run_file import load_run
from tests.lms import write_lm, write_tokenizer
from tests.tasks.lm_eval.test_evaluator import sums, write_task

FUNCTION = """
def chance(model, tokenizer, examples):
    batch = tokenizer([one["text"] for one in examples], return_tensors="pt", padding=True)
    chances = model(**batch).logits[:, -1].float().softmax(-1)
    answers = tokenizer.convert_tokens_to_ids([one["answer"] for one in examples])
    return [float(row[answer]) for row, answer in zip(chances, answers)]

def speak(model, tokenizer, examples):
    batch = tokenizer([one["text"] for one in examples], return_tensors="pt", padding=True)
    said = model.generate(**batch, max_new_tokens=6, do_sample=False)
    return [float(token % 7) / 7 for token in said[:, -1]]

def score(model, tokenizer, examples):
    return [one > 1 / 20 for one in chance(model, tokenizer, examples)]
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are prepared in a directory of the test's own, and nothing is fetched."""
    import datasets

    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)


def write_run(directory: Path, function: str = "score", **changes: Any) -> Path:
    for seed in (1, 2):
        write_lm(directory / f"seed{seed}", seed, dtype="bfloat16")
    write_task(directory)
    (directory / f"task_{directory.name}.py").write_text(FUNCTION)
    lines = [json.dumps({"id": str(n), **one}) for n, one in enumerate(sums(40, 9))]
    (directory / "more.jsonl").write_text("\n".join(lines))
    config: dict[str, Any] = {
        "pool": "pool",
        "seeds": ["seed1", "seed2"],
        "tasks": [
            {"name": "sums", "evaluator": "lm-eval", "task": "sums.yaml", "batch": 4},
            {
                "name": "more",
                "evaluator": "function",
                "function": f"task_{directory.name}:{function}",
                "examples": "more.jsonl",
                "held_out": 0.25,
                "batch": 5,
                "binary": function == "score",
            },
        ],
        "strategy": {"name": "m2n2", "archive": 3, "warmup": 3},
        "budget": 26,
        **changes,
    }
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def members(pool: Path) -> list[tuple[Any, ...]]:
    with Pool(pool) as opened:
        return [
            (one.id, one.digest, one.slot, one.evicted, one.verdict == "accepted", one.train)
            for one in opened.records(accepted=True)
        ]


@pytest.mark.slow
def test_early_stop_changes_nothing(tmp_path: Path) -> None:
    file = write_run(tmp_path, early_stop=False)
    whole = evolve(file)
    write_run(tmp_path, pool="stopped")
    stopped = evolve(file)
    assert members(tmp_path / "stopped") == members(tmp_path / "pool")
    assert stopped.status["examples_evaluated"] < whole.status["examples_evaluated"]


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    evolve(write_run(tmp_path))
    evolve(write_run(tmp_path, pool="parallel", executor="process", workers=2))
    assert members(tmp_path / "parallel") == members(tmp_path / "pool")


@pytest.mark.slow
def test_the_exported_champion_scores_as_recorded(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, "chance", budget=8))
    with Pool(tmp_path / "pool") as pool:
        champion = pool.champion()
        assert champion is not None
        recorded = pool.record(champion).scores
        out = tmp_path / "champion"
        export(pool, champion, out)
    assert recorded is not None
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(str(out), dtype="auto")
    words: Any = transformers.AutoTokenizer.from_pretrained(str(out), padding_side="left")
    space: dict[str, Any] = {}
    exec(FUNCTION, space)
    examples = list(sums(40, 9))[:30]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, 30, 5):
            scores += space["chance"](model, words, examples[start : start + 5])
    assert np.array_equal(recorded[22:], np.array(scores, dtype=np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["sums", "more"])
def test_language_tasks_as_guards(tmp_path: Path, guard: str) -> None:
    file = write_run(tmp_path, "chance", budget=12)
    config = yaml.safe_load(file.read_text())
    for task in config["tasks"]:
        if task["name"] == guard:
            task |= {"guard": True, "tolerance": 0.001}
    file.write_text(yaml.safe_dump(config))
    status = evolve(file).status
    with Pool(tmp_path / "pool") as pool:
        means = pool.guard_means()
        best = max(means[0][0] or 0.0, means[1][0] or 0.0)
        for record in pool.records():
            if record.step and record.id in means:
                holds = (means[record.id][0] or 0.0) >= best - 0.001 - 1e-9
                assert record.verdict == ("accepted" if holds else "guarded")
    assert status["guarded"] > 0


@pytest.mark.slow
def test_garbage_is_judged_by_the_seeds(tmp_path: Path) -> None:
    """A child that says nothing fails; but where a seed does so too, it may."""
    file = write_run(tmp_path, "speak", budget=6)
    inputs = open_inputs(load_run(file))
    scorer = Scorer(inputs, threads=1)
    size = inputs.layout.axis.size
    mute = recipe([0, size], np.zeros((1, 2)))
    everything = np.arange(inputs.examples.size)
    fine, silent = seed_recipe(size, 0, 2), "20 are empty|5 are empty"
    scorer.load(fine)
    expected = scorer.score(everything)
    scorer.load(mute)
    with pytest.raises(EvaluationError, match=silent):
        scorer.score(everything)
    # The seeds were asked meanwhile, and the model holds the child again.
    with pytest.raises(EvaluationError, match=silent):
        scorer.score(everything)
    scorer.load(fine)
    assert np.array_equal(scorer.score(everything), expected)

    model = tmp_path / "seed2/model.safetensors"
    save_file(
        {k: torch.zeros_like(v) for k, v in load_file(model).items()}, model, {"format": "pt"}
    )
    assert evolve(file).status["evaluations"] == 6


def test_options_of_the_model_that_the_tasks_have_no_use_for(tmp_path: Path) -> None:
    file = write_run(tmp_path, model={"cache_implementation": "static"})
    config = yaml.safe_load(file.read_text())
    del config["tasks"][1]
    file.write_text(yaml.safe_dump(config))
    text = r"run.yaml, line \d+: model.cache_implementation: no task of this run lets the model gen"
    with pytest.raises(ConfigError, match=text):
        open_inputs(load_run(file))
    # Nobody knows what a function asks of a model.
    model = {"cache_implementation": "static", "torch_compile": True}
    file = write_run(tmp_path, model=model)
    assert len(open_inputs(load_run(file)).tasks) == 2
    config = yaml.safe_load(file.read_text())
    config["tasks"][1]["time_limit"] = 60
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"model.torch_compile: task 'more' has a time_limit"):
        open_inputs(load_run(file))


@pytest.mark.slow
def test_a_pool_goes_on_with_the_cache_that_it_began_with(tmp_path: Path) -> None:
    static: dict[str, Any] = {"cache_implementation": "static"}
    file = write_run(tmp_path, "speak", budget=5, model=static)
    evolve(file)
    halves = tmp_path / "halves"
    for budget in (3, 5):
        evolve(write_run(halves, "speak", budget=budget, model=static))
    assert members(halves / "pool") == members(tmp_path / "pool")
    file = write_run(tmp_path, "speak", budget=6)
    with pytest.raises(PoolError, match=r"model.cache_implementation = 'static' .now None"):
        evolve(file)


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file, and the way in which it is written."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, indent=7))


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat template": ("tokenizer_config.json", {"chat_template": "{{ messages[0] }}"}),
    "tokenizer": ("tokenizer_config.json", {"unk_token": "yes"}),
    "generation settings": ("generation_config.json", {"repetition_penalty": 1.5}),
    "configuration": ("config.json", {"rms_norm_eps": 0.01}),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", [*CHANGES, "tokenizer file"])
def test_a_pool_is_refused_to_another_tokenizer(tmp_path: Path, what: str) -> None:
    file = write_run(tmp_path, budget=2)
    evolve(file)
    for seed in ("seed1", "seed2"):
        edit(tmp_path / seed / "config.json", transformers_version="0")
    assert evolve(file, budget=3).session == 1
    for seed in ("seed1", "seed2"):
        if what in CHANGES:
            name, changes = CHANGES[what]
            edit(tmp_path / seed / name, **changes)
        else:
            words = json.loads((tmp_path / seed / "tokenizer.json").read_text())
            ids = words["model"]["vocab"]
            ids["a"], ids["b"] = ids["b"], ids["a"]
            (tmp_path / seed / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(PoolError) as caught:
        evolve(file, budget=4)
    message = str(caught.value)
    seed, name = tmp_path / "seed1", what.removesuffix(" file")
    new = f"made with no {name}, and {seed} holds one now"
    assert (new if what == "chat template" else f"another {name} than {seed} holds now") in message
    assert "\n" not in message


@pytest.mark.slow
def test_a_pool_is_refused_to_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    file = write_run(tmp_path, budget=2, model={"tokenizer": "words"})
    write_tokenizer(tmp_path / "words")
    evolve(file)
    edit(tmp_path / "seed1/tokenizer_config.json", unk_token="yes")
    edit(tmp_path / "seed2/tokenizer_config.json", unk_token="yes")
    assert evolve(file, budget=3).session == 1
    write_tokenizer(tmp_path / "words", "{{ messages }}")
    with pytest.raises(PoolError, match=f"no chat template, and {tmp_path / 'words'} holds one"):
        evolve(file, budget=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen.tiktoken", "words.spm", "tekken.json"])
def test_rare_files_of_tokens_are_pinned_too(name: str, tmp_path: Path) -> None:
    file, words = write_run(tmp_path, budget=1), tmp_path / "seed1" / name
    words.write_text('{"a": 1}')
    evolve(file)
    with closing(PoolWriter(tmp_path / "pool")) as pool:
        pins = pool.meta()["pins"]
        digest = pins["companions"].pop("tokenizer's further files")
        pool.set_meta("pins", pins)
    # As a pool of an older release, which does not say what it was.
    assert evolve(file, budget=2).session == 1
    with closing(PoolWriter(tmp_path / "pool")) as pool:
        pins["companions"]["tokenizer's further files"] = digest
        pool.set_meta("pins", pins)
    words.write_text('{"a": 2}')
    with pytest.raises(
        PoolError, match=r"another tokenizer's further files than .*seed1 holds now"
    ):
        evolve(file, budget=3)
    words.unlink()
    with pytest.raises(
        PoolError, match=r"the tokenizer's further files that .*seed1 holds no longer"
    ):
        evolve(file, budget=3)


@pytest.mark.slow
def test_a_pool_from_before_the_tokenizer_was_pinned_goes_on(tmp_path: Path) -> None:
    file = write_run(tmp_path, budget=2)
    evolve(file)
    with closing(PoolWriter(tmp_path / "pool")) as pool:
        pins = pool.meta()["pins"]
        assert set(pins.pop("companions")) == {"configuration", "generation settings", "tokenizer"}
        pool.set_meta("pins", pins)
    assert evolve(file, budget=3).session == 1
