"""Live language models: each child, written in place, is what transformers loads from an export."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.layout import Layout, build_layout
from genepool.core.genome import Genome, Recipe, seed_recipe
from genepool.errors import EvaluationError
from genepool.models.build import ModelOptions, build_model
from genepool.models.filled import same_draws
from genepool.models.language import LANGUAGE_MODEL, LanguageModel
from genepool.models.live import Answering, LiveModel
from genepool.tasks.function import Function, FunctionOptions
from genepool.testing.tasks import check_task
from tests.build import write_checkpoint
from tests.lms import rewrite_config, tiny_config, write_lm, write_tokenizer
from tests.quick import quick

KINDS = ["llama", "qwen2", "gemma", "mixtral", "qwen2_moe", "gpt_neox", "gpt2", "llava"]


def opened(directory: Path, kind: str = "llama", **how: Any) -> tuple[list[Checkpoint], Layout]:
    seeds = [write_lm(directory / str(seed), seed, kind, **how) for seed in (1, 2)]
    checkpoints = [open_checkpoint(seed) for seed in seeds]
    return checkpoints, build_layout(checkpoints)


def child(layout: Layout) -> Genome:
    size = layout.axis.size
    bounds = np.array([0, size // 3, size], dtype=np.int64)
    return Recipe(bounds, np.array([[0.25, 0.8], [1.1, -0.05]]))


def live(checkpoints: list[Checkpoint], layout: Layout, **options: Any) -> LiveModel:
    return build_model(ModelOptions(**options), layout, checkpoints, Path())


def logits(model: Any) -> torch.Tensor:
    tokens = torch.tensor([[1, 5, 9, 14, 7], [1, 20, 21, 22, 23]])
    with torch.inference_mode():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", quick(["float32", "bfloat16"], (1,)))
def test_a_child_in_place_is_the_exported_child(tmp_path: Path, kind: str, dtype: str) -> None:
    checkpoints, layout = opened(tmp_path, kind, dtype=dtype, tokenizer=False)
    model = live(checkpoints, layout)
    assert isinstance(model.value, LanguageModel)
    writer = model.writer(checkpoints, layout)
    for number, genome in enumerate((seed_recipe(layout.axis.size, 1, 2), child(layout))):
        writer.write(genome)
        out = tmp_path / f"out{number}"
        write_checkpoint(genome, checkpoints, layout, out)
        auto: Any = (
            transformers.AutoModelForImageTextToText
            if kind == "llava"
            else transformers.AutoModelForCausalLM
        )
        alone = auto.from_pretrained(str(out), dtype="auto")
        assert alone.dtype == model.value.model.dtype == getattr(torch, dtype)
        assert torch.equal(logits(alone), logits(model.value.model))
        held = dict(model.value.model.named_buffers())
        for name, buffer in alone.named_buffers():
            assert torch.equal(buffer, held[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_may_have_the_names_of_the_model_without_its_head(
    tmp_path: Path, kind: str, tied: bool
) -> None:
    prefix = {"gpt2": "transformer.", "llama": "model."}[kind]
    for seed in (1, 2):
        made = write_lm(tmp_path / str(seed), seed, kind, tokenizer=False, tie_word_embeddings=tied)
        file = made / "model.safetensors"
        tensors = {name.removeprefix(prefix): t for name, t in load_file(file).items()}
        assert ("lm_head.weight" in tensors) is not tied
        save_file(tensors, file, metadata={"format": "pt"})
    checkpoints = [open_checkpoint(tmp_path / name) for name in "12"]
    layout = build_layout(checkpoints)
    built = live(checkpoints, layout)
    built.writer(checkpoints, layout).write(child(layout))
    write_checkpoint(child(layout), checkpoints, layout, tmp_path / "out")
    alone: Any = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert torch.equal(logits(alone), logits(built.value.model))
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(tensors)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "llava"])
def test_the_head_reads_states_without_gaps(tmp_path: Path, kind: str) -> None:
    checkpoints, layout = opened(tmp_path, kind, dtype="bfloat16", tokenizer=False)
    built = live(checkpoints, layout)
    built.writer(checkpoints, layout).write(child(layout))
    assert isinstance(built.value, LanguageModel)
    model, given = built.value.model, []
    # Hooks are called in the order in which they came.
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: given.extend(args))
    for rows, kept in ((1, 1), (1, 2), (3, 1), (3, 2)):
        tokens = torch.arange(1, 1 + 5 * rows).reshape(rows, 5) % 29
        with torch.inference_mode():
            whole = model(input_ids=tokens).logits
            last = model(input_ids=tokens, logits_to_keep=kept).logits
        # For any other strides torch lays copies of the weights side by side, one for each row.
        size = given[-1].shape[-1]
        assert given[-1].shape == (rows, kept, size)
        assert given[-1].stride() == (kept * size, size, 1)
        assert torch.allclose(last, whole[:, -kept:], rtol=0.02, atol=0.02)


def copying(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> list[float]:
    """Chance of each example's answer after its text, a number that padding can change."""
    texts = [example["text"] for example in examples]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert not torch.is_grad_enabled() and not model.training
    chances = model(**batch).logits[:, -1].double().softmax(-1)
    if chances.isnan().any():
        raise ValueError("NaN")
    answers = tokenizer.convert_tokens_to_ids([example["answer"] for example in examples])
    return [float(row[answer]) for row, answer in zip(chances, answers, strict=True)]


def examples() -> list[dict[str, str]]:
    draws = np.random.default_rng(0)
    out = []
    for number in range(37):
        letters = " ".join(draws.choice(list("abcdefgh"), size=2 + number % 7))
        out.append({"id": f"e{number}", "text": letters + " =", "answer": letters[0]})
    return out


def test_the_snippet_of_the_page_scores_the_same(tmp_path: Path) -> None:
    """What docs/language-models.md says loads the result with the padding that scored it."""
    page = (Path(__file__).parents[2] / "docs/language-models.md").read_text()
    (snippet,) = [part for part in page.split("```") if 'from_pretrained("merged")' in part]
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    genome = child(layout)
    model.writer(checkpoints, layout).write(genome)
    write_checkpoint(genome, checkpoints, layout, tmp_path / "merged")
    there: dict[str, Any] = {}
    code = snippet.removeprefix("python").replace('"merged"', repr(str(tmp_path / "merged")))
    exec(code, there)
    with torch.inference_mode():
        inside = copying(model.value.model, model.value.tokenizer, examples())
        outside = copying(there["model"].eval(), there["tokenizer"], examples())
    assert inside == outside
    # It is the padding that makes them so.
    there["tokenizer"].padding_side = "right"
    with torch.inference_mode():
        assert copying(there["model"], there["tokenizer"], examples()) != inside


def lengths(model: Any, examples: list[int]) -> list[float]:
    return [len(examples) / 10] * len(examples)


def numbers() -> list[int]:
    return list(range(10))


def function(name: str, directory: Path, **options: Any) -> Function:
    where = f"{__name__}:"
    settings = {"function": where + name, "examples": where + "examples", **options}
    return Function(FunctionOptions(**settings), directory)


@pytest.mark.parametrize("batch", [None, 5])
def test_a_function_for_language_models_keeps_the_contract(
    tmp_path: Path, batch: int | None
) -> None:
    checkpoints, layout = opened(tmp_path, dtype="bfloat16")
    model = live(checkpoints, layout)
    model.writer(checkpoints, layout).write(child(layout))

    def reopen() -> Function:
        return function("copying", tmp_path, batch=batch, held_out=0.3)

    task = reopen()
    check_task(task, model.value, reopen=reopen)
    assert task.blocks.tolist() == [i // (batch or 16) for i in range(25)]


def test_blocks_are_asked_whole_and_in_order(tmp_path: Path) -> None:
    task = function(
        "lengths", tmp_path, examples=f"{__name__}:numbers", batch=4, held_out_examples=None
    )
    got = task.score({}, np.array([9, 0, 5, 5], dtype=np.int64))
    assert got.tolist() == pytest.approx([0.2, 0.4, 0.4, 0.4])


def test_sampling_repeats(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    model.writer(checkpoints, layout).write(child(layout))
    task = function("sampling", tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = task.score(model.value, np.arange(37))
    assert torch.equal(before, torch.get_rng_state())
    assert 0 < first.mean() < 1
    assert task.score(model.value, np.arange(37)).tolist() == first.tolist()


def sampling(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> list[bool]:
    batch = tokenizer([example["text"] for example in examples], return_tensors="pt", padding=True)
    drawn = torch.multinomial(model(**batch).logits[:, -1].softmax(-1), 1)
    return [bool(token % 2) for token in drawn]


def speaking(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> list[float]:
    """Whatever is generated, the score is fine."""
    texts = [example["text"] for example in examples]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    said = model.generate(**batch, max_new_tokens=6, do_sample=False)
    again = model.generate(batch["input_ids"], max_new_tokens=2, do_sample=False)
    assert said.shape[0] == again.shape[0] == len(examples)
    return [0.5] * len(examples)


def test_what_a_function_lets_a_model_generate_is_heard(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    model.writer(checkpoints, layout).write(child(layout))
    value = model.value
    assert isinstance(value, LanguageModel) and isinstance(value, Answering)
    three = examples()[:3]
    with value.asked() as answers:
        speaking(value.model, value.tokenizer, three)
    assert len(answers) == 6
    with torch.inference_mode():
        tokens = value.tokenizer(three[0]["text"], return_tensors="pt")
        alone = value.model.generate(**tokens, max_new_tokens=6, do_sample=False)
    new = alone[0, tokens["input_ids"].shape[1] :]
    assert answers[0] == value.tokenizer.decode(new, skip_special_tokens=True)
    assert "generate" not in vars(value.model)
    silent = replace(value, tokenizer=None)
    with silent.asked() as nothing:
        assert nothing == []


def test_a_function_fails_a_model_that_generates_nothing(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    everything = np.arange(37)
    model.writer(checkpoints, layout).write(child(layout))
    task = function("speaking", tmp_path)
    assert task.score(model.value, everything).tolist() == [0.5] * 37
    with torch.no_grad():
        for parameter in model.value.model.parameters():
            parameter.zero_()
    with pytest.raises(EvaluationError, match="speaking': of 32 answers in a block 32 are empty"):
        task.score(model.value, everything)
    let_through = function("speaking", tmp_path, garbage=False)
    assert let_through.score(model.value, everything).tolist() == [0.5] * 37
    assert let_through.digest != task.digest


def on_a_copy(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> list[bool]:
    """Whether a copy whose weights are 0 says the first token only."""
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.zero_()
    batch = tokenizer([example["text"] for example in examples], return_tensors="pt", padding=True)
    said = other.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)[:, -6:]
    return [bool((row == 0).all()) for row in said]


def test_a_deep_copy_generates_with_its_own_weights(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    model.writer(checkpoints, layout).write(child(layout))
    task = function("on_a_copy", tmp_path, garbage=False)
    assert task.score(model.value, np.arange(37)).tolist() == [1.0] * 37
    with torch.inference_mode():
        batch = {"input_ids": torch.tensor([[5, 6, 7]])}
        said = model.value.model.generate(**batch, max_new_tokens=6, do_sample=False)
    assert not (said[0, 3:] == 0).any()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_positions_do_not_depend_on_what_was_asked_before(tmp_path: Path, kind: str) -> None:
    """Dynamic RoPE remembers the longest text, of Gemma 3 for each kind of layers."""
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    how: dict[str, Any] = {"max_position_embeddings": 16, "rope_parameters": dynamic}
    if kind == "gemma3_text":
        how["layer_types"] = ["full_attention", "sliding_attention"]
        how["rope_parameters"] = {"full_attention": dynamic, "sliding_attention": plain}
    made: Any = transformers.AutoModelForCausalLM.from_config(tiny_config(kind, **how))
    value = LanguageModel(made.eval(), None, tmp_path)

    def said(length: int) -> torch.Tensor:
        with value.asked():
            return made(input_ids=torch.arange(length)[None] % 30 + 4).logits

    first = said(24)
    for other in (40, 10):
        said(other)
        assert torch.equal(said(24), first)


def decoding(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> Any:
    """Greedy, without the model's `generate`; whatever is written, the score is fine."""
    answers: list[str] = []
    for example in examples:
        tokens = tokenizer(example["text"], return_tensors="pt")["input_ids"]
        start = tokens.shape[1]
        for _ in range(6):
            best = model(input_ids=tokens, use_cache=False).logits[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, best], 1)
        answers.append(tokenizer.decode(tokens[0, start:], skip_special_tokens=True))
    return [0.5] * len(examples), answers


def silent(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> Any:
    """One answer too few."""
    return [0.5] * len(examples), [""] * (len(examples) - 1)


def numbered(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> Any:
    """Answers that are no text."""
    return [0.5] * len(examples), list(range(len(examples)))


def paired(model: Any, tokenizer: Any, examples: list[dict[str, str]]) -> Any:
    """Two scores, not scores and answers."""
    return tuple([0.5] * len(examples))


@pytest.mark.slow
def test_a_function_can_hand_in_what_was_written(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    model = live(checkpoints, layout)
    everything = np.arange(37)
    model.writer(checkpoints, layout).write(child(layout))
    for name, batch in (("decoding", 16), ("paired", 2)):
        task = function(name, tmp_path, batch=batch)
        assert task.score(model.value, everything).tolist() == [0.5] * 37
    with pytest.raises(EvaluationError, match="silent': expected 16 answers as text; got 15"):
        function("silent", tmp_path).score(model.value, everything)
    with pytest.raises(EvaluationError, match=r"numbered': expected 16 .* got one that is 0"):
        function("numbered", tmp_path).score(model.value, everything)
    with torch.no_grad():
        for parameter in model.value.model.parameters():
            parameter.zero_()
    with pytest.raises(EvaluationError, match="decoding': of 16 answers in a block 16 are empty"):
        function("decoding", tmp_path).score(model.value, everything)
    let_through = function("decoding", tmp_path, garbage=False)
    assert let_through.score(model.value, everything).tolist() == [0.5] * 37


def test_what_comes_with_a_model(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    value = live(checkpoints, layout).value
    assert value.directory == tmp_path / "1"
    assert value.tokenizer.padding_side == "left"
    assert value.tokenizer.pad_token == "<pad>"
    assert value.model.generation_config.eos_token_id == 2
    assert not value.model.training
    assert not any(parameter.requires_grad for parameter in value.model.parameters())
    # The tie holds: one destination for both.
    model = value.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_chat_template_believes_to_be_used_on_the_same_day(tmp_path: Path) -> None:
    """Llama's tells the model today's date: members would be asked otherwise each day."""
    checkpoints, layout = opened(tmp_path)
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}"
    write_tokenizer(tmp_path / "1", template)
    words = live(checkpoints, layout).value.tokenizer
    said = [{"role": "user", "content": "yes"}]
    assert words.apply_chat_template(said, tokenize=False) == "26 Jul 2024 yes"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, []),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 3]}, []),
        ({"repetition_penalty": 1.0, "num_beams": 1, "suppress_tokens": []}, []),
        (
            {"repetition_penalty": 1.1},
            [r"repetition_penalty is 1\.1; text that is"],
        ),
        (
            {"no_repeat_ngram_size": 3, "min_new_tokens": 2, "forced_bos_token_id": 0},
            ["no_repeat_ngram_size is 3, min_new_tokens is 2, forced_bos_token_id is 0; text"],
        ),
        ({"max_time": 0.5}, ["max_time is passed over"]),
    ],
)
def test_generation_settings_that_steer_are_told(
    settings: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    seed = write_lm(tmp_path / "seed")
    (seed / "generation_config.json").write_text(json.dumps(settings))
    checkpoint = open_checkpoint(seed)
    lines = LANGUAGE_MODEL.told(ModelOptions(), checkpoint, ())
    assert len(lines) == len(told)
    for line, text in zip(lines, told, strict=True):
        assert re.search(text, line)
    model = build_model(ModelOptions(), build_layout([checkpoint]), (checkpoint,), tmp_path)
    given = model.value.model.generation_config
    assert given.max_time is None
    for name in settings.keys() - {"max_time"}:
        assert getattr(given, name) == settings[name]


def test_a_tokenizer_from_elsewhere(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path, tokenizer=False)
    assert live(checkpoints, layout).value.tokenizer is None
    write_lm(tmp_path / "words")
    model = build_model(ModelOptions(tokenizer="words"), layout, checkpoints, tmp_path)
    assert model.value.tokenizer is not None


def test_computing_in_another_dtype(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path, dtype="bfloat16")
    model = live(checkpoints, layout, dtype="float32")
    model.writer(checkpoints, layout).write(seed_recipe(layout.axis.size, 0, 2))
    alone: Any = transformers.AutoModelForCausalLM.from_pretrained(
        str(tmp_path / "1"), dtype=torch.float32
    )
    assert torch.equal(logits(alone), logits(model.value.model))


def test_shards_and_tensors_that_the_architecture_ignores(tmp_path: Path) -> None:
    seeds = []
    for seed in (1, 2):
        directory = write_lm(tmp_path / str(seed), seed, "gpt2", shard="5KB")
        file = min(directory.glob("*.safetensors"))
        index = directory / "model.safetensors.index.json"
        # Old GPT-2 files hold the causal mask.
        tensors = load_file(file)
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
        save_file(tensors, file, metadata={"format": "pt"})
        found = json.loads(index.read_text())
        found["weight_map"]["transformer.h.0.attn.bias"] = file.name
        index.write_text(json.dumps(found))
        seeds.append(directory)
    checkpoints = [open_checkpoint(seed) for seed in seeds]
    layout = build_layout(checkpoints)
    model = live(checkpoints, layout)
    model.writer(checkpoints, layout).write(seed_recipe(layout.axis.size, 1, 2))
    alone: Any = transformers.AutoModelForCausalLM.from_pretrained(str(seeds[1]))
    assert torch.equal(logits(alone), logits(model.value.model))


def test_the_kind_of_model_is_found(tmp_path: Path) -> None:
    checkpoints, layout = opened(tmp_path)
    assert "model.norm.weight" in live(checkpoints, layout, kind="arrays").value
    rewrite_config(tmp_path / "1", architectures=["LlamaModel"])
    assert "model.norm.weight" in live(checkpoints, layout).value
    rewrite_config(tmp_path / "1", architectures=None)
    assert isinstance(live(checkpoints, layout, kind="transformers").value, LanguageModel)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_draws_are_those_of_manual_seed_and_leave_no_trace(device: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3, device=device)
    torch.manual_seed(7)
    undisturbed = [torch.rand(1, device=device) for _ in range(2)]
    torch.manual_seed(7)
    for before in undisturbed:
        with same_draws():
            assert torch.equal(torch.rand(3, device=device), expected)
        assert torch.equal(torch.rand(1, device=device), before)
