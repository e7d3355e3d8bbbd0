"""What is scored is what is shipped: exported files score what the pool says, to the last digit."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import genepool
from genepool.checkpoints.files.checkpoint import Checkpoint, open_checkpoint
from genepool.checkpoints.files.safetensors import Tensor
from genepool.errors import GenepoolError, InputError
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.run.file import run_checks
from genepool.run.finished import verify
from genepool.run.finished.verify import export
from tests import exam
from tests.cli import run_cli
from tests.golden.runs import unpin
from tests.lms import rewrite_config, write_lm, write_tokenizer

Rescored = dict[str, tuple[list[float], list[float]]]
DTYPES = ("float16", "bfloat16", "float32")
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Case:
    """A kind of model, what it computes in, the seeds' dtype, and how much noise is added."""

    kind: str
    computes: str | None
    seeds: str
    mutation: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.computes}-over-{self.seeds}-{self.mutation}"


CASES = [
    *(Case("arrays", None, dtype, noise) for dtype in DTYPES for noise in (0.0, 0.05)),
    *(Case(kind, a, b) for kind in ("network", "language") for a in DTYPES for b in DTYPES),
    Case("network", None, "bfloat16"),
    Case("language", None, "float16"),
]


def write_case(folder: Path, case: Case, **changes: Any) -> dict[str, Any]:
    """A run over three seeds."""
    folder.mkdir(parents=True)
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, exam.examples())))
    seeds: list[str] = []
    for number in range(3):
        place = folder / f"seed{number}"
        if case.kind == "language":
            write_lm(place, seed=number, dtype=case.seeds, tokenizer=False)
        else:
            torch.manual_seed(number)
            kind = getattr(torch, case.seeds)
            place.mkdir()
            made = {n: t.to(kind) for n, t in exam.net().state_dict().items()}
            save_file(made, place / "model.safetensors")
        seeds.append(str(place))
    model = {} if case.computes is None else {"dtype": case.computes}
    if case.kind == "network":
        model["network"] = "tests.exam:net"
    task = {
        "name": "exam",
        "evaluator": "function",
        "function": f"tests.exam:{case.kind}",
        "examples": str(folder / "examples.jsonl"),
        "binary": False,
        "held_out": 0.25,
    }
    return {
        "pool": str(folder / "pool"),
        "seeds": seeds,
        "tasks": [task],
        "model": model,
        "budget": 12,
        "early_stop": False,
        "track_held_out": True,
        "strategy": {"name": "m2n2", "archive": 4, "mutation": case.mutation},
        **changes,
    }


def newest(pool: Pool) -> int:
    """The youngest child in the archive: an honest mixture."""
    return max(pool.slots().values())


def rescored(folder: Path, cases: list[Case]) -> Rescored:
    """Scores of each case: those of the pool, and those of an independent script."""
    wanted: dict[str, tuple[str, str | None, str]] = {}
    recorded: dict[str, list[float]] = {}
    for case in cases:
        evolve(write_case(folder / case.name, case))
        with Pool(folder / case.name / "pool") as pool:
            number = newest(pool)
            assert number > 2, "no child got into the archive"
            done = export(pool, number, folder / case.name / "out", verify=True)
            scores = pool.record(number).scores
            assert scores is not None and done.verified >= scores.size
            recorded[case.name] = scores.tolist()
        wanted[case.name] = (case.kind, case.computes, str(folder / case.name / "out"))
    (folder / "wanted.json").write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "tests.exam", str(folder / "wanted.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {case.name: (recorded[case.name], found[case.name]) for case in cases}


@pytest.mark.slow
def test_exported_files_of_every_dtype_score_what_the_pool_says(tmp_path: Path) -> None:
    for name, (recorded, found) in rescored(tmp_path, CASES).items():
        assert len(recorded) == exam.COUNT * 3 // 4
        assert found[: len(recorded)] == recorded, name


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool over float16 seeds, scored as float32."""
    folder = tmp_path_factory.mktemp("half") / "run"
    evolve(write_case(folder, Case("arrays", None, "float16")))
    return folder / "pool"


def test_another_dtype_claims_no_scores(half: Path, tmp_path: Path) -> None:
    with Pool(half) as pool:
        done = export(pool, "best", tmp_path / "out", dtype="F32")
        with pytest.raises(
            InputError,
            match=r"cannot be verified: scores .* with weights in F16.*where .verify. is not",
        ):
            export(pool, "best", tmp_path / "no", dtype="F32", verify=True)
        same = export(pool, "best", tmp_path / "same", dtype="F16")
    assert "measured with weights in F16" in done.unverified and same.verified
    card = (tmp_path / "out/README.md").read_text()
    assert (
        "this file is written as F32 and was not scored" in card and "exam, selection" not in card
    )
    document = json.loads((tmp_path / "out/genepool.json").read_text())
    assert document["train"] is None and document["held_out"] is None
    assert "exam, selection" in (tmp_path / "same/README.md").read_text()
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("of_it", "verified"), [(1.01, True), (0.99, False)])
def test_what_takes_more_than_a_minute_is_verified_only_when_asked_for(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_it: float, verified: bool
) -> None:
    """By what the member's examples took, and how many there are now, held-out ones too."""
    with Pool(half) as pool:
        record, held_out = pool.record(0), pool.held_out_scores(0)
        assert record.scores is not None and held_out is not None
        seconds = record.seconds / record.asked * (record.scores.size + held_out.size)
        monkeypatch.setattr(verify, "_AT_ONCE", of_it * seconds)
        done = export(pool, 0, tmp_path / "out")
        assert (done.verified > 0) == verified
        assert ("more than a minute" in done.unverified) != verified
        assert export(pool, 0, tmp_path / "asked", verify=True).verified == 18 + held_out.size


def test_an_export_that_scores_otherwise_is_refused(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = exam.arrays

    def worse(model: Any, examples: Any) -> list[float]:
        return [0.9 * score for score in own(model, examples)]

    monkeypatch.setattr(exam, "arrays", worse)
    stages: list[str] = []
    with Pool(half) as pool:
        with pytest.raises(GenepoolError, match="scores otherwise than the pool says on 18 of 18"):
            export(pool, "best", tmp_path / "out", stage=stages.append)
        assert list(tmp_path.iterdir()) == []
        # Scoring can take longer than writing, and nothing was told of it.
        assert stages == ["loading and scoring what was written"]
        done = export(pool, "best", tmp_path / "out", verify=False, stage=stages.append)
        assert len(stages) == 1
    assert done.verified == 0 and done.unverified == ""


def without_evaluators(patch: pytest.MonkeyPatch) -> None:
    def find(*_: object) -> type[Any]:
        raise AssertionError("an evaluator is looked for")

    patch.setattr(run_checks, "find_evaluator", find)


def test_an_export_that_is_not_verified_needs_no_evaluator(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_evaluators(monkeypatch)
    done = genepool.export(half, "best", tmp_path / "out", verify=False)
    assert done.changed == () and load_file(tmp_path / "out/model.safetensors")


@pytest.mark.slow
def test_files_that_have_changed_since_the_run_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_case(tmp_path / "run", Case("language", None, "float32"), budget=3)
    evolve(run)
    with Pool(run["pool"]) as pool:
        assert export(pool, "best", tmp_path / "same").changed == ()
        for seed in run["seeds"]:
            rewrite_config(Path(seed), rms_norm_eps=0.1)
        with pytest.raises(GenepoolError, match=r"scores otherwise .* another configuration than"):
            export(pool, "best", tmp_path / "no")
        without_evaluators(monkeypatch)
        (line,) = export(pool, "best", tmp_path / "out", verify=False).changed
    assert line.startswith(f"{run['seeds'][0]}: another configuration than when the pool was made")


@pytest.mark.slow
def test_a_tokenizer_that_the_run_names_is_not_told_as_one_that_is_written(tmp_path: Path) -> None:
    run = write_case(tmp_path / "run", Case("language", None, "float32"), budget=0)
    run["model"] = {"tokenizer": str(tmp_path / "words")}
    write_tokenizer(tmp_path / "words")
    evolve(run)
    shutil.rmtree(tmp_path / "words")
    with Pool(run["pool"]) as pool:
        assert export(pool, "best", tmp_path / "out", verify=False).changed == ()
        for seed in run["seeds"]:
            rewrite_config(Path(seed), rms_norm_eps=0.1)
        (line,) = export(pool, 0, tmp_path / "other", verify=False).changed
    assert "another configuration than" in line


def test_where_it_cannot_be_verified_it_says_why(half: Path, tmp_path: Path) -> None:
    shutil.copytree(half.parent, tmp_path / "run")
    with Pool(tmp_path / "run/pool") as pool:
        (half.parent / "examples.jsonl").rename(half.parent / "away")
        try:
            done = export(pool, "best", tmp_path / "out")
            with pytest.raises(InputError, match=r"cannot be verified: .*examples\.jsonl"):
                export(pool, "best", tmp_path / "no", verify=True)
        finally:
            (half.parent / "away").rename(half.parent / "examples.jsonl")
    assert done.verified == 0 and "examples.jsonl" in done.unverified
    assert load_file(tmp_path / "out/model.safetensors")


def test_the_command_says_what_it_verified(half: Path, tmp_path: Path) -> None:
    code, out, _ = run_cli(["export", str(half), "best", "-o", str(tmp_path / "a")])
    assert code == 0 and "scored it on 24 examples: as the pool says" in " ".join(out.split())
    code, out, _ = run_cli(["export", str(half), "-o", str(tmp_path / "b"), "--json"])
    assert code == 0 and json.loads(out)["verified"] == 24
    code, out, _ = run_cli(["export", str(half), "-o", str(tmp_path / "c"), "--no-verify"])
    assert code == 0 and "as the pool says" not in out


def test_pools_note_by_which_rule_they_were_scored(half: Path) -> None:
    with Pool(half) as pool:
        assert pool.meta()["pins"]["rounding"] == "export"
        assert pool.status()["scored_as_exported"] is True
    code, out, _ = run_cli(["status", str(half)])
    assert code == 0 and "older releases" not in out


@pytest.mark.slow
def test_an_old_pool_says_so_and_goes_on_by_its_rule(tmp_path: Path) -> None:
    """Scores of the old rule differ from those of an export; its members stay comparable."""
    folder = tmp_path / "run"
    config = write_case(folder, Case("arrays", None, "bfloat16"), budget=0)
    evolve(config)
    unpin(folder / "pool", "rounding")
    evolve({**config, "budget": 12})
    code, out, _ = run_cli(["status", str(folder / "pool")])
    assert code == 0 and "by the rule of older releases" in " ".join(out.split())
    with Pool(folder / "pool") as pool:
        assert not pool.header.scored_as_exported
        number = newest(pool)
        done = export(pool, number, tmp_path / "out")
        recorded = pool.record(number).scores
        assert recorded is not None
    assert "rule of an older release" in done.unverified
    assert "may score otherwise" in (tmp_path / "out/README.md").read_text()
    found = np.array(exam.rescore("arrays", None, tmp_path / "out"), dtype=np.float32)
    found = found[: recorded.size]
    assert (found != recorded).any()
    np.testing.assert_allclose(found, recorded, atol=0.02)


_GUARD = """
import numpy as np
examples = list(range(7))
def score(model, examples):
    total = sum(float(np.abs(value).sum()) for value in model.values())
    return [(total * (number + 1)) % 1 for number in examples]
"""


def test_the_guards_are_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = write_case(tmp_path / "run", Case("arrays", None, "bfloat16"))
    (tmp_path / "kept_in_verify.py").write_text(_GUARD)
    monkeypatch.syspath_prepend(tmp_path)
    guard = {
        "name": "kept",
        "evaluator": "function",
        "function": "kept_in_verify:score",
        "guard": True,
        "tolerance": 1.0,
    }
    evolve({**case, "tasks": [*case["tasks"], {**guard, "name": "first"}, guard]})
    kept = importlib.import_module("kept_in_verify")
    own = kept.score
    with Pool(tmp_path / "run/pool") as pool:
        number = newest(pool)
        done = export(pool, number, tmp_path / "out", verify=True)
        assert done.verified == 18 + 2 * 7
        assert export(pool, "seed0", tmp_path / "seed", verify=True).verified == 24 + 2 * 7

        def other(model: Any, examples: Any) -> list[float]:
            # As good, or nearly: on one example of fourteen it differs by a little.
            scores = own(model, examples)
            return [*scores[:-1], abs(scores[-1] - 1e-3)]

        monkeypatch.setattr(kept, "score", other)
        with pytest.raises(GenepoolError, match="than the pool says on the guard 'first'"):
            export(pool, number, tmp_path / "no", verify=True)
        monkeypatch.setattr(kept, "score", own)
        monkeypatch.setattr(kept, "examples", [*range(6), 8])
        with pytest.raises(InputError, match="cannot be verified: task 'first' has other examples"):
            export(pool, number, tmp_path / "no", verify=True)
    assert not (tmp_path / "no").exists()


def _flipped(tensor: Tensor) -> Tensor:
    raw = tensor.raw.copy()
    raw.view(np.uint8)[-1] ^= 1
    return replace(tensor, raw=raw)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "a bit": _flipped,
    "a shape": lambda tensor: replace(tensor, shape=(*tensor.shape, 1)),
    "a dtype": lambda tensor: replace(tensor, dtype="F16" if tensor.dtype == "BF16" else "BF16"),
    "a name": lambda tensor: replace(tensor, name=f"{tensor.name}.other"),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_package_safetensors_reads_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, wrong: str
) -> None:
    """As were genepool's own reader and writer at fault in the same way."""
    evolve(write_case(tmp_path / "run", Case("arrays", None, dtype)))

    def opened(path: Path) -> Checkpoint:
        found = open_checkpoint(path)
        tensors = dict(found.files[0].tensors)
        last = WRONG[wrong](tensors.popitem()[1])
        file = replace(found.files[0], tensors={**tensors, last.name: last})
        return replace(found, files=(file,))

    with Pool(tmp_path / "run/pool") as pool:
        assert export(pool, "best", tmp_path / "out", verify=True).verified
        monkeypatch.setattr(verify, "open_checkpoint", opened)
        with pytest.raises(GenepoolError, match="safetensors reads other tensors"):
            export(pool, "best", tmp_path / "no")
    assert not (tmp_path / "no").exists()
