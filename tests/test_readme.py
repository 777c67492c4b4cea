"""Generated parts of README.md: replaced between their markers, everything else left alone."""

from __future__ import annotations

import json

import pytest

from bnstudy import readme

MARKED = "before <!-- x -->\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n"


def test_replace_changes_only_what_is_between_the_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(MARKED)
    readme.replace("claims", r"new \1 | text", page)
    assert page.read_text() == MARKED.replace("old", r"new \1 | text")


@pytest.mark.parametrize("text", ["", "<!-- claims:begin -->", "<!-- claims:end --> <!-- claims:begin -->"])
def test_missing_markers_are_named(tmp_path, text):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="claims:begin"):
        readme.replace("claims", "new", page)
    assert page.read_text() == text


def test_claims_table_shows_judged_claims_and_names_the_others(tmp_path):
    path = tmp_path / "claims.json"
    judged = {"id": "6", "says": "a | b", "measured": "<3", "n": 5, "verdict": "reproduced"}
    path.write_text(json.dumps([judged, {"id": "1", "verdict": "not run"}]))
    table = readme.claims_table(path)
    assert r"| 6 | a \| b | \<3 | 5 | **reproduced** |" in table
    assert "Not run yet: claims 1;" in table


def test_the_readme_has_both_places():
    text = readme.README.read_text(encoding="utf-8")
    for name in ("claims", "bench"):
        assert f"<!-- {name}:begin -->" in text and f"<!-- {name}:end -->" in text
