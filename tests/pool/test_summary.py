"""A pool in one line: who is champion, and whether that is the best seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from genepool.pool.reader import Pool
from genepool.pool.summary import line, unbeaten
from genepool.run.evolve import evolve
from genepool.ui.report.report import write_report
from tests.cli import run_cli
from tests.runs import write_run

# Seed 2 solves most, and nothing that the others do not solve too; a merge solves nothing.
_SOLVING = """
examples = list(range(20))
solved = [{0, 1, 2, 10, 11, 12}, {3, 4, 5, 6, 13, 14}, {0, 1, 2, 3, 4, 5, 6}]
def score(model, examples):
    which = [k for k in range(3) if model["w"].tolist() == [float(n == k) for n in range(3)]]
    return [float(bool(which) and example in solved[which[0]]) for example in examples]
"""


def test_the_best_seed_is_named_where_it_found_no_place(tmp_path: Path) -> None:
    (tmp_path / "solving.py").write_text(_SOLVING)
    for k in range(3):
        save_file({"w": np.eye(3, dtype=np.float32)[k]}, tmp_path / f"{k}.safetensors")
    file = write_run(
        tmp_path,
        seeds=[f"{k}.safetensors" for k in range(3)],
        tasks=[{"name": "t", "evaluator": "function", "function": "solving:score"}],
        strategy={"name": "m2n2", "archive": 2},
        budget=3,
    )
    evolve(file)
    told = (
        "the best seed, 2 (35.0 %), is not the champion, and no child of the 0 accepted has beaten "
        "the one that is, 0"
    )
    with Pool(tmp_path / "pool") as pool:
        assert line(pool.status()) == f"3 of 3 children; {told}: 30.0 %"
        write_report(pool, tmp_path / "page.html")
    assert told in run_cli(["status", str(tmp_path / "pool")])[1]
    assert f"T{told[1:]}." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("champion", "trains", "evaluations", "told"),
    [
        (0, [0.4, 0.4], 0, "no child has beaten the best seed, s0"),
        # Of children that a guard turned away some may score more.
        (1, [0.3, 0.4], 7, "no child of the 2 accepted has beaten the best seed, s1"),
        (2, [0.9, 0.4], 7, None),
        (None, [None, None], 0, None),
    ],
)
def test_a_champion_that_is_a_seed(
    champion: int | None, trains: list[Any], evaluations: int, told: str | None
) -> None:
    status = {
        "evaluations": evaluations,
        "accepted": 2,
        "champion": None if champion is None else {"member": champion},
        "seeds": [{"name": f"s{k}", "train": train} for k, train in enumerate(trains)],
    }
    assert unbeaten(status) == told
