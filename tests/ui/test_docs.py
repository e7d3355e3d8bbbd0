"""The documents say what is: commands have help and a page, links lead somewhere, examples work."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

import genepool
from genepool.run.file.run_settings import RunConfig
from genepool.run.run_file import load_run
from genepool.testing import check_environment
from genepool.ui import docs
from tests.cli import run_cli

ROOT = Path(__file__).resolve().parents[2]


FOLDERS = ("docs", "examples", "benchmarks", "experiments")
PAGES = sorted([*ROOT.glob("*.md"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*.md"))])


def blocks(language: str) -> list[Any]:
    """The blocks of code in that language on all pages."""
    found: list[Any] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 2
            found.append(pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


# A word of each sentence: a form of a verb that explanations use. Who needs another adds it.
VERBS = re.compile(
    r"\b(is|are|was|were|be|merge|has|have|had|does?|can|cannot|may|must|needs?|means?|says?|comes?|gets?|takes?"
    r"|holds?|lies|lives?|starts?|begins?|ends|goes|go|gives|stands?|runs|reads?|refuses|keeps?"
    r"|brings?|breeds?|competes?|weighs?|survive|fails?|fall|decides|evolves?|counts?|draws?"
    r"|computes|shows?|differ|merges|splits|makes?|works|allows?|follow|print|write|copy|compare"
    r"|begin|search|tell|load|export|extracts|names|returns|scores|calls?|listens?|lists?)\b",
    re.IGNORECASE,
)


def _whole_sentences(text: str) -> bool:
    """Whether a text begins with a capital, ends with a full stop, and has a verb throughout."""
    text = re.sub(r"\[default: .*\]|\(.*?\)|(?<=\w)\.\.\.", "", " ".join(text.split())).strip()
    sentences = re.split(r"(?<=[.!]) (?=[A-Z])", text)
    return text[:1].isupper() and all(s.endswith(".") and VERBS.search(s) for s in sentences)


def settings() -> dict[str, str]:
    """Every setting of a run file, every option and every command, and what is said of it."""
    root: Any = importlib.import_module("genepool")
    for found in pkgutil.walk_packages(root.__path__, "genepool."):
        importlib.import_module(found.name)
    texts: dict[str, str] = {}
    kinds = list(BaseModel.__subclasses__())
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("genepool."):
            for name, field in kind.model_fields.items():
                texts[f"{kind.__qualname__}.{name}"] = field.description or ""
    for context, command in docs.commands():
        texts[context.command_path] = command.help or ""
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                texts[f"{context.command_path} {parameter.name}"] = parameter.help or ""
    return texts


def test_settings_are_explained_in_whole_sentences() -> None:
    texts = settings()
    assert len(texts) > 150
    assert {name: text for name, text in texts.items() if not _whole_sentences(text)} == {}


@pytest.mark.parametrize(
    "text",
    ["", "which strategy", "The strategy", "Number of children.", "it is one.", "It is. A thing."],
)
def test_what_is_no_whole_sentence(text: str) -> None:
    assert not _whole_sentences(text)


def test_every_command_and_option_has_help() -> None:
    for context, command in docs.commands():
        assert command.help, context.command_path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{context.command_path} {parameter.name}"
            else:
                # Arguments are explained in the text, by the name under which they are shown.
                name = parameter.make_metavar(context).strip("[]")
                assert name in command.help or name == "POOL", f"{context.command_path} {name}"


def test_every_setting_of_a_run_has_help() -> None:
    for name, field in RunConfig.model_fields.items():
        assert field.description, name


def test_the_pages_made_from_the_code_are_up_to_date() -> None:
    made = [page for page in PAGES if "<!-- made from the code" in page.read_text("utf-8")]
    assert {page.name for page in made} >= {"cli.md", "run-file.md"}
    for page in made:
        text = page.read_text(encoding="utf-8")
        assert docs.renewed(text) == text, f"{page.name} is out of date: run `make docs`"


def test_a_page_that_is_out_of_date_is_noticed_and_mended(tmp_path: Path) -> None:
    page = tmp_path / "cli.md"
    page.write_text("before\n<!-- made from the code: commands -->\nold\n<!-- end -->\nafter\n")
    docs.main(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- made from the code: commands -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "### genepool evolve\n" in text
    assert "old\n" not in text


def test_every_key_that_is_printed_as_json_is_explained(recipes: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", text))
    out = str(tmp_path / "out")
    for arguments in (
        ["status", str(recipes)],
        ["show", str(recipes), "best"],
        ["export", str(recipes), "-o", out],
        ["evolve", str(recipes.parent / "run.yaml")],
    ):
        _, printed, _ = run_cli([*arguments, "--json"])
        # Names of seeds are not keys of ours.
        missing = _keys(json.loads(printed)) - explained - {"seed1", "seed2"}
        assert not missing, f"{arguments[0]}: docs/cli.md does not explain {missing}"


def test_every_strategy_has_a_line_in_the_table() -> None:
    options = (ROOT / "docs/run-file.md").read_text(encoding="utf-8")
    names = re.findall(r"^### `strategy` with `name: ([\w-]+)`", options, re.MULTILINE)
    table = (ROOT / "docs/strategies.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == names


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    if isinstance(value, list):
        return set().union(*map(_keys, value))
    return set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            names = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
            assert anchor in names, f"{page.name} links to {target}"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_run_files_in_the_documents_are_valid(text: str) -> None:
    load_run(yaml.safe_load(text))


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_documents_compiles(text: str) -> None:
    compile(text, "document", "exec")
    for name in re.findall(r"\bgenepool\.([a-z_]\w*)\(", text, re.IGNORECASE):
        assert name in genepool.__all__, name


@pytest.mark.parametrize("text", blocks("sh"))
def test_commands_in_the_documents_exist(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {context.command_path for context, _ in docs.commands()}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= targets, line
        if words[:1] == ["genepool"]:
            command = " ".join(words[:3]) if words[1] == "demo" else " ".join(words[:2])
            assert command in known, line
            usage = next(c for context, c in docs.commands() if context.command_path == command)
            flags = {name for p in usage.params for name in p.opts}
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= flags, line


def test_the_readme_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run file, its commands and its Python, in the order in which they stand there."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, _, error = run_cli(["demo", "digits", "--budget", "30"])
    assert code == 0, error
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for language, block in found:
        if language == "yaml":
            Path("run.yaml").write_text(block.replace("budget: 1000", "budget: 40"))
        elif language == "python":
            exec(compile(block, "README.md", "exec"), {})
        for line in block.splitlines() if language == "sh" else ():
            words = line.split("#")[0].split()
            if words[0] == "genepool":
                code, out, error = run_cli(words[1:])
                assert code == 0, error
                assert out
    assert {"champion", "champion-from-python", "merged"} <= {p.name for p in tmp_path.iterdir()}


def test_the_library_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    known: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, "library.md", "exec"), known)
    number, score = capsys.readouterr().out.split()[:2]
    assert (int(number), float(score)) == (known["champion"].id, known["champion"].train)
    problem, seeds = known["problem"], known["seeds"]
    assert float(score) > max(known["score"](seed).mean() for seed in seeds)
    assert known["score"](known["weights"]).mean() == pytest.approx(float(score))

    sent: dict[int, Any] = {}
    rate = known["score"]
    best = known["run"](
        problem, sent.__setitem__, lambda step: rate(problem.express(sent.pop(step))), children=100
    )
    assert best.train >= max(rate(seed).mean() for seed in seeds)

    def some(genome: Any, indices: Any) -> Any:
        return rate(problem.express(genome))[indices]

    runs = []
    for early in (True, False):
        evolution = genepool.Evolution(problem, genepool.M2N2(archive=4), early_stop=early)
        asked = 0
        while evolution.evaluations < 60:
            proposal = evolution.ask()
            scores = known["evaluate"](evolution, proposal, some)
            asked += int((scores == scores).sum())
            evolution.tell(proposal.step, scores)
        runs.append((evolution.champion.id, evolution.champion.train, asked))
    assert runs[0][:2] == runs[1][:2]
    assert runs[0][2] < runs[1][2]


def test_the_environment_on_the_page_about_agents_keeps_the_contract() -> None:
    text = (ROOT / "docs/agents.md").read_text(encoding="utf-8")
    known: dict[str, Any] = {}
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    # The block says nothing of annotations, so that names are looked up when the class is made.
    exec(compile(block, "agents.md", "exec"), known)
    corridor = known["Corridor"]
    check_environment(lambda: corridor(corridor.Options(), ROOT), "train", actions=("right",))
    session = corridor(corridor.Options(), ROOT)
    session.reset("2")
    assert [session.step(text).reward for text in ("right", "right", "open")] == [0, 0, 1]
