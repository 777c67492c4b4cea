"""The student's notebook runs from top to bottom and shows its eight findings."""

from __future__ import annotations

import re
import runpy

import pytest
import synthetic

NOTEBOOK = synthetic.REPOSITORY / "analysis" / "notebooks" / "textbook.py"


def test_it_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    runpy.run_path(str(NOTEBOOK))
    shown = re.findall(r'(?m)^show\("(\w+)"\)', NOTEBOOK.read_text(encoding="utf-8"))
    assert len(shown) == len(set(shown)) == 8
    assert capsys.readouterr().out.count("criterion: ") >= len(shown)
