"""How language models act: the replies that they write, and the actions that they choose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from genepool.errors import EpisodeError, EvaluationError
from genepool.models.language import LanguageModel
from genepool.tasks.agent import likelihoods
from genepool.tasks.agent.decoding import continued, endings, prompts
from genepool.tasks.agent.episode import CONTEXT, STUCK, Asked
from genepool.tasks.agent.likelihoods import Reader
from genepool.tasks.agent.policies import Choose, Generate
from genepool.testing import check_task
from tests.lms import SIZE, WORDS, tiny_config, write_tokenizer
from tests.tasks.agent.test_agent import agent

TEMPLATE = "{% for m in messages %}{{ m['content'] }} = {% endfor %}"
ACTIONS = ("go a b c", "go a b", "yes", "no", "look x y z")


def language_model(folder: Path, kind: str = "llama", template: str | None = TEMPLATE) -> Any:
    torch.manual_seed(0)
    config = tiny_config(kind)
    config._attn_implementation = "eager"
    made: Any = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(8.0)
    write_tokenizer(folder, template)
    words: Any = transformers.AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    return LanguageModel(made.eval().requires_grad_(False), words, folder)


def asked(text: str, *taken: str, actions: tuple[str, ...] | None = ACTIONS) -> Asked:
    return Asked(({"role": "user", "content": text},), actions, taken)


def by_hand(value: LanguageModel, prompt: list[int], row: list[int]) -> float:
    """The mean log-likelihood of a row after a prompt, in one pass over both."""
    with torch.inference_mode():
        logits = value.model(input_ids=torch.tensor([prompt + row])).logits[0].double()
    chances = torch.log_softmax(logits, dim=-1)
    start = len(prompt) - 1
    return float(np.mean([float(chances[start + at, token]) for at, token in enumerate(row)]))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gpt2", "mamba"])
def test_likelihoods_are_those_of_one_pass_over_prompt_and_action(
    kind: str, tmp_path: Path
) -> None:
    value = language_model(tmp_path, kind)
    (prompt,) = prompts(value, [asked("1 + 2 = b").messages], "yes")
    ends = endings(value, "Action:", ACTIONS)
    assert sorted({len(row) for row in ends}) == [1, 3, 4]
    with torch.inference_mode():
        (found,) = Reader(value).likelihoods([prompt], [ends])
    expected = [by_hand(value, prompt, row) for row in ends]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 4) for one in found}) == len(found)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_logits_are_made_only_where_they_are_needed(kind: str, tmp_path: Path) -> None:
    """For each token of a long prompt they would take more memory than the model."""
    value = language_model(tmp_path, kind)
    made: list[int] = []
    value.model.register_forward_hook(lambda _m, _a, out: made.append(out.logits.shape[1]))
    with torch.inference_mode():
        Reader(value).likelihoods([[5] * 30], [[[5, 6, 7], [8]]])
    assert made == [1, 2]


def test_episodes_share_the_models_passes(tmp_path: Path) -> None:
    """The first is read alone, the others together; and so are what may follow them."""
    value = language_model(tmp_path)
    questions = [asked(" ".join("1" * n)) for n in (9, 2, 30, 4, 7)]
    alone = [Choose(100, (), repeat=True).begin(value)([one])[0] for one in questions]
    made: list[int] = []
    value.model.register_forward_hook(lambda _m, _a, out: made.append(out.logits.shape[0]))
    assert Choose(100, (), repeat=True).begin(value)(questions) == alone
    assert made == [1, 1, 4, 4]  # All actions of an episode are read in one row.


def test_what_has_been_read_of_an_episode_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = language_model(tmp_path)
    draw = np.random.default_rng(0)
    made: list[tuple[int, ...]] = []

    def note(_module: Any, _given: Any, named: Any, _out: Any) -> None:
        made.append(tuple(named["input_ids"].shape))

    def turns(kept: int) -> list[list[list[float]]]:
        monkeypatch.setattr(likelihoods, "_KEPT", kept)
        reader, found = Reader(value), list[list[list[float]]]()
        for rows in told:
            made.clear()
            with torch.inference_mode():
                found.append(reader.likelihoods(rows, [[[5, 6], [7]]] * len(rows)))
        return found

    first = [draw.integers(3, 30, n).tolist() for n in (20, 31, 26)]
    second = [first[n] + draw.integers(3, 30, m).tolist() for n, m in ((2, 4), (0, 9), (1, 2))]
    # One episode has ended, and another one has been told otherwise from some place on.
    third = [second[1] + [8, 9], [*second[0][:-2], 4, 4, 4, 4]]
    told = [first, second, third]
    value.model.register_forward_hook(note, with_kwargs=True)
    found = turns(10**9)
    # The first episode was read by itself, to see what the model keeps of it.
    assert made == [(1, 2), (1, 1), (1, 4), (1, 1)]
    expected = turns(0)
    assert made == [(1, 31), (1, 1), (1, 32), (1, 1)]
    for one, other in zip(found, expected, strict=True):
        assert np.array(one) == pytest.approx(np.array(other), abs=1e-4)


@pytest.mark.parametrize("room", [20, 24, 26, 40])
def test_positions_that_are_others_in_long_texts(room: int, tmp_path: Path) -> None:
    """Of Phi-3: what was read before a text became long is of no use in it."""
    write_tokenizer(tmp_path, TEMPLATE)
    words: Any = transformers.AutoTokenizer.from_pretrained(str(tmp_path), padding_side="left")
    config = transformers.Phi3Config(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=80,
        original_max_position_embeddings=room, pad_token_id=0, attn_implementation="eager",
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4,
            "long_factor": [9.0, 2.0, 5.0, 3.0], "original_max_position_embeddings": room,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    made: Any = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(8.0)
    value = LanguageModel(made.eval().requires_grad_(False), words, tmp_path)
    reader, ends = Reader(value), [[5, 6, 7], [8], [9, 4]]
    told = [[*range(3, 21)], [*range(30, 40)]]
    with torch.inference_mode():
        for _ in range(3):
            found = reader.likelihoods(told, [ends] * 2)
            for row, known in zip(told, found, strict=True):
                (alone,) = Reader(value).likelihoods([row], [ends])
                assert known == pytest.approx(alone, abs=1e-4)
                # Between the two the first token of an action is still that of a short text.
                if len(row) > room or len(row) + 3 <= room:
                    expected = [by_hand(value, row, end) for end in ends]
                    assert known == pytest.approx(expected, abs=1e-4)
            told = [[*row, 11, 12, 13] for row in told]


def test_no_more_is_read_at_once_than_there_is_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = language_model(tmp_path)
    rows, ends = [[5] * n for n in (9, 2, 30, 4, 7)], [[[5, 6, 7], [8], [9, 10]]] * 5
    with torch.inference_mode():
        made: list[tuple[int, int]] = []

        def note(_module: Any, _given: Any, named: Any, out: Any) -> None:
            # Tokens that the pass has read, and those before them that its state holds.
            made.append((len(named["input_ids"]), out.past_key_values.get_seq_length()))

        value.model.register_forward_hook(note, with_kwargs=True)
        expected = Reader(value).likelihoods(rows, ends)
        assert len(made) == 4 and max(rows * length for rows, length in made) > 40
        made.clear()
        monkeypatch.setattr(likelihoods, "_READ", 40)
        found = Reader(value).likelihoods(rows, ends)
        passes = len(made)
        assert passes > 4 and max(rows * length for rows, length in made if rows > 1) <= 40
        monkeypatch.setattr(likelihoods, "_SAID", 2)  # Less than all actions of an episode have.
        again = Reader(value).likelihoods(rows, ends)
        assert len(made) > 2 * passes
    for one in (found, again):
        assert np.array(one) == pytest.approx(np.array(expected), abs=1e-5)


def test_who_has_no_choice_is_not_asked(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    made: list[object] = []
    value.model.register_forward_hook(lambda _m, _a, out: made.append(out))
    policy = Choose(100, ("look *",), repeat=True)
    questions = [asked("1 + 2", actions=("yes",)), asked("b", actions=("look x", "no"))]
    assert [one.action for one in policy.begin(value)(questions)] == ["yes", "no"]
    assert not made


def test_actions_have_the_tokens_that_they_have_in_a_reply() -> None:
    """Tokenizers such as Llama's put a space before every text, however it begins."""
    words = ["<unk>", "\u2581", "\u2581Action:", "\u2581look", "\u2581north"]
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    assert fast("Action: look north")["input_ids"] == [2, 3, 4]
    assert fast(" look")["input_ids"] == [1, 3]
    assert endings(LanguageModel(None, fast, Path()), "Action:", ["look north", "look"]) == [
        [3, 4],
        [3],
    ]


def test_the_likeliest_action_is_chosen_whatever_else_is_asked(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    policy = Choose(100, (), repeat=True)
    questions = [asked("1 + 2"), asked("b c d e f g"), asked("no")]
    together = policy.begin(value)(questions)
    assert [policy.begin(value)([one])[0] for one in questions] == together
    for one, reply in zip(questions, together, strict=True):
        (prompt,) = prompts(value, [one.messages], "Action:")
        ends = endings(value, "Action:", ACTIONS)
        best = int(np.argmax([by_hand(value, prompt, row) for row in ends]))
        assert reply.action == ACTIONS[best] and reply.text == f"Action: {ACTIONS[best]}"


def test_actions_are_left_out_and_not_repeated(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    (first,) = Choose(100, (), repeat=False).begin(value)([asked("1")])
    assert first.action is not None
    (second,) = Choose(100, (), repeat=False).begin(value)([asked("1", first.action)])
    assert second.action not in {first.action, None}
    (third,) = Choose(100, ("go *", "look *", "yes"), repeat=True).begin(value)([asked("1")])
    assert third.action == "no"
    shop = asked("1", actions=("click[Back to Search]", "click[B]", "yes"))
    (fourth,) = Choose(100, ("click[B*]",), repeat=True).begin(value)([shop])
    assert fourth.action == "yes"
    (none,) = Choose(100, ("*",), repeat=True).begin(value)([asked("1")])
    assert none.action is None and none.ended == STUCK


@pytest.mark.parametrize("taken", [("yes",), ("yes", "no")])
def test_actions_that_are_not_told_are_not_taken_for_none(
    taken: tuple[str, ...], tmp_path: Path
) -> None:
    choose = Choose(100, (), repeat=True).begin(language_model(tmp_path))
    assert choose([asked("1", *taken, actions=())])[0].ended == STUCK
    with pytest.raises(EpisodeError, match=f"does not say them after {len(taken)} action"):
        choose([asked("1", *taken), asked("1", *taken, actions=None)])


def test_an_episode_that_has_grown_too_long_ends(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    long = asked(" ".join("1" * 40))
    for policy in (Choose(30, (), repeat=True), Generate(8, 30)):
        short, ended = policy.begin(value)([asked("1 + 1"), long])
        assert short.action is not None
        assert ended.action is None and ended.ended == CONTEXT
        assert "more than 'context: 30'; raise it" in ended.told


def test_replies_are_what_the_model_generates_alone(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    (reply,) = Generate(6, 100).begin(value)([asked("1 + 2")])
    (prompt,) = prompts(value, [asked("1 + 2").messages])
    found = value.model.generate(
        input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    text = value.tokenizer.decode(found[0, len(prompt) :], skip_special_tokens=True)
    assert reply.text == text
    several = Generate(6, 100).begin(value)([asked("b c d e f"), asked("1 + 2")])
    assert [one.text for one in several] == [
        Generate(6, 100).begin(value)([asked("b c d e f")])[0].text,
        text,
    ]


@pytest.mark.parametrize(
    "settings", [{"repetition_penalty": 3.0}, {"no_repeat_ngram_size": 1}, {"suppress_tokens": []}]
)
def test_replies_obey_the_generation_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    value, question = language_model(tmp_path), [asked("1 + 2")]
    (plain,) = Generate(6, 100).begin(value)(question)
    if "suppress_tokens" in settings:
        first = value.tokenizer(plain.text.split()[0], add_special_tokens=False)["input_ids"]
        settings = {"suppress_tokens": first}
    value.model.generation_config.update(**settings)
    (steered,) = Generate(6, 100).begin(value)(question)
    assert steered.text != plain.text


def test_settings_of_what_is_returned_are_not_in_the_way(tmp_path: Path) -> None:
    value, question = language_model(tmp_path), [asked("1 + 2"), asked("b")]
    plain = Generate(6, 100).begin(value)(question)
    value.model.generation_config.update(return_dict_in_generate=True, output_scores=True)
    assert Generate(6, 100).begin(value)(question) == plain


def test_a_reply_ends_where_the_chat_template_ends_one(tmp_path: Path) -> None:
    """Settings of fine-tunes often name the base's end only, behind which a user would speak."""
    value = language_model(tmp_path)
    questions = [asked(f"1 + {letter}") for letter in "abcdefghijklmnop"]
    replies = [each.text.split() for each in Generate(6, 100).begin(value)(questions)]
    number = next(n for n, said in enumerate(replies) if len(set(said)) > 1)
    said = replies[number]
    last = next(word for word in said if word != said[0])
    value.tokenizer.add_special_tokens({"additional_special_tokens": [last]})
    value.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} = "
        "{% if m['role'] == 'assistant' %}" + last + " {% endif %}{% endfor %}"
    )
    (short,) = Generate(6, 100).begin(value)([questions[number]])
    assert short.text.split() == said[: said.index(last)]


def test_a_chat_template_that_does_not_take_agents_is_told(tmp_path: Path) -> None:
    value = language_model(tmp_path, template="{{ raise_exception('no agents here') }}")
    with pytest.raises(EvaluationError, match=r"chat template cannot be used.*no agents here"):
        Generate(6, 100).begin(value)([asked("1 + 2")])


def test_without_a_chat_template_roles_are_said(tmp_path: Path) -> None:
    value = language_model(tmp_path, template=None)
    (row,) = prompts(value, [asked("1 + 2").messages])
    assert row[0] == 1 and len(row) == 1 + len(["user:", "1", "+", "2", "assistant:"])


@pytest.mark.parametrize("template", ["<s> " + TEMPLATE, None])
@pytest.mark.parametrize("said", ["a </s> b", "</s>", "a <s> </s>", "\ue000 </s> \ue001"])
def test_special_tokens_that_somebody_says_are_text(
    said: str, template: str | None, tmp_path: Path
) -> None:
    """A page with `</s>` would end its turn, and what follows would be another speaker's."""
    value = language_model(tmp_path, template=template)
    messages = ({"role": "user", "content": said}, {"role": "assistant", "content": "c </s> d"})
    (row,) = prompts(value, [messages], "no")
    plain = tuple(
        {**m, "content": re.sub("</?s>|[\ue000\ue001]", "x", m["content"])} for m in messages
    )
    (other,) = prompts(value, [plain], "no")
    # The tokenizer has x, and no word for what special tokens are as text.
    unknown, x = WORDS.index("<unk>"), WORDS.index("x")
    assert row[0] == 1 and row.count(1) == 1 and row.count(2) == 0
    assert [one for one in row if one != unknown] == [
        one for one in other if one not in (unknown, x)
    ]
    a = WORDS.index("a")
    assert endings(value, "no", ["a </s>", "a"]) == [[a, unknown, unknown], [a]]


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (" Action: east\n\nuser: A wall.\n\nassistant: Action: west", " Action: east"),
        (" Action: east\n\nassistant: Action: west", " Action: east"),
        (" Thought: a user: none.\n\nAction: east", " Thought: a user: none.\n\nAction: east"),
    ],
)
def test_without_a_chat_template_a_reply_ends_where_the_next_turn_begins(
    said: str, reply: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that goes on makes up what it will see, and its last action is one after that."""
    for template, expected in ((None, reply), (TEMPLATE, said)):
        value = language_model(tmp_path, template=template)
        monkeypatch.setattr(value.tokenizer, "batch_decode", lambda *_a, **_n: [said])
        assert continued(value, [[5, 6]], 2) == [expected]


def test_a_prompt_does_not_end_with_the_token_that_ends_a_text(tmp_path: Path) -> None:
    """Some tokenizers add it to every text."""
    value = language_model(tmp_path, template=None)
    (plain,) = prompts(value, [asked("1 + 2").messages])
    value.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert prompts(value, [asked("1 + 2").messages]) == [plain]
    # An encoder reads it.
    value.model.config.is_encoder_decoder = True
    assert prompts(value, [asked("1 + 2").messages]) == [[*plain, 2]]


def test_what_a_model_with_an_encoder_says_is_heard_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=SIZE, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_ffn_dim=16,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        decoder_start_token_id=2, forced_eos_token_id=2,
    )  # fmt: skip
    made: Any = transformers.BartForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    words = language_model(tmp_path).tokenizer
    value = LanguageModel(made.eval().requires_grad_(False), words, tmp_path)
    row = [*range(5, 17)]
    with value.asked() as heard:
        said = continued(value, [row], 6)
    alone = made.generate(
        input_ids=torch.tensor([row]), attention_mask=torch.ones(1, 12, dtype=torch.int64),
        max_new_tokens=6, do_sample=False,
    )  # fmt: skip
    text = words.decode(alone[0], skip_special_tokens=True)
    assert said == heard == [text] and len(text.split()) > 1
    # It would read an action with its encoder, and be asked what it has seen already.
    with pytest.raises(EvaluationError, match=r"'choose' needs a model that continues.*Bart"):
        Choose(100, (), repeat=True).begin(value)


def test_a_model_with_nan_cannot_act(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    with torch.no_grad():
        next(iter(value.model.parameters())).fill_(float("nan"))
    for policy in (Choose(100, (), repeat=True), Generate(6, 100)):
        with pytest.raises(EvaluationError, match="NaN"):
            policy.begin(value)([asked("1 + 2")])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["choose", "generate"])
def test_the_contract_with_a_language_model(policy: str, tmp_path: Path) -> None:
    value = language_model(tmp_path)

    def reopen() -> Any:
        return agent(policy=policy, max_new_tokens=4, batch=2, rounds=3)

    check_task(reopen(), value, reopen=reopen)


def test_no_more_is_read_than_the_model_has_positions_for(tmp_path: Path) -> None:
    value = language_model(tmp_path, "gpt2")  # 64 positions
    fits, long = asked(" ".join("1" * 40)), asked(" ".join("1" * 70))
    for policy in (Choose(4096, (), repeat=True), Generate(8, 4096)):
        one, other = policy.begin(value)([fits, long])
        assert one.action is not None
        assert other.ended == CONTEXT
        assert "more than the 64 that the model has positions for" in other.told


def test_a_model_that_fails_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = language_model(tmp_path)

    def fail(*_given: Any, **_named: Any) -> Any:
        raise RuntimeError("out of memory\non this device")

    monkeypatch.setattr(value.model.model, "forward", fail)
    for policy in (Choose(100, (), repeat=True), Generate(6, 100)):
        with pytest.raises(EvaluationError, match="the model failed: RuntimeError: out of") as told:
            policy.begin(value)([asked("1 + 2")])
        assert "\n" not in str(told.value)


def test_tasks_that_nobody_can_begin_are_no_zeros(tmp_path: Path) -> None:
    value = language_model(tmp_path)
    with pytest.raises(EpisodeError, match=r"task '0' cannot be played.*'context: 16'"):
        agent(policy="generate", context=16).score(value, np.arange(5))
    positions = language_model(tmp_path, "gpt2")  # 64
    told = r"has \d+ tokens and needs 'max_new_tokens: 128' for a reply, more than the 64 that"
    with pytest.raises(EpisodeError, match=told):
        agent(policy="generate", max_new_tokens=128).score(positions, np.arange(5))
    with pytest.raises(EpisodeError, match=r"task '0' cannot be played.*'leave_out'"):
        agent(policy="choose", leave_out=["*"]).score(value, np.arange(5))
