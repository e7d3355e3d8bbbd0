"""The evaluator lm-eval, on local task files and tiny live models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.layout import build_layout
from genepool.core.genome import Recipe
from genepool.errors import ConfigError, EvaluationError, InputError
from genepool.models.build import ModelOptions, build_model
from genepool.models.language import LanguageModel
from genepool.tasks.lm_eval.evaluator import LmEval, LmEvalOptions
from genepool.testing.tasks import check_task
from tests.lms import write_lm
from tests.quick import quick

TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }} ? {{ message['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}a ? {% endif %}"
)


def sums(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    draws = np.random.default_rng(seed)
    for _ in range(count):
        numbers = draws.integers(0, 10, size=int(draws.integers(2, 6)))
        total = int(numbers.sum() % 10)
        yield {
            "text": " + ".join(map(str, numbers)) + " =",
            "choices": [str(total), str((total + 3) % 10), "no"],
            "gold": 0,
            "answer": str(total),
        }


def write_task(directory: Path, kind: str = "multiple_choice", **changes: Any) -> str:
    """A task file with its data beside it; returns the file's name."""
    for split, count in (("train", 7), ("test", 22)):
        lines = [json.dumps(one) for one in sums(count, len(split))]
        (directory / f"{split}.jsonl").write_text("\n".join(lines))
    config: dict[str, Any] = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
        "training_split": "train",
        "test_split": "test",
        "fewshot_split": "train",
        "output_type": kind,
        "doc_to_text": "{{text}}",
        "num_fewshot": 0,
    }
    if kind == "multiple_choice":
        config |= {"doc_to_choice": "{{choices}}", "doc_to_target": "gold"}
        config["metric_list"] = [{"metric": "acc"}, {"metric": "acc_norm"}]
    else:
        config["doc_to_target"] = "{{answer}}" if kind == "generate_until" else "{{text}}"
        metric = "exact_match" if kind == "generate_until" else "word_perplexity"
        config["metric_list"] = [{"metric": metric}]
    if kind == "generate_until":
        config["generation_kwargs"] = {"until": ["="], "max_gen_toks": 4}
    if kind == "loglikelihood_rolling":
        config["doc_to_text"] = ""
    (directory / "sums.yaml").write_text(yaml.safe_dump({**config, **changes}))
    return "sums.yaml"


def live(directory: Path, seed: int = 1, **how: Any) -> LanguageModel:
    """A child of two tiny models, in place."""
    seeds = [write_lm(directory / f"m{n}", n, **how) for n in (seed, seed + 1)]
    checkpoints = [open_checkpoint(one) for one in seeds]
    layout = build_layout(checkpoints)
    model = build_model(ModelOptions(), layout, checkpoints, directory)
    bounds = np.array([0, layout.axis.size // 2, layout.axis.size], dtype=np.int64)
    genome = Recipe(bounds, np.array([[0.5, 0.6], [-0.1, 1.0]]))
    model.writer(checkpoints, layout).write(genome)
    return model.value


def opened(directory: Path, **options: Any) -> LmEval:
    return LmEval(LmEvalOptions(**{"garbage": False, **options}), directory)


@pytest.mark.parametrize(
    "kind", quick(["generate_until", "multiple_choice", "loglikelihood_rolling"])
)
def test_the_contract(tmp_path: Path, kind: str) -> None:
    value = live(tmp_path, dtype="bfloat16")
    write_task(tmp_path, kind)
    bounds = [1.0, 2000.0] if kind == "loglikelihood_rolling" else None

    def reopen() -> LmEval:
        return opened(tmp_path, task="sums.yaml", batch=4, held_out=0.25, bounds=bounds)

    task = reopen()
    check_task(task, value, reopen=reopen)
    assert task.samples[:2] == ("test/0", "test/1")
    assert task.held_out == tuple(f"test/{n}" for n in range(16, 22))
    assert task.blocks.tolist() == [n // 4 for n in range(16)]
    assert task.binary == (kind != "loglikelihood_rolling")


@pytest.mark.slow
def test_scores_are_those_of_the_harness_itself(tmp_path: Path) -> None:
    """A block as large as the task is what simple_evaluate does."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    value = live(tmp_path)
    write_task(tmp_path, num_fewshot=1)
    config = yaml.safe_load((tmp_path / "sums.yaml").read_text())
    files = config["dataset_kwargs"]["data_files"]
    config["dataset_kwargs"] = {"data_files": {k: str(tmp_path / v) for k, v in files.items()}}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(config))
    task = opened(tmp_path, task="sums", include=".", metric="acc", fewshot=2, batch=22)
    got = task.score(value, np.arange(22))
    wrapped = HFLM(pretrained=value.model, tokenizer=value.tokenizer, batch_size=22)
    found = lm_eval.simple_evaluate(
        wrapped,
        tasks=["sums"],
        num_fewshot=2,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        verbosity="CRITICAL",
    )
    samples = sorted(found["samples"]["sums"], key=lambda one: one["doc_id"])
    assert got.tolist() == [one["acc"] for one in samples]
    assert 0 < got.mean() < 1


def test_choices_are_scored_by_the_live_model(tmp_path: Path) -> None:
    """By hand: the likeliest continuation of the text."""
    value = live(tmp_path)
    write_task(tmp_path)
    task = opened(tmp_path, task="sums.yaml", metric="acc")
    got = task.score(value, np.arange(22))
    docs = list(sums(22, len("test")))
    for score, doc in zip(got, docs, strict=True):
        tokens = value.tokenizer(doc["text"], return_tensors="pt")
        with torch.no_grad():
            last = value.model(**tokens).logits[0, -1]
        chances = last[value.tokenizer.convert_tokens_to_ids(doc["choices"])]
        assert score == float(chances.argmax() == 0)


def test_the_same_model_object_with_other_weights_scores_differently(tmp_path: Path) -> None:
    value = live(tmp_path)
    write_task(tmp_path)
    task = opened(tmp_path, task="sums.yaml")
    before = task.score(value, np.arange(22))
    other = live(tmp_path / "other", seed=5)
    with torch.no_grad():
        pairs = zip(value.model.parameters(), other.model.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
    after = task.score(value, np.arange(22))
    assert not np.array_equal(before, after)
    assert np.array_equal(after, opened(tmp_path, task="sums.yaml").score(other, np.arange(22)))


def test_prompts_few_shot_chat_and_system(tmp_path: Path) -> None:
    value = live(tmp_path, template=TEMPLATE)
    write_task(tmp_path, "generate_until")
    plain = opened(tmp_path, task="sums.yaml", fewshot=2)
    chat = opened(tmp_path, task="sums.yaml", fewshot=2, chat_template=True, system="add")
    asked: list[str] = []
    given = value.tokenizer.decode
    for task in (plain, chat):
        hook = value.model.register_forward_pre_hook(
            lambda _m, _a, kwargs: asked.append(given(kwargs["input_ids"][-1])), with_kwargs=True
        )
        task.score(value, np.array([0]))
        hook.remove()
    assert "a ?" not in asked[0] and asked[0].count("=") == 3
    rendered = next(text for text in asked if "a ?" in text)
    assert "s ? <unk>" in rendered and rendered.count("u ?") == 3
    assert rendered.rstrip().endswith("a ?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "split"),
    [
        ({}, "train"),
        ({"fewshot_config": {"sampler": "first_n"}}, "train"),
        ({"training_split": None, "fewshot_split": None}, None),
        ({"test_split": None, "validation_split": "test", "fewshot_split": "test"}, None),
        ({"fewshot_split": "test"}, None),
    ],
)
def test_no_prompt_shows_its_own_answer(
    changes: dict[str, Any], split: str | None, tmp_path: Path
) -> None:
    """Few-shot examples of the test split are the only ones that the harness itself looks at."""
    write_task(tmp_path, **changes)
    task = opened(tmp_path, task="sums.yaml", split=split, fewshot=3)
    prompts = [[request.args for request in one] for one in task._prompts(None)]
    for doc, requests in zip(task._docs, prompts, strict=True):
        *shown, asked = requests[0][0].split("\n\n")
        assert asked == doc["text"] and len(shown) == 3
        assert f"{doc['text']} {doc['answer']}" not in shown
    # What was made before has no say in it.
    assert prompts == [[request.args for request in one] for one in task._prompts(None)]


def test_truth_values_of_numpy_are_scores(tmp_path: Path) -> None:
    value = live(tmp_path)
    name = write_task(tmp_path)
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def results(doc, results): return {'acc': np.argmax([r[0] for r in results]) == 0}\n"
    )
    expected = opened(tmp_path, task=name).score(value, np.arange(22))
    with (tmp_path / name).open("a") as file:
        file.write("process_results: !function own.results\n")
    np.testing.assert_array_equal(opened(tmp_path, task=name).score(value, np.arange(22)), expected)


@pytest.mark.slow
def test_the_digest_covers_what_changes_scores(tmp_path: Path) -> None:
    write_task(tmp_path, "generate_until")
    base: dict[str, Any] = {"task": "sums.yaml", "limit": 9}
    same = opened(tmp_path, **base).digest
    assert opened(tmp_path, **base).digest == same
    changes: list[dict[str, Any]] = [
        {"limit": 8},
        {"fewshot": 1},
        {"batch": 3},
        {"system": "add"},
        {"chat_template": True},
        {"held_out": 0.2},
        {"generation": {"max_gen_toks": 3}},
        {"bounds": [0.0, 2.0]},
        {"garbage": True},
    ]
    digests = {opened(tmp_path, **{**base, **change}).digest for change in changes}
    assert len(digests | {same}) == len(changes) + 1
    lines = (tmp_path / "test.jsonl").read_text().replace("=", "= ?")
    (tmp_path / "test.jsonl").write_text(lines)
    assert opened(tmp_path, **base).digest not in digests | {same}


@pytest.mark.parametrize("kind", ["generate_until", "multiple_choice", "loglikelihood_rolling"])
def test_held_out_documents_that_are_asked_in_selection_too_are_told(
    tmp_path: Path, kind: str
) -> None:
    """Whatever their number in the data set, and whichever examples their prompts show besides."""
    write_task(tmp_path, kind)
    asked = [*sums(22, 4)]
    for split, rows in (("test", asked), ("train", [*sums(7, 5), *asked[3:5]])):
        lines = [json.dumps({**row, "id": number}) for number, row in enumerate(rows)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    given: dict[str, Any] = {"task": "sums.yaml", "held_out_split": "train", "fewshot": 1}
    given["bounds"] = [1.0, 2000.0] if kind == "loglikelihood_rolling" else None
    (told,) = opened(tmp_path, **given).notices
    assert told.startswith("2 of 9 held-out examples also stand among the selection examples")


def test_documents_are_not_compared_where_none_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Templates of thousands of documents take a minute."""
    from genepool.tasks.lm_eval import harness

    asked: list[object] = []
    monkeypatch.setattr(harness, "questions", lambda *given: asked.append(given) or [])
    opened(tmp_path, task=write_task(tmp_path))
    assert asked == []
    opened(tmp_path, task="sums.yaml", held_out=0.2)
    assert len(asked) == 2


def test_bounds_turn_and_scale(tmp_path: Path) -> None:
    value = live(tmp_path)
    write_task(tmp_path, "loglikelihood_rolling")
    got = opened(tmp_path, task="sums.yaml", bounds=[1, 200]).score(value, np.arange(22))
    for score, doc in zip(got, sums(22, len("test")), strict=True):
        tokens = value.tokenizer(doc["text"], return_tensors="pt").input_ids
        tokens = torch.cat([torch.tensor([[1]]), tokens], dim=1)  # the harness begins twice
        with torch.no_grad():
            chances = value.model(input_ids=tokens).logits.log_softmax(-1)[0, :-1]
        nats = -chances.gather(1, tokens[0, 1:, None]).sum().item()
        perplexity = math.exp(nats / len(doc["text"].split()))
        expected = 1 - (min(max(perplexity, 1), 200) - 1) / 199
        assert score == pytest.approx(expected, abs=1e-4)
    assert 0 < got.mean() < 1


def test_a_perplexity_of_one_example_is_no_log_likelihood(tmp_path: Path) -> None:
    """Every example had the best score."""
    value = live(tmp_path)
    name = write_task(tmp_path, "loglikelihood", metric_list=[{"metric": "perplexity"}])
    task = opened(tmp_path, task=name, bounds=[1.0, 1e6])
    asked = task._harness.ask(task._lm(value), task._rendered(value))
    perplexities = np.exp([-one[0].resps[0][0] for one in asked]).clip(1, 1e6)
    expected = 1 - (perplexities - 1) / (1e6 - 1)
    np.testing.assert_allclose(task.score(value, np.arange(22)), expected, atol=1e-6)
    assert 0 < expected.mean() < 1


def test_generation_is_bounded(tmp_path: Path) -> None:
    value = live(tmp_path)
    write_task(tmp_path, "generate_until")
    longest = 0

    def see(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal longest
        longest += 1

    hook = value.model.register_forward_pre_hook(see, with_kwargs=True)
    task = opened(tmp_path, task="sums.yaml", generation={"max_gen_toks": 7, "until": ["zebra"]})
    task.score(value, np.arange(16))
    hook.remove()
    assert 1 <= longest <= 7


@pytest.mark.slow
@pytest.mark.parametrize("own", [None, 2, 50])
def test_answers_are_as_long_as_the_task_says(own: int | None, tmp_path: Path) -> None:
    """`max_new_tokens` of a generation_config.json came before that."""
    value = live(tmp_path)
    value.model.generation_config.max_new_tokens = own
    write_task(tmp_path, "generate_until")
    task = opened(tmp_path, task="sums.yaml", generation={"max_gen_toks": 7, "until": ["zebra"]})
    with value.asked() as heard:
        task.score(value, np.array([0]))
    assert {len(text.split()) for text in heard} == {7}
    assert value.model.generation_config.max_new_tokens == own


@pytest.mark.slow
def test_garbage_is_refused_unless_let_through_or_as_the_seeds(tmp_path: Path) -> None:
    value = live(tmp_path)
    write_task(tmp_path, "generate_until")
    kept = [parameter.clone() for parameter in value.model.parameters()]
    settings: dict[str, Any] = {
        "task": "sums.yaml",
        "generation": {"max_gen_toks": 6, "until": ["zebra"]},
    }

    def fill(values: list[torch.Tensor] | None) -> None:
        with torch.no_grad():
            for number, parameter in enumerate(value.model.parameters()):
                # Without weights every token is as likely, so the first is chosen for ever.
                parameter.copy_(values[number]) if values else parameter.zero_()

    def of_seeds(*seeds: list[torch.Tensor] | None) -> LanguageModel:
        def each(ask: Callable[[], Any]) -> list[Any]:
            found = []
            for seed in seeds:
                fill(seed)
                found.append(ask())
            fill(None)
            return found

        return replace(value, of_seeds=each)

    checked = opened(tmp_path, garbage=True, **settings)
    assert checked.score(value, np.arange(22)).size == 22
    fill(None)
    for model in (value, of_seeds(kept)):
        task = opened(tmp_path, garbage=True, **settings)
        with pytest.raises(EvaluationError, match="16 answers in a block 16 are empty and 0"):
            task.score(model, np.arange(22))
    assert not opened(tmp_path, **settings).score(value, np.arange(22)).any()
    assert not checked.score(of_seeds(kept, None), np.arange(22)).any()


def test_what_a_task_cannot_be(tmp_path: Path) -> None:
    write_task(tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"task": "gone.yaml"}, "gone.yaml: no such file"),
        ({"task": "sums", "include": "gone"}, "gone: no such file or directory"),
        ({"task": "sums.yaml", "metric": "f1"}, "no metric 'f1'; it has 'acc', 'acc_norm'"),
        ({"task": "sums.yaml", "filter": "strict"}, "no filter 'strict'; it has 'none'"),
        ({"task": "sums.yaml", "split": "validation"}, "it has 'train', 'test'"),
        ({"task": "sums.yaml", "held_out_split": "test"}, "come from split 'test' too"),
        ({"task": "sums.yaml", "held_out": 0.1, "held_out_split": "train"}, "exclude each other"),
        ({"task": "sums.yaml", "bounds": [1.0]}, "expected \\[lo, hi\\] with lo < hi"),
        ({"task": "sums.yaml", "bounds": [2.0, 1.0]}, "expected \\[lo, hi\\] with lo < hi"),
        ({"task": "sums.yaml", "generation": {"until": ["="]}}, "generates nothing"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message) as caught:
            opened(tmp_path, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'batch': .* greater than or equal to 1; got 0"):
        opened(tmp_path, task="sums.yaml", batch=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sum", "include": "."}, "has no task 'sum'; did you mean 'sums'"),
        ({"task": "mmlu"}, "'mmlu' is a group of lm-evaluation-harness with the members"),
    ],
)
def test_what_the_harness_looks_for_among_its_thousands(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write_task(tmp_path)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, **options)


def test_data_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody waits here for a server that does not answer.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_task(tmp_path, "loglikelihood_rolling")
    with pytest.raises(ConfigError, match="lower is better for metric 'word_perplexity'"):
        opened(tmp_path, task="sums.yaml")
    write_task(tmp_path, test_split=None)
    with pytest.raises(ConfigError, match="must have valid or test docs"):
        opened(tmp_path, task="sums.yaml")
    write_task(tmp_path, doc_to_text="{{text.gone.far}}")
    with pytest.raises(ConfigError, match="cannot be loaded: UndefinedError"):
        opened(tmp_path, task="sums.yaml")
    write_task(tmp_path, dataset_path="nobody/nothing", dataset_kwargs=None)
    with pytest.raises(ConfigError, match="its data set must be on this machine or within reach"):
        opened(tmp_path, task="sums.yaml")


def test_models_that_cannot_be_scored(tmp_path: Path) -> None:
    value = live(tmp_path)
    write_task(tmp_path, "generate_until")
    task = opened(tmp_path, task="sums.yaml")
    some = np.arange(4)
    with pytest.raises(EvaluationError, match=r"needs a language model.*got dict"):
        task.score({}, some)
    with pytest.raises(EvaluationError, match=r"needs a tokenizer.*'model.tokenizer'"):
        task.score(replace(value, tokenizer=None), some)
    chat = opened(tmp_path, task="sums.yaml", chat_template=True)
    with pytest.raises(EvaluationError, match="has no chat template; turn it off"):
        chat.score(value, some)
    endless = opened(tmp_path, task="sums.yaml", generation={"max_gen_toks": 100_000})
    with pytest.raises(EvaluationError, match=r"must be less than model's maximum"):
        endless.score(value, some)
    slow = opened(tmp_path, task="sums.yaml", time_limit=0.001, generation={"max_gen_toks": 100})
    with pytest.raises(EvaluationError, match=r"took longer than the time limit of 0.001 seconds"):
        slow.score(value, some)


def test_tokens_of_a_text_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from genepool.tasks.lm_eval import harness

    asked: list[Any] = []

    def encode(text: str, special: bool | None = None, **named: Any) -> list[int]:
        asked.append((text, special, named))
        return [len(text), 70_000, int(bool(special)), *named.values()]

    monkeypatch.setattr(harness, "_REMEMBERED", 10)
    tokens = harness._remembering(encode)
    for call in (
        lambda: tokens("abc"),
        lambda: tokens("abc", True),
        lambda: tokens("abc", left=2),
    ):
        first = call()
        before = [*first]
        first.append(-1)
        assert call() == before
    assert tokens("abc") == [3, 70_000, 0]
    assert asked == [("abc", None, {}), ("abc", True, {}), ("abc", None, {"left": 2})]
    # There is no room for more than ten characters.
    assert tokens("efg") == tokens("efg") == [3, 70_000, 0]
    assert len(asked) == 5


def test_templates_are_compiled_once_and_only_by_us() -> None:
    from genepool.tasks.lm_eval import harness

    plain = harness._TEMPLATES.from_string
    with harness.quiet():
        one = harness._TEMPLATES.from_string("{{x}} {{y}}")
        with harness.quiet():
            assert harness._TEMPLATES.from_string("{{x}} {{y}}") is one
        assert harness._TEMPLATES.from_string("{{x}} {{y}}") is one
        assert one.render(x=1, y=2) == "1 2"
    assert harness._TEMPLATES.from_string == plain
    assert plain("{{x}} {{y}}") is not one
