"""The demo of the shop: two clerks who each lack something are bred into one who shops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tests.examples.needs")  # genepool[shop]

from webshop.clerk import CLERKS, FEATURES, described

DEMO = Path(__file__).parents[2] / "examples/webshop/demo.py"


@pytest.mark.slow
def test_the_demo_breeds_a_better_shopper(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), str(tmp_path / "shop"), "--budget", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "% of the reward" in line]
    scores = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert scores.keys() == {*CLERKS, "champion"}
    assert scores["champion"] > max(scores[name] for name in CLERKS) + 5
    assert "click[buy now]" in done.stdout


def test_actions_are_described_by_what_the_page_says() -> None:
    wish = "find me warm socks with color: green, and price lower than 20.00 dollars"
    page = "Instruction: [SEP] x [SEP] B07AAAAAAA [SEP] Warm Socks [SEP] $12.5 [SEP] B07BBBBBBB"
    parts = [part.strip() for part in f"{page} [SEP] Warm Gloves [SEP] $30".split("[SEP]")]

    def told(action: str) -> dict[str, float]:
        values = described(action, parts, wish).tolist()
        return {n: v for n, v in zip(FEATURES, values, strict=True) if v}

    assert told("click[b07aaaaaaa]") == {"title": 1.0, "price": 1.0}
    assert told("click[b07bbbbbbb]") == {"place": 1.0, "title": 0.5}
    assert told("click[green]") == {"wanted": 1.0}
    assert told("click[gree]") == {"unwanted": 1.0}
    assert told("click[buy now]") == {"buy": 1.0}
    assert told("click[< prev]") == {"other": 1.0}
    assert told("search[socks]") == {"search": 1.0}
