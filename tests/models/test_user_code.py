"""User code by name, from the run file's folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genepool.errors import ConfigError
from genepool.models.user_code import load_function, load_object


@pytest.fixture(autouse=True)
def _search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("gp_load")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_module_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "gp_load_a.py").write_text("def f(): return 7\nclass C:\n    x = 3\n")
    assert load_object("gp_load_a:f", tmp_path)() == 7
    assert load_object("gp_load_a:C.x", tmp_path) == 3


def test_a_module_in_a_package_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "gp_load_b").mkdir()
    (tmp_path / "gp_load_b" / "__init__.py").write_text("")
    (tmp_path / "gp_load_b" / "inner.py").write_text("from gp_load_b_near import x\n")
    (tmp_path / "gp_load_b_near.py").write_text("x = 5\n")
    assert load_object("gp_load_b.inner:x", tmp_path) == 5


def test_neighbours_can_be_imported_later(tmp_path: Path) -> None:
    (tmp_path / "gp_load_c.py").write_text("def f():\n    import gp_load_c_late\n    return 1\n")
    function = load_object("gp_load_c:f", tmp_path)
    (tmp_path / "gp_load_c_late.py").write_text("")
    assert function() == 1


def test_an_installed_module(tmp_path: Path) -> None:
    assert load_object("math:sqrt", tmp_path)(9) == 3


def test_a_module_of_the_same_name_from_elsewhere_is_not_taken_for_it(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "gp_load_d.py").write_text(f"where = {folder!r}\n")
    assert load_object("gp_load_d:where", tmp_path / "one") == "one"
    with pytest.raises(ConfigError, match="already loaded another module 'gp_load_d'"):
        load_object("gp_load_d:where", tmp_path / "two")


def test_a_module_from_a_folder_inside_is_not_taken_for_it(tmp_path: Path) -> None:
    for folder in (tmp_path / "old", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "gp_load_m.py").write_text("where = 1\n")
        (folder / "gp_load_n").mkdir()
        (folder / "gp_load_n" / "inner.py").write_text("where = 1\n")
    for name in ("gp_load_m:where", "gp_load_n.inner:where"):
        load_object(name, tmp_path / "old")
        with pytest.raises(ConfigError, match="already loaded another module 'gp_load_"):
            load_object(name, tmp_path)


def test_a_module_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "gp_load_o.py").write_text("x = 5\n")
    (tmp_path / "run" / "gp_load_o.py").symlink_to(tmp_path / "gp_load_o.py")
    assert load_object("gp_load_o:x", tmp_path / "run") == 5
    # It is the same file.
    assert load_object("gp_load_o:x", tmp_path) == 5


def test_the_folder_comes_before_those_of_other_run_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"gp_load_{folder}.py").write_text("")
        (tmp_path / folder / "gp_load_p.py").write_text(f"where = {folder!r}\n")
    with pytest.raises(ConfigError):
        load_object("gp_load_one:f", tmp_path / "one")
    with pytest.raises(ConfigError):
        load_object("gp_load_two:f", tmp_path / "two")
    assert load_object("gp_load_p:where", tmp_path / "one") == "one"


@pytest.mark.parametrize("name", ["time", "sys"])
def test_a_module_with_the_name_of_one_that_is_built_in(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\(built in\) has no 'score'"):
        load_object(f"{name}:score", tmp_path)
    (tmp_path / f"{name}.py").write_text("def score(): pass")
    with pytest.raises(ConfigError, match=rf"loaded another module '{name}' \(built in\)"):
        load_object(f"{name}:score", tmp_path)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("gp_load_e", "", "expected 'module:function'"),
        (":f", "", "expected 'module:function'"),
        ("gp_load_e:", "", "expected 'module:function'"),
        ("../gp_load_e:f", "", "expected 'module:function'"),
        ("gp load:f", "", "expected 'module:function'"),
        ("gp_load_absent:f", "", "there is no module 'gp_load_absent'"),
        ("gp_load_absent.sub:f", "", "there is no module 'gp_load_absent.sub'"),
        ("gp_load_f:g", "def f(): pass", "has no 'g'; it has 'f'"),
        ("gp_load_g:f", "import gp_not_there", "No module named 'gp_not_there'"),
        ("gp_load_h:f", "def f(:", "SyntaxError"),
        ("gp_load_i:f", "1 / 0", "ZeroDivisionError: division by zero"),
        ("gp_load_j:f", "raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, code: str, words: str) -> None:
    module = name.partition(":")[0]
    if module.isidentifier() and "absent" not in module:
        (tmp_path / f"{module}.py").write_text(code)
    with pytest.raises(ConfigError) as caught:
        load_object(name, tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_ctrl_c_is_not_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "gp_load_k.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_object("gp_load_k:f", tmp_path)


def test_a_function_must_be_callable(tmp_path: Path) -> None:
    (tmp_path / "gp_load_l.py").write_text("f = [1]")
    with pytest.raises(ConfigError, match=r"expected a function; got list \[1\]"):
        load_function("gp_load_l:f", tmp_path)
