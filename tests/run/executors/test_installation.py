"""What is compared between the machines of a run: the user's modules, installed or not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from genepool.run.executors.installation import named_modules, own_modules


def test_an_installed_package_that_the_run_file_names_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(site))
    for name in ("scorers", "scorers.inner", "others"):
        file = site / f"{name}.py"
        file.write_text(f"# {name}")
        module = ModuleType(name)
        module.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, module)
    run = {"tasks": [{"evaluator": "function", "function": "scorers.inner:score"}], "seeds": ["a"]}
    found = named_modules(run)
    assert found.keys() == {"scorers", "scorers.inner"}
    (site / "scorers.inner.py").write_text("# other")
    assert named_modules(run)["scorers.inner"] != found["scorers.inner"]
    assert not {"scorers", "scorers.inner"} & own_modules().keys()
