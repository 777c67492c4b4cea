"""The names that `bnstudy` offers are there, for type checkers too, and what the pages show of them runs as typed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jupytext
import matplotlib
import pandas as pd
import pytest
import synthetic
from small_runs import torch_as_it_was

import bnstudy
from bnstudy.analysis import notebook

ROOT = synthetic.REPOSITORY
SOURCE = ROOT / "src" / "bnstudy"


def test_every_public_name_is_there_and_documented():
    assert dir(bnstudy) == bnstudy.__all__ == sorted(bnstudy.__all__)
    for name in bnstudy.__all__:
        value = getattr(bnstudy, name)
        assert name == "__version__" or inspect.getdoc(value), name
    for name in [name for name in dir(bnstudy.Run) if not name.startswith("_") and name not in ("id", "results")]:
        if name != "data_root":
            assert inspect.getdoc(inspect.getattr_static(bnstudy.Run, name)), name
    with pytest.raises(AttributeError, match=r"tabel.*table"):
        _ = bnstudy.tabel  # type: ignore[attr-defined]


def test_no_public_name_is_a_module_s_which_would_take_its_place_once_imported():
    modules = {path.stem for path in SOURCE.iterdir()}
    assert not modules & set(bnstudy.__all__)
    for name in bnstudy.__all__:
        importlib.import_module("bnstudy.api.looking")
        assert not inspect.ismodule(getattr(bnstudy, name))


def test_type_checkers_see_the_names_that_are_imported_when_used():
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"bnstudy.{home}" for name, home in bnstudy._HOME.items()}
    assert set(bnstudy.__all__) == {*seen, "__version__"}


def test_importing_takes_less_than_a_tenth_of_a_second():
    """The smallest of three, as the machine may be busy; what may not be loaded is test_architecture's."""
    script = "import time; t = time.process_time(); import bnstudy; print(time.process_time() - t)"
    taken = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "abc"]
    assert min(float(each.stdout) for each in taken) < 0.1


def blocks(page: Path) -> list[str]:
    """The Python that a page shows, as typed."""
    return re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text(encoding="utf-8"))


@pytest.fixture
def project(data_root, tmp_path, monkeypatch):
    """The published tables and small images, and a place for new runs."""
    (tmp_path / "tables").symlink_to(ROOT / "results" / "tables")
    (tmp_path / "claims.json").symlink_to(ROOT / "results" / "claims.json")
    monkeypatch.setenv("BNSTUDY_RESULTS", str(tmp_path))
    monkeypatch.setenv("BNSTUDY_DATA_ROOT", str(data_root))
    with torch_as_it_was():
        yield tmp_path


def session(text: str) -> dict:
    """What is there after the lines were typed; the last, an expression, is what is shown."""
    names: dict = {}
    exec(compile(text, "session", "exec"), names)
    return names


def test_the_session_of_the_readme_runs_as_typed(project):
    (text,) = [block for block in blocks(ROOT / "README.md") if "bnstudy.fit" in block]
    lines = text.strip().splitlines()
    assert lines[0] == "import bnstudy" and len([line for line in lines if line]) <= 8
    names = session(text)
    assert isinstance(names["run"], bnstudy.Run) and names["run"].status == "completed"
    assert all(len(value) for value in names.values() if isinstance(value, pd.DataFrame))


def test_the_page_runs_as_typed(project):
    names = session("\n".join(blocks(ROOT / "docs" / "python.md")))
    assert isinstance(names["run"], bnstudy.Run)
    frames = {name: value for name, value in names.items() if isinstance(value, pd.DataFrame)}
    assert len(frames) >= 5 and all(len(frame) for frame in frames.values())


def test_the_page_names_all_that_is_public():
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in bnstudy.__all__ if f"bnstudy.{name}" not in page and name != "__version__"] == []


@pytest.mark.parametrize("with_images", [True, False])
def test_the_notebook_runs_with_images_and_without(project, with_images, monkeypatch, capsys):
    if not with_images:
        monkeypatch.setenv("BNSTUDY_DATA_ROOT", str(project / "nowhere"))
    names = runpy.run_path(str(notebook.NOTEBOOKS / "python.py"))
    assert (names["run"] is not None) == with_images
    assert ("fashion_mnist" in capsys.readouterr().out) != with_images


@pytest.mark.slow
def test_the_lesson_trains_and_its_exercises_can_be_typed(project, monkeypatch):
    matplotlib.use("agg", force=True)
    text = (notebook.NOTEBOOKS / "lesson.py").read_text(encoding="utf-8")
    small = {"num_train=10000": "num_train=128", "num_test=2000": "num_test=64", "epochs=2": "epochs=1"}
    small["RATES = [0.03, 0.1, 0.3, 1.0, 3.0]"] = "RATES = [0.1, 0.3]"
    for shown, less in small.items():
        assert text.count(shown) == 1
        text = text.replace(shown, less)
    names = session(text)
    assert len(names["runs"]) == 4 and set(names["others"]) == {"batch", "group", "layer", "none"}
    exercises = re.findall(r"`train\((.*?)\)`", text)
    assert len(exercises) >= 5
    monkeypatch.setattr(bnstudy, "fit", lambda config, **_: config)
    for arguments in exercises:
        assert isinstance(eval(f"train({arguments})", names), bnstudy.Config)


def test_the_lesson_for_colab_is_the_script():
    script = jupytext.read(notebook.NOTEBOOKS / "lesson.py")
    twin = jupytext.read(notebook.NOTEBOOKS / "lesson.ipynb")
    assert [cell.source for cell in twin.cells] == [cell.source for cell in script.cells]  # jupytext --to ipynb
