"""A model made again from its recipe, and what its card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from genepool.checkpoints.files.checkpoint import open_checkpoint
from genepool.checkpoints.model_files import configs
from genepool.errors import CheckpointError, InputError
from genepool.governance.licences import common_licence, hub_id, licence_of
from genepool.output.by_hand import blend, merge
from genepool.output.member import export
from genepool.output.rebuild import rebuild
from genepool.output.write.weights import Writing
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from tests.attacks.test_seeds import adapter, model
from tests.build import save
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import write_run


def places(directory: Path) -> dict[str, Path]:
    return {name: directory / f"{name}.safetensors" for name in ("seed1", "seed2")}


def front_matter(page: str) -> dict[str, Any]:
    _, front, _ = page.split("---\n", 2)
    return yaml.safe_load(front)


@pytest.mark.parametrize("dtype", quick([None, "BF16", "F16", "F64"], (0, 1)))
@pytest.mark.parametrize("source", quick(["file", "directory", "shard"], (0, 2)))
def test_a_recipe_gives_the_same_tensors(tmp_path: Path, dtype: str | None, source: str) -> None:
    run = write_run(tmp_path, budget=30, chromosomes={"weights": ["*.weight"]})
    evolve(run)
    with Pool(tmp_path / "pool") as pool:
        done = export(pool, "best", tmp_path / "out", Writing(dtype, 400))
    recipe = {
        "file": tmp_path / "out/genepool.json",
        "directory": tmp_path / "out",
        "shard": next((tmp_path / "out").glob("*.safetensors")),
    }[source]
    again = rebuild(recipe, tmp_path / "again", seeds=places(tmp_path))
    assert again.genome == done.genome
    digests = {open_checkpoint(tmp_path / name).digest() for name in ("out", "again")}
    assert len(digests) == 1
    # A rebuilt model can be rebuilt again.
    last = rebuild(tmp_path / "again", tmp_path / "last", seeds=places(tmp_path))
    assert open_checkpoint(last.directory).digest() in digests


def test_equal_exports_have_equal_bytes(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=20))
    contents: list[dict[str, bytes]] = []
    for name in ("one/out", "two/out"):
        with Pool(tmp_path / "pool") as pool:
            done = export(pool, "best", tmp_path / name)
        contents.append({file.name: file.read_bytes() for file in done.directory.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"README.md", "genepool.json", "model.safetensors"}


def test_the_card_of_a_champion(tmp_path: Path) -> None:
    seeds = [
        {"path": "seed1.safetensors", "licence": "Apache-2.0"},
        {"path": "seed2.safetensors", "name": "tw|o <b>", "licence": "MIT"},
    ]
    evolve(write_run(tmp_path, budget=40, seeds=seeds))
    with Pool(tmp_path / "pool") as pool:
        done = export(pool, "best", tmp_path / "champion")
        status = pool.status()
    page = (done.directory / "README.md").read_text()
    assert front_matter(page) == {
        "base_model": ["seed1", "tw|o <b>"],
        "base_model_relation": "merge",
        "license": "other",
        "tags": ["merge", "genepool", "m2n2"],
    }
    assert "# champion" in page
    assert "| seed1 | apache-2.0 |" in page
    assert "| tw\\|o &lt;b&gt; | mit |" in page
    for seed in status["seeds"]:
        assert f"{seed['train']:.4f} | {seed['held_out']:.4f} |" in page
    best = status["champion"]
    assert f"(member {best['member']}) | {best['train']:.4f} | {best['held_out']:.4f} |" in page
    assert "## Ancestry" in page
    assert str(tmp_path) not in page


def test_a_card_declares_the_licence_that_all_seeds_share(tmp_path: Path) -> None:
    write_run(tmp_path)
    for name, seed in (("a", "seed1"), ("b", "seed2")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{seed}.safetensors").rename(tmp_path / name / "model.safetensors")
        (tmp_path / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mine\n")
    (tmp_path / "a/config.json").write_text('{"model_type": "llama", "torch_dtype": "float32"}')
    (tmp_path / "a/modeling_mine.py").write_text("print('run')")
    done = merge(tmp_path / "a", tmp_path / "b", tmp_path / "out", ratio=0.5, dtype="BF16")
    names = {file.name for file in done.directory.iterdir()}
    assert names == {"README.md", "config.json", "genepool.json", "model.safetensors"}
    front = front_matter((done.directory / "README.md").read_text())
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "transformers"
    assert json.loads((done.directory / "config.json").read_text())["torch_dtype"] == "bfloat16"
    again = rebuild(done.directory, tmp_path / "x", seeds={n: tmp_path / n for n in ("a", "b")})
    assert open_checkpoint(again.directory).digest() == open_checkpoint(done.directory).digest()


APACHE = "Apache License\nVersion 2.0, January 2004\n"
# Where it begins and ends, and what is between in words of no weight.
MIT = (
    "MIT License\n\nCopyright (c) X\n\nPermission is hereby granted, free of charge, to anyone.\n"
    "The above copyright notice stays.\n\nNo warranty for the use or other dealings in the\n"
    "Software.\n"
)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("README.md", "---\nlicense: MIT\n---\n", "mit"),
        ("README.md", "---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("README.md", "---\nlicense: Other\nlicense_name: Its Own  Terms\n---\n", "its-own-terms"),
        ("README.md", "\n\n---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
        ("README.md", "---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("README.md", "---\nlicense: [\n---\n", None),
        ("README.md", "no front matter", None),
        ("LICENSE", "\n   Apache License\n   Version 2.0, January 2004\n", "apache-2.0"),
        ("LICENSE.txt", "Permission is hereby granted, free of charge, to any", "mit"),
        ("LICENSE", "The MIT License (MIT)\n\nCopyright (c) 2023 X\n\nPermission is hereby "
         "granted, free of charge, to", "mit"),
        ("LICENSE", "Copyright 2018 X. All rights reserved.\n\n  Apache License\nVersion 2.0, "
         "January 2004", "apache-2.0"),
        ("LICENSE", "Attribution 4.0 International\n\n====\n", "cc-by-4.0"),
        ("LICENSE", "META LLAMA 3 COMMUNITY LICENSE AGREEMENT\n", "llama3"),
        ("LICENSE", "Copyright (c) X\nRedistribution and use in source and binary forms. Neither "
         "the name of X nor the names of", "bsd-3-clause"),
        ("LICENSE", "All mine.", "see LICENSE"),
        # None of these is what it names.
        ("LICENSE", "Falcon License 1.0\nThis license is, in part, based on the Apache License "
         "Version 2.0, January 2004", "see LICENSE"),
        ("LICENSE", "Modified MIT License\n\nCopyright (c) X\n\nPermission is hereby granted, free "
         "of charge", "see LICENSE"),
        ("LICENSE", MIT, "mit"),
        ("LICENSE", MIT.replace("The above", "The Software shall be used for Good, not Evil. The "
         "above"), "see LICENSE"),
        ("LICENSE", f"{MIT}\nIt must not be used to train other models.", "see LICENSE"),
        ("LICENSE", f"{APACHE}{'terms ' * 2000}\n\"Commons Clause\" License Condition v1.0",
         "see LICENSE"),
        ("LICENSE", "Code is under the MIT License. Weights are not.", "see LICENSE"),
        ("LICENSE", "MIT License for code, no licence for weights", "see LICENSE"),
        ("LICENSE", "We do not permit licensees to sell it.", "see LICENSE"),
    ],
)  # fmt: skip
def test_licences_are_read_where_seeds_declare_them(
    tmp_path: Path, file: str, text: str, expected: str | None
) -> None:
    (tmp_path / file).write_text(text)
    assert licence_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("base", "own", "declared"),
    [
        ("llama3", "mit", "llama3, mit"),
        ("llama3", None, "llama3, not declared"),
        (None, "mit", "not declared, mit"),
        ("mit", "mit", "mit"),
    ],
)
def test_an_adapter_comes_under_the_licence_of_its_base_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    base: str | None,
    own: str | None,
    declared: str,
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    model(tmp_path / "base")
    adapter(tmp_path / "one")
    adapter(tmp_path / "two", {"model.layers.0.mlp.lora_B.weight": np.ones((4, 2), np.float32)})
    for name, licence in (("base", base), ("one", own), ("two", own)):
        if licence is not None:
            (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    one, two = (
        {"path": str(tmp_path / name), "base": str(tmp_path / "base")} for name in ("one", "two")
    )
    done = merge(one, two, tmp_path / "out", ratio=0.5)
    assert [seed["licence"] for seed in done.details["seeds"]] == [declared] * 2
    front = front_matter((done.directory / "README.md").read_text())
    assert front["license"] == (declared if " " not in declared else "other")


def test_the_licences_of_several_seeds_go_along_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    a, b = model(tmp_path / "a"), model(tmp_path / "b b", 1)
    (a / "LICENSE").write_text("MIT License")
    (a / "License-notes.md").write_text("notes")

    def written(first: Path, second: Path, *licences: str, **more: Any) -> str:
        done = merge(first, second, tmp_path / "out", ratio=0.5, overwrite=True, **more)
        found = {
            p.name: p.read_text() for p in done.directory.iterdir() if "LICEN" in p.name.upper()
        }
        assert sorted(found) == sorted(licences)
        for name in ("LICENSE-a", "LICENSE-b-b.txt"):
            if name in found:
                assert found[name] == ("MIT License" if name == "LICENSE-a" else "Apache")
        return (done.directory / "README.md").read_text()

    # b says nothing: what a says does not hold for the whole.
    page = written(a, b, "LICENSE-a", "License-notes-a.md")
    assert "`LICENSE-a`, `License-notes-a.md`" in page
    (b / "LICENSE.txt").write_text("Apache")
    (b / "NOTICE").write_text("we ask")
    written(a, b, "LICENSE-a", "License-notes-a.md", "LICENSE-b-b.txt")
    assert (tmp_path / "out/NOTICE-b-b").read_text() == "we ask"
    (a / "License-notes.md").unlink()
    written(b, a, "LICENSE-a", "LICENSE-b-b.txt")
    # The same for all: it keeps its name.
    (b / "NOTICE").unlink()
    (b / "LICENSE.txt").write_text("MIT License")
    assert "front" not in written(a, b, "LICENSE")
    # All declare the same, and one brings the text.
    (b / "LICENSE.txt").unlink()
    for place in (a, b):
        (place / "README.md").write_text("---\nlicense: mit\n---\n")
    written(b, a, "LICENSE")
    # An adapter's base has a licence of its own, too.
    own = adapter(tmp_path / "own")
    (own / "LICENSE").write_text("Apache License Version 2.0, January 2004")
    written(a, own, "LICENSE-a", "LICENSE-own", "LICENSE-own.base", adapter_base=str(a))


def test_a_recipe_whose_adapters_need_a_base_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    base = model(tmp_path / "base")
    one = adapter(tmp_path / "one", base_model_name_or_path="org/base")
    done = merge(base, one, tmp_path / "out", ratio=0.3, adapter_base=str(base))
    assert (
        "--moved base=PATH one=PATH one.base=PATH -o DIR"
        in (done.directory / "README.md").read_text()
    )
    places = {"base": base, "one": one, "one.base": base}
    again = rebuild(done.directory, tmp_path / "again", seeds=places)
    assert open_checkpoint(again.directory).digest() == open_checkpoint(done.directory).digest()
    assert "one=PATH one.base=PATH" in (again.directory / "README.md").read_text()
    # With another base, and with one that is not there, it is said which option means it.
    model(tmp_path / "other", 1)
    for wrong in (tmp_path / "other", tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"--moved one\.base=PATH"):
            rebuild(done.directory, tmp_path / "no", seeds={**places, "one.base": wrong})


def test_what_goes_out_names_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENEPOOL_CACHE", str(tmp_path / "cache"))
    base = model(tmp_path / "base")
    one = adapter(tmp_path / "one", base_model_name_or_path="org/another")
    shutil.copy(base / "tokenizer.json", one)
    for place, value in ((base, 1), (one, 2)):
        settings = {"chat_template": f"{value}", "add_bos_token": value == 1}
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
    done = merge(base, one, tmp_path / "out", ratio=0.3, adapter_base=str(base))
    assert len(done.notices) >= 3
    assert all(str(tmp_path) in notice for notice in done.notices)
    assert any("'org/another'" in notice for notice in done.details["notices"])
    assert any(text.startswith("one: another chat") for text in done.details["notices"])
    for written in sorted(done.directory.iterdir()):
        assert str(tmp_path).encode() not in written.read_bytes(), written
    page = (done.directory / "README.md").read_text()
    assert "another chat template than in base" in page
    # Of two places the names of which begin alike.
    pair = [model(tmp_path / name) for name in ("base/of", "base-2")]
    for number, place in enumerate(pair):
        (place / "generation_config.json").write_text(json.dumps({"top_k": number}))
    done = merge(*pair, tmp_path / "two", ratio=0.3)
    (line,) = [text for text in done.details["notices"] if "top_k" in text]
    assert line.startswith("base-2: other values of top_k in generation_config.json than in of (")


def test_a_licence_that_the_hub_does_not_know_keeps_its_name_and_link(tmp_path: Path) -> None:
    write_run(tmp_path)
    url = "https://example.org/LICENSE"
    front = f"---\nlicense: other\nlicense_name: Qwen Research\nlicense_link: {url}\n---\n"
    for name, seed in (("a", "seed1"), ("b", "seed2")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{seed}.safetensors").rename(tmp_path / name / "model.safetensors")
        (tmp_path / name / "README.md").write_text(front)

    def told(out: str, a: str = "a") -> dict[str, str]:
        done = merge(tmp_path / a, tmp_path / "b", tmp_path / out, ratio=0.5)
        page = front_matter((done.directory / "README.md").read_text())
        return {key: value for key, value in page.items() if key.startswith("license")}

    named = {"license": "other", "license_name": "qwen-research"}
    assert told("1") == {**named, "license_link": url}
    assert told("2", "a/model.safetensors") == {**named, "license_link": url}
    (tmp_path / "b/LICENSE").write_text("Qwen RESEARCH LICENSE AGREEMENT")
    assert told("3") == {**named, "license_link": "LICENSE"}
    # Texts that differ have other names, which the hub does not link to.
    (tmp_path / "a/LICENSE").write_text("another version")
    assert told("4") == {**named, "license_link": url}
    for name in ("a", "b"):
        (tmp_path / name / "LICENSE").unlink()
        text = front.replace(url, "LICENSE")
        (tmp_path / name / "README.md").write_text(text)
    assert told("5") == named
    (tmp_path / "b/README.md").write_text("---\nlicense: mit\n---\n")
    assert told("6") == {"license": "other"}


def test_a_licence_that_a_file_declares_itself(tmp_path: Path) -> None:
    write_run(tmp_path)
    said = {"modelspec.license": "CreativeML Open\nRAIL++-M"}
    save_file(load_file(tmp_path / "seed1.safetensors"), tmp_path / "seed1.safetensors", said)
    done = merge(*(tmp_path / f"seed{n}.safetensors" for n in (1, 2)), tmp_path / "out", ratio=0.5)
    assert [seed["licence"] for seed in done.details["seeds"]] == [
        "creativeml open\\nrail++-m",
        None,
    ]
    assert "do not all declare one licence" in (tmp_path / "out/README.md").read_text()


def test_the_common_licence() -> None:
    assert common_licence(["mit", "mit"]) == "mit"
    assert common_licence(["mit", None]) == "other"
    assert common_licence(["mit", "apache-2.0"]) == "other"
    assert common_licence([None, None]) == "other"
    assert common_licence(["see LICENSE", "see LICENSE"]) == "other"


def test_ids_of_the_hub() -> None:
    assert hub_id("org/name") == "org/name"
    assert hub_id("org/name@main") == "org/name@main"
    assert hub_id("/cache/models--org--name/snapshots/abc") == "org/name"
    assert hub_id("/models/mine") is None


def test_rebuilding_from_other_seeds(tmp_path: Path) -> None:
    write_run(tmp_path)
    done = merge(*places(tmp_path).values(), tmp_path / "out", ratio=0.2)
    wrong = {**places(tmp_path), "seed2": tmp_path / "seed3.safetensors"}
    with pytest.raises(CheckpointError, match=r"seed 'seed2': .* other tensors"):
        rebuild(done.directory, tmp_path / "again", seeds=wrong)
    with pytest.raises(InputError, match="needs the seed 'seed2'"):
        rebuild(done.directory, tmp_path / "again", seeds={"seed1": wrong["seed1"]})
    with pytest.raises(InputError, match="no seed named 'seed9'"):
        rebuild(done.directory, tmp_path / "again", seeds={**wrong, "seed9": tmp_path})
    assert not (tmp_path / "again").exists()


def test_other_files_than_beside_the_recipe_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large they are: the model is written by then."""
    monkeypatch.setattr(configs, "_MAX", 100)
    seeds = {name: save(tmp_path / name, {"fc": torch.randn(2, 2)}) for name in "ab"}
    for seed in seeds.values():
        (seed / "config.json").write_text('{"hidden_size": 2}')
        (seed / "words.txt").write_text("word " * 100)
    done = merge(seeds["a"], seeds["b"], tmp_path / "out", ratio=0.2)
    assert rebuild(done.directory, tmp_path / "same", seeds=seeds).changed == ()
    (seeds["a"] / "config.json").write_text('{"hidden_size": 2, "scale": 3}')
    (line,) = rebuild(done.directory, tmp_path / "again", seeds=seeds).changed
    assert line.startswith(f"{done.directory} has other content in 'config.json': what was written")
    (done.directory / "words.txt").unlink()
    assert rebuild(done.directory, tmp_path / "last", seeds=seeds).changed == (line,)


@pytest.mark.parametrize(
    "file",
    ["q_tokenizer/vocab.txt", "additional_chat_templates/rag.jinja", "2_Dense/model.safetensors"],
)
def test_other_files_in_folders_beside_the_recipe_are_told(tmp_path: Path, file: str) -> None:
    seeds = {name: save(tmp_path / name, {"fc": torch.randn(2, 2)}) for name in "ab"}
    changed = seeds["a"] / file
    changed.parent.mkdir()
    (seeds["a"] / "modules.json").write_text('[{"path": "2_Dense"}]')
    changed.write_text("a")
    done = merge(seeds["a"], seeds["b"], tmp_path / "out", ratio=0.2)
    assert rebuild(done.directory, tmp_path / "same", seeds=seeds).changed == ()
    changed.write_text("b")
    (line,) = rebuild(done.directory, tmp_path / "again", seeds=seeds).changed
    assert f"has other content in '{file}': what was written" in line


def test_a_dense_genome_is_made_again_by_its_pool(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=5, strategy={"name": "m2n2", "archive": 5, "mutation": 0.1}))
    with Pool(tmp_path / "pool") as pool:
        done = export(pool, 4, tmp_path / "out")
    with pytest.raises(InputError, match="genepool export POOL"):
        rebuild(done.directory, tmp_path / "again", seeds=places(tmp_path))


def test_rebuild_on_the_command_line(tmp_path: Path) -> None:
    write_run(tmp_path)
    done = merge(*places(tmp_path).values(), tmp_path / "out", ratio=0.2, split=0.4, angle="side")
    one, two = (f"{name}={path}" for name, path in places(tmp_path).items())
    command = ["rebuild", str(done.directory / "genepool.json"), "--seeds", one, two]
    code, out, error = run_cli([*command, "-o", str(tmp_path / "again"), "--json"])
    assert code == 0, error
    assert json.loads(out)["genome"] == done.genome
    assert open_checkpoint(tmp_path / "again").digest() == open_checkpoint(done.directory).digest()


@pytest.mark.parametrize(
    "method", ["linear", "task-arithmetic", "ties", "dare-ties", "dare-linear"]
)
def test_blends_are_made_again(tmp_path: Path, method: str) -> None:
    write_run(tmp_path)
    models = list(places(tmp_path).values())
    base = None if method == "linear" else tmp_path / "seed3.safetensors"
    options: dict[str, Any] = {} if method in ("linear", "task-arithmetic") else {"density": 0.3}
    done = blend(
        models, tmp_path / "out", method=method, base=base, weights=[0.4, 0.8], seed=5, **options
    )
    seeds = {**places(tmp_path), **({"seed3": base} if base else {})}
    again = rebuild(done.directory, tmp_path / "again", seeds=seeds)
    assert again.genome == done.genome
    assert open_checkpoint(again.directory).digest() == open_checkpoint(done.directory).digest()
    assert method in (done.directory / "README.md").read_text()


@pytest.mark.parametrize("density", [[0.2, 0.5], [0.4, 0.4], [1, 1], 1])
def test_densities_are_made_again(tmp_path: Path, density: Any) -> None:
    write_run(tmp_path)
    models, base = list(places(tmp_path).values()), tmp_path / "seed3.safetensors"
    done = blend(models, tmp_path / "out", method="dare-ties", base=base, density=density)
    again = rebuild(done.directory, tmp_path / "again", seeds={**places(tmp_path), "seed3": base})
    assert again.genome == done.genome
    assert open_checkpoint(again.directory).digest() == open_checkpoint(done.directory).digest()


def test_linear_and_task_arithmetic_are_the_formulas(tmp_path: Path) -> None:
    write_run(tmp_path)
    paths = [tmp_path / f"seed{n}.safetensors" for n in (1, 2, 3)]
    one, two, base = (load_file(path) for path in paths)
    mean = load_file(
        blend(paths[:2], tmp_path / "m", weights=[1, 3]).directory / "model.safetensors"
    )
    moved = blend(
        paths[:2],
        tmp_path / "t",
        method="task-arithmetic",
        base=paths[2],
        weights=[0.5, 1],
        scale=2,
    )
    sum_ = load_file(moved.directory / "model.safetensors")
    for name in one:
        np.testing.assert_allclose(mean[name], 0.25 * one[name] + 0.75 * two[name], atol=1e-6)
        expected = base[name] + 2 * (0.5 * (one[name] - base[name]) + (two[name] - base[name]))
        np.testing.assert_allclose(sum_[name], expected, atol=2e-6)


def test_a_cache_that_cannot_be_written_does_not_stop_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path)
    seeds = [str(path) for path in places(tmp_path).values()]
    merge(seeds[0], seeds[1], tmp_path / "plain", ratio=0.4)
    # Small models are not remembered; what stands in the way of files is a folder and a file.
    monkeypatch.setattr("genepool.output.methods.specification._REMEMBERED", 1)
    cache = tmp_path / "cache"
    (cache / "digests.json").mkdir(parents=True)
    (cache / "gram").write_text("in the way")
    monkeypatch.setenv("GENEPOOL_CACHE", str(cache))
    merge(seeds[0], seeds[1], tmp_path / "out", ratio=0.4)
    one, other = (tmp_path / name / "model.safetensors" for name in ("plain", "out"))
    assert one.read_bytes() == other.read_bytes()
    # With room they are remembered.
    (cache / "digests.json").rmdir()
    (cache / "gram").unlink()
    merge(seeds[0], seeds[1], tmp_path / "third", ratio=0.4)
    assert (cache / "digests.json").is_file() and len(list((cache / "gram").iterdir())) == 1
