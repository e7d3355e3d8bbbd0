"""What lies beside the weights: what must agree, what is told, what says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from genepool.checkpoints.family import Family, make_family
from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.model_files.configs import compare_configs
from genepool.errors import CheckpointError
from tests.build import save

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "eos_token_id": 2,
}
VOCABULARY = {"<unk>": 0, "a": 1, "b": 2, "c": 3}


def tokenizer(vocabulary: dict[str, int] | None = None, **added: int) -> dict[str, Any]:
    return {
        "model": {"type": "WordLevel", "vocab": VOCABULARY if vocabulary is None else vocabulary},
        "added_tokens": [{"id": number, "content": token} for token, number in added.items()],
    }


def model(directory: Path, rows: int = 4, **files: Any) -> Path:
    """A directory of a model; `files` are JSON by name without the ending, None for none."""
    tensors = {
        "model.embed_tokens.weight": torch.randn(rows, 2),
        "model.layers.0.mlp.weight": torch.randn(2, 2),
        "lm_head.weight": torch.randn(rows, 2),
    }
    save(directory, tensors)
    for name, content in {"config": CONFIG, "tokenizer": tokenizer(), **files}.items():
        if content is not None:
            (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def family(directory: Path, first: dict[str, Any], other: dict[str, Any], **options: Any) -> Family:
    paths = model(directory / "a", **first), model(directory / "b", **other)
    return make_family([open_checkpoint(path) for path in paths], **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2"}, 'model_type is "qwen2" against "llama"'),
        ({"architectures": ["QwenForCausalLM"]}, "architectures is .*Qwen.* against .*Llama"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06 against 1e-05"),
        ({"rope_theta": 500000.0}, r"rope.theta is 500000.0 against 10000.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 'rope.type is "linear" against "def'),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true against false"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2 against 1"),
        ({"vocab_size": 5}, "vocab_size is 5 against 4; the vocabularies differ in size"),
    ],
)
def test_what_must_agree(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        family(tmp_path, {}, {"config": {**CONFIG, **changes}})
    text = str(caught.value)
    assert text.startswith(
        f"{tmp_path / 'b/config.json'} does not fit {tmp_path / 'a/config.json'}"
    )
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"torch_dtype": "float32", "use_cache": False, "transformers_version": "5.0.0"},
        {"_name_or_path": "somewhere/else"},
        {"rms_norm_eps": 9.999999747378752e-06},  # as GGUF keeps 1e-5
        # As transformers 5 writes the same settings.
        {
            "rope_theta": None,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        {"head_dim": 2},
    ],
)
def test_what_says_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert family(tmp_path, {}, {"config": {**CONFIG, **changes}}).notices == ()


def small(kind: str, **values: Any) -> dict[str, Any]:
    return {"model_type": kind, "num_hidden_layers": 2, **values}


LLAMA, GEMMA = small("llama"), small("gemma3_text")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        # RoPE in every spelling.
        (LLAMA, {"rope_theta": 1e6}, "rope.theta is 1000000.0 against 10000.0"),
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 4.0}}, 'rope.type is "linear" ag'),
        (LLAMA, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope.theta is"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "rope.partial is 0.5 against 1.0"),
        (small("gpt_neox"), {"rotary_pct": 0.5}, "rope.partial is 0.5 against 0.25"),
        (small("gpt_neox", rotary_pct=1.0), {"rotary_pct": 0.25}, "rope.partial is 0.25 against 1"),
        (small("phi"), {"partial_rotary_factor": 1.0}, "rope.partial is 1.0 against 0.5"),
        (GEMMA, {"rope_local_base_freq": 1e6}, "rope.sliding_attention.theta is 1000000.0"),
        ({"model_type": "gemma3", "text_config": {"num_hidden_layers": 2}},
         {"text_config": {"num_hidden_layers": 2, "rope_theta": 5.0}},
         "text_config.rope.full_attention.theta is 5.0 against 1000000.0"),
        # What else decides what weights mean.
        (LLAMA, {"hidden_act": "relu"}, 'hidden_act is "relu" against "silu"'),
        (LLAMA, {"hidden_act": "gelu"}, 'hidden_act is "gelu" against "silu"'),
        (LLAMA, {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05 against 1e-06"),
        (LLAMA, {"attention_bias": True}, "attention_bias is true against false"),
        (small("qwen2"), {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 9},
         "layer_types is"),
        (GEMMA, {"layer_types": ["full_attention"] * 2}, "layer_types is"),
        (small("gemma2"), {"tie_word_embeddings": False}, "tie_word_embeddings is false against t"),
        (small("gemma2"), {"final_logit_softcapping": None}, "softcapping is null against 30.0"),
        (small("opt"), {"do_layer_norm_before": False}, "do_layer_norm_before is false against tr"),
        (small("mamba2"), {"time_step_limit": [0.0, 1.0]}, "time_step_limit is"),
        ({"model_type": "t5"}, {"feed_forward_proj": "gelu"}, 'dense_act_fn is "gelu" against'),
        ({"model_type": "t5"}, {"relative_attention_max_distance": 64}, "max_distance is 64 again"),
        (small("falcon_h1"), {"lm_head_multiplier": 0.5}, "lm_head_multiplier is 0.5 against 1.0"),
        ({"model_type": "llava"}, {"projector_hidden_act": "relu"}, 'hidden_act is "relu" against'),
        ({"model_type": "mobilenet_v2"}, {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06 again"),
    ],
)  # fmt: skip
def test_a_key_that_is_absent_means_its_default(
    tmp_path: Path, first: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        family(tmp_path / "1", {"config": first}, {"config": {**first, **other}})
    with pytest.raises(CheckpointError, match=message.split(" is ")[0]):
        family(tmp_path / "2", {"config": {**first, **other}}, {"config": first})


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (LLAMA, {"rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu"}),
        (LLAMA, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}),
        (LLAMA, {"partial_rotary_factor": 1.0, "tie_word_embeddings": False}),
        (small("gpt_neox"), {"rotary_pct": 0.25, "rotary_emb_base": 10000}),
        (small("gemma2"), {"tie_word_embeddings": True, "sliding_window": 4096}),
        (GEMMA, {"rope_local_base_freq": 10000.0, "rope_theta": 1000000.0}),
        (small("mistral"), {"head_dim": None}),
        ({"model_type": "gpt2"}, {"n_inner": None, "activation_function": "gelu_new"}),
        (LLAMA, {"hidden_act": "swish"}),
        ({"model_type": "gpt2"}, {"activation_function": "gelu_accurate"}),
        ({"model_type": "gpt2"}, {"activation_function": "gelu_pytorch_tanh"}),
        ({"model_type": "bert"}, {"hidden_act": "gelu_python"}),
        (small("mamba2"), {"time_step_limit": [0.0, {"__float__": "Infinity"}]}),
        (small("mamba2", time_step_limit=[0.0, float("inf")]),
         {"time_step_limit": [0.0, {"__float__": "Infinity"}]}),
    ],
)  # fmt: skip
def test_a_default_that_is_said_says_nothing(
    tmp_path: Path, first: dict[str, Any], other: dict[str, Any]
) -> None:
    a = model(tmp_path / "a", config=first)
    b = model(tmp_path / "b", config={**first, **other})
    assert compare_configs(a, b, partial=False, vocabulary=False) == []
    assert compare_configs(b, a, partial=False, vocabulary=False) == []


def test_what_an_unknown_class_means_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"model_type": "nobody_knows", "hidden_size": 2}
    (notice,) = family(
        tmp_path / "1", {"config": own}, {"config": {**own, "rope_theta": 1e6}}
    ).notices
    assert "rope.theta is 1000000.0 against absent" in notice
    assert "could not be told (transformers" in notice
    assert "has no model type 'nobody_knows'" in notice
    assert family(tmp_path / "2", {"config": own}, {"config": own}).notices == ()
    many = {**LLAMA, "num_hidden_layers": 10**9}
    (notice,) = family(tmp_path / "3", {"config": many}, {"config": {**many, "x": 1}}).notices
    assert "num_hidden_layers is 1000000000; expected at most" in notice
    # Where transformers is not installed, only equal files are silent.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changed = small("llama", mlp_bias=True, marker=2)
    (notice,) = family(
        tmp_path / "4", {"config": {**LLAMA, "marker": 2}}, {"config": changed}
    ).notices
    assert "mlp_bias is true against absent" in notice
    assert "the package 'transformers' is not installed: pip install '" in notice
    assert family(tmp_path / "5", {"config": LLAMA}, {"config": LLAMA}).notices == ()


def test_what_is_told(tmp_path: Path) -> None:
    changed = {**CONFIG, "eos_token_id": 3, "max_position_embeddings": 128}
    found = family(
        tmp_path,
        {
            "generation_config": {"temperature": 0.6, "transformers_version": "4.1"},
            "tokenizer_config": {"chat_template": "one"},
            "special_tokens_map": {"eos_token": "b"},
        },
        {
            "config": changed,
            "generation_config": {"temperature": 0.7, "transformers_version": "4.2"},
            "tokenizer_config": {"chat_template": "two"},
            "special_tokens_map": {"eos_token": {"content": "b"}},
        },
    )
    config, template, generation = found.notices
    assert "eos_token_id is 3 against 2; max_position_embeddings is 128 against 64" in config
    assert "another chat template than in" in template
    assert "other values of temperature in generation_config.json" in generation
    other = family(tmp_path / "2", {"tokenizer_config": {"chat_template": "x"}}, {
        "tokenizer_config": {"eos_token": "b"}
    })  # fmt: skip
    assert "has a chat template and" in other.notices[0]
    assert (
        "has a chat template and"
        in family(  # A tokenizer need not have a configuration.
            tmp_path / "6", {}, {"tokenizer_config": {"chat_template": "x"}}
        ).notices[0]
    )
    alone = family(tmp_path / "3", {}, {"tokenizer": None})
    assert "has no tokenizer" in alone.notices[0]
    bare = family(tmp_path / "4", {"config": None}, {})
    assert "comes without config.json" in bare.notices[0]
    assert family(tmp_path / "5", {}, {"config": None}).notices == ()


def test_a_quantisation_that_the_weights_do_not_have_is_told(tmp_path: Path) -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "bitnet"}}
    (notice,) = family(tmp_path, {"config": config}, {"config": config}).notices
    assert "and they are not; what is written does not say so" in notice


@pytest.mark.parametrize(
    "file",
    ["generation_config", "preprocessor_config", "processor_config", "sentence_bert_config"],
)
def test_settings_that_the_result_will_not_have_are_told(tmp_path: Path, file: str) -> None:
    settings: dict[str, Any] = {file: {"eos_token_id": [2, 3], "transformers_version": "4.1"}}
    (notice,) = family(tmp_path, {}, settings).notices
    assert f"b has a {file}.json ('eos_token_id') and" in notice
    assert notice.endswith("has none (the result will have none)")
    assert not family(tmp_path / "kept", settings, {}).notices
    other = {file: {"eos_token_id": 2}}
    (notice,) = family(tmp_path / "both", settings, other).notices
    assert f"other values of eos_token_id in {file}.json" in notice


LABELS = {"0": "contradiction", "1": "neutral", "2": "entailment"}


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        (LABELS, True),
        ({"0": "Contradiction", "1": "NEUTRAL", "2": "entailment"}, True),
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, True),
        (None, True),
        ({"0": "contradiction", "1": "entailment", "2": "neutral"}, False),
        ({"0": "Entailment", "1": "Neutral", "2": "Contradiction"}, False),
        ({"0": "neutral", "1": "other", "2": "more"}, False),
    ],
)
def test_labels_of_classifiers(tmp_path: Path, other: dict[str, str] | None, fits: bool) -> None:
    files = {"config": {**CONFIG, "id2label": LABELS}}, {"config": {**CONFIG, "id2label": other}}
    if fits:
        family(tmp_path, *files)
        return
    with pytest.raises(CheckpointError, match=r"has number \d against \d in id2label; rows of the"):
        family(tmp_path, *files)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (tokenizer({"<unk>": 0, "a": 1, "c": 2, "b": 3}), "token 'b' has id 3 against 2"),
        (tokenizer({"<unk>": 0, "a": 1, "b": 2, "x": 3}), "id 3 is token 'x' against 'c'"),
        (tokenizer(new=4), "it has besides the tokens 'new'"),
        (tokenizer({"<unk>": 0, "a": 1, "b": 2}), r"it lacks the tokens 'c' \(id 3\)"),
    ],
)
def test_tokenizers_must_agree(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        family(tmp_path, {}, {"tokenizer": other})
    assert "'vocabulary: common'" in str(caught.value)


def test_tokenizers_in_other_files(tmp_path: Path) -> None:
    # A list of pairs (Unigram), and vocab.json with added_tokens.json, say the same.
    pairs = {"model": {"vocab": [[token, -1.0] for token in VOCABULARY]}}
    files = {"tokenizer": None, "vocab": {"<unk>": 0, "a": 1, "b": 2}, "added_tokens": {"c": 3}}
    notices = family(tmp_path / "1", {"tokenizer": pairs}, files).notices
    assert [text.split(" differs")[0] for text in notices] == [str(tmp_path / "1/b/vocab.json")]
    wrong = {**files, "added_tokens": {"d": 3}}
    with pytest.raises(CheckpointError, match="id 3 is token 'd' against 'c'"):
        family(tmp_path / "2", {}, wrong)
    for name in ("a", "b"):
        model(tmp_path / "3" / name, tokenizer=None)
        (tmp_path / "3" / name / "tokenizer.model").write_bytes(b"pieces of " + name.encode())
    with pytest.raises(CheckpointError, match=r"b/tokenizer.model .*the files differ"):
        make_family([open_checkpoint(tmp_path / "3" / name) for name in ("a", "b")])


@pytest.mark.parametrize(
    ("first", "other", "rows"),
    [
        (tokenizer(x=4), tokenizer(y=4), 4),  # one of its own each
        (tokenizer(), tokenizer(y=4), 4),  # one added
        (tokenizer(), tokenizer({"<unk>": 0, "a": 1, "z": 2, "c": 3}), 2),
        (tokenizer(), tokenizer(), 4),  # padded embeddings
    ],
)
def test_common_rows(
    tmp_path: Path, first: dict[str, Any], other: dict[str, Any], rows: int
) -> None:
    found = family(
        tmp_path,
        {"rows": 6, "tokenizer": first, "config": {**CONFIG, "vocab_size": 6}},
        {"rows": 5, "tokenizer": other, "config": {**CONFIG, "vocab_size": 5}},
        vocabulary="common",
    )
    shapes = {slot.name: slot.shape for slot in found.layout.slots}
    assert shapes == {
        "model.embed_tokens.weight": (rows, 2),
        "model.layers.0.mlp.weight": (2, 2),
        "lm_head.weight": (rows, 2),
    }
    assert found.layout.axis.size == 2 * rows * 2 + 4
    assert any(f"ids 0 to {rows - 1} are the same" in text for text in found.notices)


def test_common_rows_need_tokens(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"needs a config.json with vocab_size and a tokeni"):
        family(tmp_path / "1", {}, {"tokenizer": None}, vocabulary="common")
    with pytest.raises(CheckpointError, match=r"no tokens in common.*already id 0"):
        other = tokenizer({"zero": 0, "a": 1, "b": 2, "c": 3})
        family(tmp_path / "2", {}, {"tokenizer": other}, vocabulary="common")
    same = family(tmp_path / "3", {}, {}, vocabulary="common")
    assert same.notices == ("all seeds have the same tokens",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config", "{", "config.json: cannot be read as JSON"),
        ("config", "[]", "config.json: expected a JSON object; got list"),
        ("config", '{"a": 1, "a": 2}', "the name 'a' occurs twice"),
        ("tokenizer", '{"model": 3}', "'model.vocab' is not what tokenizers write"),
        ("tokenizer", '{"model": {"vocab": {"a": "x"}}}', "token 'a' has the id x"),
        ("tokenizer", '{"model": {"vocab": {}}, "added_tokens": [3]}', "'added_tokens' is not"),
        ("generation_config", "nope", "generation_config.json: cannot be read"),
    ],
)
def test_damaged_pinned_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    model(tmp_path / "a", generation_config={})
    model(tmp_path / "b", generation_config={})
    (tmp_path / "b" / f"{name}.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        make_family([open_checkpoint(tmp_path / part) for part in ("a", "b")])
    assert len(str(caught.value).splitlines()) == 1
