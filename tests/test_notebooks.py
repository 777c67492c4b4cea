"""Notebooks hold no computation, show every finding, and run on the published tables, by themselves and as pages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import synthetic

from bnstudy.analysis import findings, notebook, report
from bnstudy.config import project

COMPUTING = {"lesson", "python"}  # see test_api
SCRIPTS = sorted(path for path in notebook.NOTEBOOKS.glob("*.py") if path.stem not in COMPUTING)


def shown(path: Path) -> list[str]:
    """The findings that a script shows; whatever else it does fails."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            assert node.module == "bnstudy.analysis.notebook" and [alias.name for alias in node.names] == ["show"]
            continue
        assert isinstance(node, ast.Expr) and isinstance(node.value, ast.Call), ast.unparse(node)
        call = node.value
        assert isinstance(call.func, ast.Name) and call.func.id == "show" and not call.keywords, ast.unparse(node)
        names += [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
    return names


def test_a_notebook_is_prose_and_shows_and_nothing_published_is_left_out():
    found = [name for path in SCRIPTS for name in shown(path)]
    assert all(path.read_text(encoding="utf-8").startswith("# %% [markdown]\n# # ") for path in SCRIPTS)
    known = {path.stem for path in findings.discover(report.FINDINGS)}
    claims = json.loads((synthetic.REPOSITORY / "results" / "claims.json").read_text(encoding="utf-8"))
    published = {row["finding"] for row in claims if row["verdict"] != "not run"}
    taught = {name for name in known if name.startswith("textbook_")}  # for a student: also while it was not run
    assert published & known | taught <= set(found) <= known and len(found) == len(set(found))


def test_what_a_cell_shows_is_the_published_figure_with_its_verdicts(monkeypatch):
    exhibit = notebook.show("fig6")
    claims = json.loads((synthetic.REPOSITORY / "results" / "claims.json").read_text(encoding="utf-8"))
    (claim,) = (row for row in claims if row["id"] == "11")
    assert exhibit.png.startswith(b"\x89PNG") and claim["measured"] in repr(exhibit)
    page = exhibit._repr_html_()
    assert "data:image/png;base64," in page and f"{claim['verdict']}</b>" in page


def test_what_was_not_run_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv(project.RESULTS, str(tmp_path))
    exhibit = notebook.show("fig6")
    assert not exhibit.png and "not run (make sweep-init PRESET=full" in repr(exhibit)
    assert "not run" in exhibit._repr_html_()
    with pytest.raises(ValueError, match=r"show\('fig66'\): there is no such finding; there are .*fig6"):
        notebook.show("fig66")


@pytest.mark.parametrize("given", ["", "~/r2"])
def test_the_results_folder_is_read_as_everywhere(given, tmp_path, monkeypatch):
    (tmp_path / "r2").symlink_to(synthetic.REPOSITORY / "results")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(project.RESULTS, given)
    assert notebook.show("fig6").png


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("raise KeyError('no table')", r"^notebook one: KeyError: 'no table'; "),
        ("raise KeyError\nraise", r"^notebook one: KeyError: ; "),
        (r"raise ValueError('first\nsecond')", r"^notebook one: ValueError: first; .*\.ipynb"),
        ("import time\ntime.sleep(100)", "more than 1 seconds"),
        ("import os\nos._exit(1)", "its kernel died"),
    ],
)
def test_a_notebook_that_fails_is_named_in_plain_words_and_kept(cell, words, tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text(f"# %%\nprint('before')\n\n# %%\n{cell}\n", "utf-8")
    monkeypatch.setattr(notebook, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebook, "TIMEOUT_SEC", 1 if "sleep" in cell else 100)
    monkeypatch.setenv(project.RESULTS, "")
    with pytest.raises(ValueError, match=words) as raised:
        notebook.write([], tmp_path / "results")
    kept = tmp_path / "results" / "notebooks" / "one.failed.ipynb"
    assert str(kept) in str(raised.value) and "\x1b" not in str(raised.value)
    first = json.loads(kept.read_text(encoding="utf-8"))["cells"][0]
    assert "before" in str(first["outputs"]) and not kept.with_name("one.ipynb").exists()


@pytest.mark.slow
def test_a_notebook_becomes_a_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "one.py").write_text(
        "# %% [markdown]\n# # A *title*\n#\n# With $\\gamma$:\n#\n# $$y = x$$\n\n"
        '# %%\nfrom bnstudy.analysis.notebook import show\n\n# %%\nshow("depth_lr_reduced")\n',
        "utf-8",
    )
    monkeypatch.setattr(notebook, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv(project.RESULTS, "")
    with pytest.raises(ValueError, match=r"there is no 'two'; there are one"):
        notebook.write(["two"], tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tables").symlink_to(synthetic.REPOSITORY / "results" / "tables")
    assert notebook.write([], tmp_path / "results") == 0
    page = (tmp_path / "results" / "notebooks" / "one.html").read_text(encoding="utf-8")
    assert "<em>title</em>" in page and "data:image/png;base64," in page
    assert "undecided</b>" in page and "holds the bound" in page
    assert "<math " in page and "$" not in page.partition("<body>")[2].partition("<pre>")[0]
    assert set(re.findall(r"(?:src|href)=\"(https?:[^\"]+)", page)) == set() and "width=device-width" in page
    cells = json.loads((tmp_path / "results" / "notebooks" / "one.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code"]
    assert "notebook 1/1 one" in capsys.readouterr().out
