"""The report: a page whose parts are all there, whose numbers are the pool's, and that is safe."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genepool
from genepool.core.genome import Recipe
from genepool.pool.members import describe
from genepool.pool.reader import Pool
from genepool.run.evolve import evolve
from genepool.ui.report.page import _key_numbers, _lede
from tests.cli import run_cli
from tests.quick import quick
from tests.runs import write_data, write_run, write_seed

ROOT = Path(__file__).resolve().parents[3]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page read strictly: every element closed in its turn.

    Attributes:
        tags: of all elements, in order, with their attributes and all text inside.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open[-1][:2]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        entry = (tag, {name: value or "" for name, value in attrs}, list[str]())
        self.tags.append(entry)
        if tag not in VOID:
            self._open.append(entry)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, inside in self._open:
            inside.append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, " ".join("".join(inside).split()))
            for name, attributes, inside in self.tags
            if name == tag
        ]

    def table(self, caption: str) -> list[list[str]]:
        """The rows of the table with that caption, head left out."""
        tags = [name for name, _, _ in self.tags]
        texts = [" ".join("".join(inside).split()) for _, _, inside in self.tags]
        start = next(i for i, tag in enumerate(tags) if tag == "caption" and caption in texts[i])
        rows: list[list[str]] = []
        for i in range(start, len(tags)):
            if tags[i] == "table":
                break
            if tags[i] == "tr":
                rows.append([])
            elif tags[i] in ("th", "td"):
                rows[-1].append(texts[i])
        return rows[1:]

    def document(self) -> dict[str, Any]:
        """What is offered for download."""
        link = next(a for a, _ in self.all("a") if "download" in a)
        kind, _, data = link["href"].partition(",")
        assert kind == "data:application/json;base64"
        assert link["download"].endswith("-report.json")
        return json.loads(base64.b64decode(data, validate=True))


def report(pool: Path, file: Path) -> tuple[Page, str]:
    code, out, error = run_cli(["report", str(pool), "-o", str(file)])
    assert (code, error) == (0, ""), error
    assert out == f"wrote {file}\n"
    html = file.read_text(encoding="utf-8")
    return Page(html), html


@pytest.fixture(params=["recipes", "vectors", "two_tasks", "guarded"])
def any_pool(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_every_page_has_its_parts_and_can_be_read_without_seeing(
    any_pool: Path, tmp_path: Path
) -> None:
    page, html = report(any_pool, tmp_path / "report.html")
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels == [1, 2, 2, 2, 2, 2, 2]
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes, text in page.all("a"):
        assert text
        if attributes["href"].startswith("#"):
            assert attributes["href"][1:] in ids
    for attributes, _ in page.all("section"):
        assert attributes["aria-labelledby"] in ids
    for attributes, _ in page.all("img"):
        assert attributes["alt"]
    drawings = page.all("svg")
    assert drawings
    for attributes, _ in drawings:
        told = attributes.get("role") == "img" and attributes.get("aria-label")
        assert told or attributes.get("aria-hidden") == "true"
    assert len(page.all("caption")) == len(page.all("table")) > 5
    for attributes, text in page.all("th"):
        assert attributes["scope"] in ("col", "row", "rowgroup")
        assert text


def test_a_page_needs_nothing_but_itself(any_pool: Path, tmp_path: Path) -> None:
    page, html = report(any_pool, tmp_path / "report.html")
    tags = {tag for tag, _, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes, _ in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|https?://", html)
    policy = next(a["content"] for a, _ in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")


def test_the_numbers_are_the_pools(any_pool: Path, tmp_path: Path) -> None:
    page, _ = report(any_pool, tmp_path / "report.html")
    with Pool(any_pool) as pool:
        status, tasks = pool.status(), pool.tasks()
        champion = describe(pool, status["champion"]["member"])
        held_out = {
            number: pool.held_out_scores(number)
            for number in (*range(len(status["seeds"])), champion["member"])
        }
    document = page.document()
    assert document["status"] == status
    assert document["champion"] == champion

    rows = page.table("Mean score of champion and seeds")
    first = rows[1:]
    best = status["champion"]
    assert first[0][0] == f"member {best['member']} champion"
    models = [(best["train"], best["held_out"])]
    models += [(seed["train"], seed["held_out"]) for seed in status["seeds"]]
    for row, (train, held) in zip(first, models, strict=False):
        assert row[1:] == [f"{100 * train:.1f} %", f"{100 * held:.1f} %"]

    counts = dict(page.table("Counts"))
    assert counts["children scored"] == f"{status['evaluations']:,}"
    assert counts["accepted into the archive"] == f"{status['accepted']:,}"
    assert counts["examples asked of the children"] == f"{status['examples_evaluated']:,}"
    saved = 1 - status["examples_evaluated"] / status["examples_total"]
    assert counts["examples saved"] == f"{100 * saved:.1f} %"

    # Task by task, against the scores themselves.
    for model in document["models"]:
        scores = held_out[model["member"]]
        assert scores is not None
        start = 0
        for task, entry in zip(tasks, model["tasks"], strict=True):
            stop = start + task.held_out
            assert entry["held_out"] == pytest.approx(float(scores[start:stop].mean()))
            start = stop
        weights = [task.weight for task in tasks]
        means = [entry["train"] for entry in model["tasks"]]
        assert model["train"] == pytest.approx(float(np.average(means, weights=weights)))


@pytest.mark.parametrize("moment", quick(["champion", "slots", "held_out"], (1,)))
def test_a_page_is_of_one_moment(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that went on meanwhile made its champion stand beside the scores of the one before."""
    file = write_run(tmp_path, budget=3)
    evolve(file)
    before = genepool.status(tmp_path / "pool")
    own, gone_on = getattr(Pool, moment), list[int]()

    def going_on(self: Pool, *given: Any, **named: Any) -> Any:
        found = own(self, *given, **named)
        if not gone_on:
            gone_on.append(1)
            gone_on.append(evolve(file, budget=60).session)
        return found

    monkeypatch.setattr(Pool, moment, going_on)
    page, _ = report(tmp_path / "pool", tmp_path / "report.html")
    assert gone_on == [1, 57]
    document = page.document()
    assert document["status"] == before
    assert document["champion"]["train"] == before["champion"]["train"]
    assert document["history"]["evaluations"][-1] == 3


def test_the_settings_that_are_set_are_listed(recipes: Path, tmp_path: Path) -> None:
    page, _ = report(recipes, tmp_path / "report.html")
    shown, config = dict(page.table("Settings")), page.document()["config"]
    assert {"early_stop", "seed", "strategy.name", "tasks[0].name"} <= shown.keys()
    assert shown["seed"] == str(config["seed"])
    assert config["model"]["network"] is None and "model.network" not in shown
    assert config["ray"] and not [key for key in shown if key.startswith("ray")]


def test_the_pictures_tell_who_solves_what(recipes: Path, tmp_path: Path) -> None:
    page, _ = report(recipes, tmp_path / "report.html")
    with Pool(recipes) as pool:
        order = [record.id for record in map(pool.record, pool.slots().values())]
        order.sort(key=lambda member: (-(pool.record(member).train or 0), member))
        solved = [int((pool.record(m).scores == 1).sum()) for m in (0, 1, *order)]
        examples = pool.examples.size
    alternatives = [attributes["alt"] for attributes, _ in page.all("img")]
    assert alternatives == [f"clouds: solves {count} of {examples}" for count in solved]


def test_the_tasks_stand_apart(two_tasks: Path, tmp_path: Path) -> None:
    page, _ = report(two_tasks, tmp_path / "report.html")
    rows = page.table("Mean score of champion and seeds")
    heads = [row[0] for row in rows if len(row) == 1]
    assert [head.split(" (")[0] for head in heads] == ["all tasks, by weight", "clouds", "smooth"]
    assert any(a["alt"].startswith("smooth: mean score 0.") for a, _ in page.all("img"))


def test_recipes_are_striped_by_seed(recipes: Path, tmp_path: Path) -> None:
    page, _ = report(recipes, tmp_path / "report.html")
    document = page.document()
    with Pool(recipes) as pool:
        champion = pool.champion()
        assert champion is not None
        genome = pool.genome(champion)
        shares = describe(pool, champion)["genome"]["shares"]
        tensors = [name for name, _ in pool.meta()["tensors"]]
    assert isinstance(genome, Recipe)
    assert np.array_equal(document["recipe"]["coefs"], genome.coefs)
    assert np.array_equal(document["recipe"]["bounds"], genome.bounds)
    labels = [attributes.get("aria-label", "") for attributes, _ in page.all("svg")]
    said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    assert any(label.endswith(said) for label in labels)
    rows = page.table("The champion, layer by layer")
    assert [row[0] for row in rows] == tensors
    # Weighted by their sizes the layers make up the whole.
    sizes = np.array([float(row[1].replace(",", "")) for row in rows])
    first = np.array([float(row[2].split(" %")[0]) for row in rows])
    assert np.average(first, weights=sizes) == pytest.approx(100 * shares["seed1"], abs=0.1)


def test_many_seeds_are_named_rather_than_given_columns(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz")
    for number in range(9):
        write_seed(tmp_path / f"seed{number}.safetensors", number)
    seeds = [f"seed{number}.safetensors" for number in range(9)]
    evolve(write_run(tmp_path, seeds=seeds, strategy={"name": "m2n2", "archive": 12}))
    page, _ = report(tmp_path / "pool", tmp_path / "report.html")
    document = page.document()
    rows = page.table("Genomes of the archive, best first")
    assert len(rows) == len(document["genomes"]["members"]) == 12
    for row, entry in zip(rows, document["genomes"]["members"], strict=True):
        most = int(np.argmax(entry["shares"]))
        assert row[2] == f"seed{most} {100 * entry['shares'][most]:.1f} %"
    assert len(page.table("Seeds")) == 9
    # There are seven colours, and each seed has a mark of its own.
    marks = {a["class"] for a, _ in page.all("i") if a.get("class", "").startswith("swatch")}
    assert len(marks) == 9
    areas = {a["class"] for tag, a, _ in page.tags if tag == "path" and a["class"][0] == "s"}
    assert areas <= {mark.removeprefix("swatch ") for mark in marks} and "s0 again" in areas


def test_dense_genomes_have_no_stripes_and_say_so(vectors: Path, tmp_path: Path) -> None:
    page, html = report(vectors, tmp_path / "report.html")
    assert "The genomes are dense, 195 weights each" in html
    assert 'class="stripes"' not in html
    rows = page.table("Mean size of the champion’s weights")
    with Pool(vectors) as pool:
        champion = pool.champion()
        assert champion is not None
        values = np.abs(pool.genome(champion).values)  # type: ignore[union-attr]
        tensors = pool.meta()["tensors"]
    assert [row[0] for row in rows] == [name for name, _ in tensors]
    starts = [start for _, start in tensors]
    for row, part in zip(rows, np.split(values, starts[1:]), strict=True):
        assert float(row[2]) == pytest.approx(float(part.mean()), rel=1e-3)


def test_the_family_tree_is_that_of_the_records(recipes: Path, tmp_path: Path) -> None:
    page, _ = report(recipes, tmp_path / "report.html")
    seen = 0
    with Pool(recipes) as pool:
        nodes = [page.document()["tree"]]
        assert nodes[0]["member"] == pool.champion()
        while nodes:
            node = nodes.pop()
            record = pool.record(node["member"])
            assert node["train"] == record.train
            if "parents" in node:
                seen += 1
                found = {parent["member"] for parent in node["parents"]}
                assert found == set(record.parents)
                assert sum(part["share"] for part in node["took"]) == pytest.approx(1)
                plan = json.loads(record.plan)
                if len(plan["parents"]) > 1:
                    fractions = [split / 195 for split in plan["splits"] if 0 < split < 195]
                    assert node["pieces"] == pytest.approx(fractions)
                nodes += node["parents"]
    assert seen >= 1


NASTY = "<script>alert('x')</script>\"&amp;\x1b[31m"


@pytest.mark.slow
def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz")
    for number in (1, 2):
        write_seed(tmp_path / f"seed{number}.safetensors", number)
    seeds = [
        {"path": f"seed{n}.safetensors", "name": f"{NASTY}{n}</title></style>"} for n in (1, 2)
    ]
    tasks = [
        {
            "name": f'"><img src=x onerror=alert(1)>{n}',
            "evaluator": "classifier",
            "data": "data.npz",
        }
        for n in (1, 2)
    ]
    path = "<b onclick='x'>&lt;pool"
    evolve(write_run(tmp_path, pool=path, seeds=seeds, tasks=tasks, budget=20))
    page, html = report(tmp_path / path, tmp_path / "report.html")
    assert "<script" not in html
    assert "<b onclick" not in html
    assert "\x1b" not in html
    tags = {tag for tag, _, _ in page.tags}
    assert "script" not in tags
    for tag, attributes, _ in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert all(a["src"].startswith("data:image/png;base64,") for a, _ in page.all("img"))
    assert page.all("h1")[0][1] == path
    shown = NASTY.replace("\x1b", "\\x1b") + "1</title></style>"
    assert shown in [row[0] for row in page.table("Seeds")]
    assert page.document()["seeds"][0]["name"] == f"{NASTY}1</title></style>"


def test_guards_are_told(guarded: Path, tmp_path: Path) -> None:
    page, _ = report(guarded, tmp_path / "report.html")
    (guard,) = page.document()["status"]["guards"]
    scores = (guard["best_seed"]["score"], 0.02, guard["bound"], guard["champion"])
    shown = [f"{100 * score:.1f} %" for score in scores]
    counts = [str(guard["checked"]), str(guard["broken"])]
    assert page.table("Guards") == [["others", guard["best_seed"]["name"], *shown, *counts]]


def test_seeds_alone_make_a_report(tmp_path: Path) -> None:
    evolve(write_run(tmp_path, budget=0))
    page, html = report(tmp_path / "pool", tmp_path / "report.html")
    assert "No child has beaten the best seed, " in html
    assert "The champion is a seed: " in html
    # It stands among the seeds, once.
    names = [row[0] for row in page.table("Mean score of champion and seeds")[1:]]
    assert sorted(name.removesuffix(" champion") for name in names) == ["seed1", "seed2"]
    assert sum(name.endswith(" champion") for name in names) == 1
    assert page.document()["history"]["evaluations"] == [0]


def test_a_pool_without_scores_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "unscorable.py").write_text(
        "examples = [1]\ndef score(model, chosen): raise OSError\n"
    )
    tasks = [{"name": "hard", "evaluator": "function", "function": "unscorable:score"}]
    run_cli(["evolve", str(write_run(tmp_path, tasks=tasks))])
    file = tmp_path / "report.html"
    code, out, error = run_cli(["report", str(tmp_path / "pool"), "-o", str(file)])
    assert (code, out) == (1, "")
    assert "nothing has been scored yet" in error
    assert error.count("\n") == 1
    assert not file.exists()


def test_without_held_out_examples_the_page_says_so(tmp_path: Path) -> None:
    tasks = [{"name": "clouds", "evaluator": "classifier", "data": "data.npz", "held_out": 0}]
    evolve(write_run(tmp_path, tasks=tasks, budget=20))
    page, html = report(tmp_path / "pool", tmp_path / "report.html")
    assert "No examples were held out" in html
    assert all(len(row) <= 2 for row in page.table("Mean score of champion and seeds"))
    assert "held-out</span>" not in html


def test_the_file_is_replaced_whole_or_not_at_all(recipes: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    report(recipes, file)
    with file.open("a") as opened:
        opened.write("old")
    code, out, _ = run_cli(["report", str(recipes), "-o", str(file), "--json"])
    assert code == 0
    assert json.loads(out) == {"file": str(file)}
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and not text.endswith("old")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    code, _, error = run_cli(["report", str(recipes), "-o", str(file / "report.html")])
    assert code == 1
    assert "cannot be written" in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    # A folder that is missing is made, as by all commands that write.
    below = tmp_path / "new" / "folder" / "report.html"
    assert run_cli(["report", str(recipes), "-o", str(below)])[0] == 0
    assert below.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_a_large_archive_makes_a_page_that_can_be_sent(tmp_path: Path) -> None:
    """80 members on 5,000 examples: what does not fit is left out and named."""
    write_data(tmp_path / "data.npz", count=6_250)
    for number in (1, 2):
        write_seed(tmp_path / f"seed{number}.safetensors", number)
    strategy = {"name": "m2n2", "archive": 80}
    evolve(write_run(tmp_path, strategy=strategy, budget=120))
    page, html = report(tmp_path / "pool", tmp_path / "report.html")
    assert len(html) < 2_000_000
    assert page.document()["left_out"] == ["scores"]
    assert "in the pool alone: scores." in html
    assert "The best 60 of 80 members are shown." in html


def test_every_key_of_the_document_is_explained(recipes: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    page, _ = report(recipes, tmp_path / "report.html")
    assert set(page.document()) <= set(re.findall(r"`(\w+)`", text))


@pytest.mark.slow
def test_reporting_loads_nothing_heavy(recipes: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from genepool.ui.cli.main import _run; "
        f"_run(['report', {str(recipes)!r}, '-o', {str(tmp_path / 'r.html')!r}]); "
        "print(*sorted({'torch', 'numba', 'matplotlib', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == [""], done.stderr


def test_the_champion_is_told_beside_the_best_seed_on_each_kind_of_examples() -> None:
    """The best on selection examples need not be the best on held-out ones."""
    seeds = [("a", 0.3, 0.5), ("b", 0.4, 0.45), ("c", 0.2, None)]
    models = [
        {"kind": "seed", "name": name, "train": train, "held_out": held}
        for name, train, held in seeds
    ]
    champion = {"member": 7, "step": 5, "train": 0.6, "held_out": 0.48}
    facts: dict[str, Any] = {
        "seeds": [{}, {}, {}],
        "models": models,
        "champion": champion,
        "status": {
            "accepted": 3,
            "evaluations": 9,
            "examples_evaluated": 30,
            "examples_total": 90,
            "champion": champion,
            "seeds": models,
        },
    }
    assert _key_numbers(facts) == [
        ("champion, held-out", "48.0 %", "−2.0 points on the best seed"),
        ("champion, selection", "60.0 %", "+20.0 points on the best seed"),
        ("children scored", "9", "3 accepted into the archive"),
        ("examples saved", "66.7 %", "30 asked of 90"),
    ]
    assert _lede(facts) == (
        "Bred from 3 seeds, the champion reaches 48.0 % on held-out examples; the best seed, a, "
        "reaches 50.0 %."
    )
    champion["held_out"] = None
    assert _lede(facts).endswith("60.0 % on selection examples; the best seed, b, reaches 40.0 %.")
