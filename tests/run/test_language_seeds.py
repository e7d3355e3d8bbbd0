"""Language models whose vocabularies or architectures differ, and GGUF files, end to end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from genepool.checkpoints.family import Source, make_family, open_source
from genepool.checkpoints.files.gguf import complete
from genepool.errors import CheckpointError
from genepool.materialise.cpu import Destination, Materialiser
from genepool.materialise.torch import CopyingMaterialiser
from genepool.output.by_hand import merge
from genepool.output.member import export
from genepool.output.rebuild import rebuild
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests import language
from tests.cli import run_cli

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# A scorer that takes the live model whatever it is: arrays by name, or a model with parameters.
SCORER = """
import numpy as np

def score(model, *rest):
    examples = rest[-1]
    if isinstance(model, dict) or hasattr(model, "items"):
        values = np.asarray(next(v for k, v in model.items() if "q_proj" in k))
    else:
        values = next(p for k, p in model.named_parameters() if "q_proj" in k)
        values = values.detach().float().numpy()
    picks = [abs(float(values.reshape(-1)[3 * int(e["n"])])) for e in examples]
    return [min(1.0, value) for value in picks]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_file(directory: Path, seeds: list[Any], **changes: Any) -> Path:
    module = f"scorer_{directory.name}"  # Python keeps one module of a name in a process
    (directory / f"{module}.py").write_text(SCORER)
    lines = [json.dumps({"n": n}) for n in range(12)]
    (directory / "numbers.jsonl").write_text("\n".join(lines))
    task = {"name": "n", "evaluator": "function", "function": f"{module}:score"}
    config = {
        "pool": "pool",
        "seeds": seeds,
        "tasks": [{**task, "examples": "numbers.jsonl"}],
        "strategy": {"name": "m2n2", "archive": 4},
        "budget": 8,
        **changes,
    }
    file = directory / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def llava(seed: int) -> Any:
    text = language.llama(0).config
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8, projection_dim=16,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=47, tie_word_embeddings=False
    )
    return language.build(transformers.LlavaForConditionalGeneration, config, seed)


RENAME = {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."}


@pytest.mark.slow
def test_a_language_model_and_the_tower_of_a_vision_model(tmp_path: Path) -> None:
    language.save(llava(1), tmp_path / "vlm")
    language.save(language.llama(2), tmp_path / "llm")
    seeds = ["vlm", {"path": "llm", "rename": RENAME}]
    with pytest.raises(CheckpointError, match="architectures is"):
        evolve(run_file(tmp_path, seeds))
    with pytest.raises(CheckpointError, match="shares no tensor") as caught:
        evolve(run_file(tmp_path, ["vlm", "llm"], partial=True))
    assert """rename: {"": "language_model."} (on the command line --rename '=language_""" in str(
        caught.value
    )
    merge(
        tmp_path / "vlm",
        {"path": str(tmp_path / "llm"), "rename": {"": "language_model."}},
        tmp_path / "as advised",
        ratio=0.5,
        partial=True,
    )
    result = evolve(run_file(tmp_path, seeds, partial=True))
    (notice,) = (text for text in result.notices if "are shared by all seeds" in text)
    assert notice.startswith("21 tensors (")
    assert "vision_tower.encoder" in notice
    with Pool(tmp_path / "pool") as pool:
        member = next(r.id for r in pool.records() if r.parents and len(set(r.parents)) == 2)
        done = export(pool, member, tmp_path / "out")
    vlm, out = (load_file(tmp_path / name / "model.safetensors") for name in ("vlm", "out"))
    assert vlm.keys() == out.keys()
    for name, tensor in vlm.items():
        # The tower of the language evolves; what the language model lacks is carried over.
        assert torch.equal(out[name], tensor) == (not name.startswith("language_model."))
    model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        done.directory, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor([[1, 47, 47, 47, 47, 5, 6]])
    with torch.no_grad():
        text = model.generate(tokens[:, -2:], max_new_tokens=4, do_sample=False)
        seen = model.generate(
            tokens, pixel_values=torch.ones(1, 3, 16, 16), max_new_tokens=4, do_sample=False
        )
    assert text.shape[1] > 2
    assert seen.shape[1] > 7
    # The same by hand, the other way round: what comes out is a plain language model.
    towards = {new: old for old, new in RENAME.items()}
    arguments = [str(tmp_path / "llm"), str(tmp_path / "vlm"), "--ratio", "0.5", "--partial"]
    for old, new in towards.items():
        arguments += ["--rename", f"{old}={new}"]
    code, _, error = run_cli(["merge", *arguments, "-o", str(tmp_path / "plain")])
    assert code == 0, error
    assert "note: 21 tensors (100.0%" in error
    assert torch.isfinite(language.logits(tmp_path / "plain")).all()


def two_vocabularies(directory: Path, tied: bool) -> None:
    """Equal to id 39; then the first has 8 tokens of its own, and the second 5 (and 3 spare)."""
    words = language.WORDS[:40]
    first = language.llama(1, tie_word_embeddings=tied)
    second = language.llama(2, vocab_size=46, tie_word_embeddings=tied)
    language.save(first, directory / "a", [*words, *(f"a{n}" for n in range(8))])
    language.save(second, directory / "b", [*words, *(f"b{n}" for n in range(3))])


@pytest.mark.parametrize("tied", [False, True])
def test_common_rows_of_different_vocabularies(tmp_path: Path, tied: bool) -> None:
    two_vocabularies(tmp_path, tied)
    paths = tmp_path / "a", tmp_path / "b"
    with pytest.raises(CheckpointError, match=r"vocab_size is 46 against 48; .* common'"):
        merge(*paths, tmp_path / "out", ratio=0.5)
    done = merge(*paths, tmp_path / "out", ratio=1.0, vocabulary="common")
    assert any("ids 0 to 39 are the same" in text for text in done.details["notices"])
    a, b, out = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "out"))
    names = {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    for name, tensor in out.items():
        if name in names:
            assert torch.equal(tensor[:40], b[name][:40])
            assert torch.equal(tensor[40:], a[name][40:])
            assert tensor.shape[0] == 48
        else:
            assert torch.equal(tensor, b[name])
    assert language.logits(tmp_path / "out").shape[-1] == 48
    again = rebuild(done.directory, tmp_path / "again", seeds={"a": paths[0], "b": paths[1]})
    weights = "model.safetensors"
    assert (again.directory / weights).read_bytes() == (done.directory / weights).read_bytes()
    # As a type of its own, from where the first seed keeps its rows.
    merge(*paths, tmp_path / "half", ratio=1.0, vocabulary="common", dtype="BF16")
    half = load_file(tmp_path / "half/model.safetensors")
    for name in names:
        assert torch.equal(half[name], out[name].bfloat16())


def test_common_rows_in_live_models_and_runs(tmp_path: Path) -> None:
    two_vocabularies(tmp_path, tied=False)
    result = evolve(run_file(tmp_path, ["a", "b"], vocabulary="common"))
    assert any("ids 0 to 39 are the same" in text for text in result.notices)
    with Pool(tmp_path / "pool") as pool:
        member = next(r.id for r in pool.records() if r.parents and len(set(r.parents)) == 2)
        export(pool, member, tmp_path / "out")
        genome = pool.genome(member)
    expected = load_file(tmp_path / "out/model.safetensors")
    checkpoints = [open_source(Source(str(tmp_path / name))) for name in ("a", "b")]
    family = make_family(checkpoints, vocabulary="common")
    memory = {name: torch.full_like(tensor, 7.0) for name, tensor in expected.items()}
    raw = {name: Destination("F32", t.numpy().reshape(-1)) for name, t in memory.items()}
    Materialiser(family.checkpoints, family.layout, raw).write(genome)
    assert all(torch.equal(memory[name], tensor) for name, tensor in expected.items())
    strided = {name: torch.full((2, *t.shape), 7.0)[1] for name, t in expected.items()}
    half = {name: tensor.bfloat16() for name, tensor in strided.items()}
    for tensors in (strided, half):
        CopyingMaterialiser(family.checkpoints, family.layout, tensors).write(genome)
    for name, tensor in expected.items():
        assert torch.equal(strided[name], tensor)
        assert torch.equal(half[name], tensor.bfloat16())


def test_differences_that_do_no_harm_are_told(tmp_path: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        language.save(language.llama(number), tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(f"{{{{ messages }}}} {number}")
    result = evolve(run_file(tmp_path, ["a", "b"]))
    (notice,) = result.notices
    assert "b: another chat template than in" in notice
    code, _, error = run_cli(["evolve", str(tmp_path / "run.yaml"), "--budget", "9"])
    assert code == 0
    assert f"note: {notice}" in error
    done = merge(tmp_path / "a", tmp_path / "b", tmp_path / "out", ratio=0.5)
    assert (done.directory / "chat_template.jinja").read_text().endswith("1")


def write_gguf(
    file: Path, seed: int = 0, texts: Mapping[str, str] = {}
) -> dict[str, np.ndarray[Any, Any]]:
    """A Llama of two layers in F16 with a byte-level tokenizer of 48 tokens; further texts by the
    names of their fields."""
    import gguf

    file.parent.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(file, "llama")
    for field, text in texts.items():
        writer.add_string(field, text)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(48)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    words = ["<unk>", "<s>", "</s>", *(chr(ord("A") + n) for n in range(44)), "AB"]
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3, *([1] * 45)])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (48, 32), "output.weight": (48, 32), "output_norm.weight": (32,)}
    for layer in range(2):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (32,),
            f"blk.{layer}.ffn_norm.weight": (32,),
            f"blk.{layer}.attn_q.weight": (32, 32),
            f"blk.{layer}.attn_k.weight": (16, 32),
            f"blk.{layer}.attn_v.weight": (16, 32),
            f"blk.{layer}.attn_output.weight": (32, 32),
            f"blk.{layer}.ffn_gate.weight": (64, 32),
            f"blk.{layer}.ffn_up.weight": (64, 32),
            f"blk.{layer}.ffn_down.weight": (32, 64),
        }
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, shape in shapes.items():
        kind = np.float32 if "norm" in name else np.float16
        arrays[name] = (draws.normal(size=shape) * 0.2).astype(kind)
        writer.add_tensor(name, arrays[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays


@pytest.mark.parametrize(
    ("kind", "layers", "width", "heads", "expected"),
    [
        ("Gemma2Config", 46, 4608, 32, 144),
        ("Gemma2Config", 42, 3584, 16, 256),
        ("Gemma3TextConfig", 62, 5376, 32, 168),
        ("Gemma3TextConfig", 48, 3840, 16, 256),
        ("LlamaConfig", 46, 4608, 32, None),
    ],
)
def test_what_gguf_files_of_gemma_do_not_say(
    kind: str, layers: int, width: int, heads: int, expected: int | None
) -> None:
    config = getattr(transformers, kind)(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads
    )
    complete(config)
    assert getattr(config, "query_pre_attn_scalar", None) == expected


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_a_gguf_file(tmp_path: Path, cache: Path, dtype: Any) -> None:
    file = tmp_path / "model.gguf"
    arrays = write_gguf(file)
    checkpoint = open_source(Source(str(file), dtype=dtype))
    assert (checkpoint.path, checkpoint.name) == (file, "model")
    directory = checkpoint.directory
    assert directory is not None
    config = json.loads((directory / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == {"BF16": "bfloat16", "F32": "float32"}[dtype]
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {dtype}
    rounded = (
        f"{file}: its weights are F16, rounded to BF16 here; a run file may name another dtype"
    )
    assert checkpoint.notices == ((rounded,) if dtype == "BF16" else ())
    for ours, theirs in (
        ("lm_head.weight", "output.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        values = checkpoint.tensors[ours].floats()
        expected = torch.from_numpy(arrays[theirs]).float()
        if dtype == "BF16":
            expected = expected.bfloat16().float()
        assert np.array_equal(values, expected.numpy())
    # Opened again, it is there; another file of the same name is another seed.
    weights = directory / "model.safetensors"
    before = weights.stat()
    assert before.st_mode & 0o777 == 0o666 & (directory.stat().st_mode & 0o777)
    assert open_source(Source(str(file), dtype=dtype)).digest() == checkpoint.digest()
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    digest = checkpoint.digest()
    write_gguf(tmp_path / "other.gguf", 1)
    merge(
        {"path": str(file), "dtype": dtype},
        {"path": str(tmp_path / "other.gguf"), "dtype": dtype},
        tmp_path / "out",
        ratio=0.4,
    )
    date = file.stat().st_mtime_ns
    write_gguf(file, 2)
    os.utime(file, ns=(date, date))
    assert open_source(Source(str(file), dtype=dtype)).digest() != digest
    shutil.rmtree(cache)
    assert torch.isfinite(language.logits(tmp_path / "out")).all()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("AB").input_ids[-1] == 47


def test_what_a_gguf_file_says_of_licence_and_templates(tmp_path: Path) -> None:
    own = {"general.license": "other", "general.license.name": "Its Own"}
    pair = [tmp_path / f"{name}/{name}.gguf" for name in "ab"]
    for number, file in enumerate(pair):
        template = {"tokenizer.chat_template": "x", "tokenizer.chat_template.tool_use": "y"}
        write_gguf(file, number, {**own, **(template if number == 0 else {})})
    done = merge(*pair, tmp_path / "out", ratio=0.4)
    assert [seed["licence"] for seed in done.details["seeds"]] == ["its-own", "its-own"]
    page = (tmp_path / "out/README.md").read_text()
    assert 'license: "other"\nlicense_name: "its-own"\n' in page
    (told,) = [notice for notice in done.notices if "tool_use" in notice]
    assert "passes over 'tokenizer.chat_template.tool_use', so that" in told
    # What stands beside the file comes first.
    (pair[0].parent / "README.md").write_text("---\nlicense: mit\n---\n")
    done = merge(*pair, tmp_path / "again", ratio=0.4)
    assert [seed["licence"] for seed in done.details["seeds"]] == ["mit", "its-own"]


@pytest.mark.slow
def test_a_run_from_a_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "models/a.gguf", 1)
    write_gguf(tmp_path / "models/b.gguf", 2)
    seeds = ["models/a.gguf", {"path": "models/b.gguf", "dtype": "F32", "name": "second"}]
    evolve(run_file(tmp_path, seeds))
    with Pool(tmp_path / "pool") as pool:
        assert [seed.name for seed in pool.seeds()] == ["a.gguf", "second"]
        export(pool, "second", tmp_path / "out")
        first = export(pool, "best", tmp_path / "best").directory
        shutil.rmtree(tmp_path / "cache")
        again = export(pool, "best", tmp_path / "again").directory
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (again / weights).read_bytes()
