"""Finding evaluators: by registration, by entry point of an installed package, by module."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from genepool.errors import ConfigError
from genepool.tasks import task as base
from genepool.tasks.classifier.evaluator import Classifier
from genepool.tasks.function import Function
from genepool.tasks.task import evaluator, evaluator_names, find_evaluator, open_task
from genepool.testing.tasks import check_task

_PACKAGE = '''
import hashlib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from genepool.errors import EvaluationError


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    examples: int = Field(default=9, ge=1, description="how many")


class Signs:
    """Scores 1 where the weight's sign at the example's place is that of the place's parity."""

    Options = Options
    binary = True

    def __init__(self, options, directory):
        self.samples = tuple(f"place-{i}" for i in range(options.examples))
        self.held_out = ("last",)
        self.digest = hashlib.sha256(repr(self.samples).encode()).hexdigest()

    def score(self, model, indices, *, held_out=False):
        if indices.size and not (0 <= indices.min() <= indices.max() < (1 if held_out else 9)):
            raise EvaluationError("no such example")
        weights = model["w"]
        if np.isnan(weights).any():
            raise EvaluationError("the weights hold NaN")
        places = indices + (len(self.samples) if held_out else 0)
        return ((weights[places] > 0) == (places % 2 == 0)).astype(np.float32)
'''


@pytest.fixture(autouse=True)
def _unchanged_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base._known, "_registered", dict(base._known._registered))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, on the search path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, package: str, entry: str, code: str = _PACKAGE) -> None:
    """Install a package with an entry point, as pip would leave it."""
    (site / package).mkdir()
    (site / package / "__init__.py").write_text(code)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[genepool.evaluators]\n{entry}\n")
    (info / "RECORD").write_text("")


def test_the_built_in_ones_are_found() -> None:
    assert find_evaluator("classifier") is Classifier
    assert find_evaluator("function") is Function
    assert {"classifier", "function"} <= set(evaluator_names())


def test_the_installed_package_declares_the_built_in_ones() -> None:
    points = {p.name: p.value for p in metadata.entry_points(group="genepool.evaluators")}
    assert points["classifier"] == "genepool.tasks.classifier.evaluator:Classifier"
    assert points["function"] == "genepool.tasks.function:Function"


def test_finding_evaluators_imports_none_of_their_libraries() -> None:
    code = (
        "import sys, genepool.tasks.task as b; b.evaluator_names();"
        "b.find_evaluator('classifier'); b.find_evaluator('function');"
        "print([m for m in ('torch', 'sklearn', 'numba') if m in sys.modules])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "[]"


def test_an_installed_package_keeps_the_contract(site: Path) -> None:
    install(site, "genepool_signs", "signs = genepool_signs:Signs")
    assert "signs" in evaluator_names()
    weights = np.array([1, -1, 1, 1, 1, -1, -1, -1, 1, 1], dtype=np.float32)

    def open_it() -> Any:
        return open_task("signs", {}, site)

    check_task(open_it(), {"w": weights}, reopen=open_it)
    got = open_it().score({"w": weights}, np.array([0, 3, 1]))
    assert got.tolist() == [1, 0, 1]


def test_an_evaluator_beside_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "beside_signs.py").write_text(_PACKAGE)
    task = open_task("beside_signs:Signs", {"examples": 4}, tmp_path)
    assert task.samples == ("place-0", "place-1", "place-2", "place-3")


def test_two_packages_with_one_name_are_refused(site: Path) -> None:
    install(site, "signs_one", "signs = signs_one:Signs")
    install(site, "signs_two", "signs = signs_two:Signs")
    with pytest.raises(ConfigError, match="claimed by 2 installed packages"):
        find_evaluator("signs")


def test_a_package_that_fails_to_import_says_why(site: Path) -> None:
    install(site, "signs_bad", "bad = signs_bad:Signs", "import a_package_that_is_not_there")
    with pytest.raises(ConfigError, match="cannot be loaded: ModuleNotFoundError: No module named"):
        find_evaluator("bad")


def test_a_package_that_offers_no_evaluator_is_refused(site: Path) -> None:
    install(site, "signs_none", "none = signs_none:thing", "thing = 3")
    with pytest.raises(ConfigError, match="expected a class with a pydantic model 'Options'"):
        find_evaluator("none")


def test_unknown_names_are_answered_with_the_known_and_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'classifier'\?.*known are .*'function'"):
        find_evaluator("classifer")


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(default=1, description="a size")


def test_registering_makes_a_class_known() -> None:
    @evaluator("mine")
    class Mine:
        Options = _Plain

    assert find_evaluator("mine") is Mine
    assert evaluator("mine")(Mine) is Mine


def test_a_name_is_not_taken_twice() -> None:
    @evaluator("mine")
    class First:
        Options = _Plain

    class Second:
        Options = _Plain

    with pytest.raises(ConfigError, match=r"already registered by .*First"):
        evaluator("mine")(Second)
    assert find_evaluator("mine") is First


@pytest.mark.parametrize("name", ["", "Mine", "my mine", "1st", "a:b"])
def test_malformed_names_are_refused(name: str) -> None:
    class Mine:
        Options = _Plain

    with pytest.raises(ConfigError, match="expected lower case letters"):
        evaluator(name)(Mine)


def test_options_must_forbid_unknown_keys() -> None:
    class Loose(BaseModel):
        size: int = 1

    class Mine:
        Options = Loose

    with pytest.raises(ConfigError, match="must forbid unknown keys"):
        evaluator("mine")(Mine)


@pytest.mark.parametrize("name", ["classifier", "function"])
def test_every_option_has_help_and_a_type(name: str) -> None:
    fields = find_evaluator(name).Options.model_fields
    for option, field in fields.items():
        assert field.description and field.description.endswith("."), option
        assert field.annotation is not None, option


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'classifier': option 'limit'.*got 0"):
        open_task("classifier", {"limit": 0}, Path())
    with pytest.raises(ConfigError, match=r"option 'colour': unknown key; known here: data, image"):
        open_task("classifier", {"colour": "red"}, Path())
    with pytest.raises(ConfigError, match=r"option 'lable': .*did you mean 'labels'\?"):
        open_task("classifier", {"lable": "red"}, Path())
    with pytest.raises(ConfigError, match=r"option 'function': this is required and was not given"):
        open_task("function", {}, Path())
