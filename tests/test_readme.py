"""What README.md generates from the claims: the table, and the numbers and verdicts within sentences."""

from __future__ import annotations

from typing import Any

import pytest

from bnstudy.analysis import readme

MARKED = "before <!-- x -->\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nafter\n"
PUBLISHED = readme.ROOT / "results" / "claims.json"


def row(name: str, **values: Any) -> dict[str, Any]:
    shared = {"says": "a | b.", "measured": "ratio 132 (layer 8), \u22120.5 points; share at 0.1 0.927", "n": 5}
    kind = {"verdict": "reproduced", "scale": "init", "origin": "paper", "calibrated": "", "reason": ""}
    return {"id": name, **shared, **kind, **values}


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


def test_numbers_and_verdicts_within_sentences_are_those_of_the_claims():
    text = "<!--6#1-->1<!---->, <!--6#2--><!---->, <!--6#3%-->old<!---->, <!--verdicts 6 7-batches--><!---->"
    filled = readme.with_numbers(text, [row("6"), row("7-batches", verdict="not run")])
    shown = "132, \u22120.5, 92.7 %, claims 6: reproduced; 7-batches: not run"
    assert readme.MARK.sub(r"\g<text>", filled) == shown
    assert readme.with_numbers(filled, [row("6"), row("7-batches", verdict="not run")]) == filled


@pytest.mark.parametrize(
    ("mark", "remedy"), [("8#1", "no claim 8"), ("6#4", "132, .*0.927"), ("6#x", "132"), ("verdicts 8", "no claim 8")]
)
def test_a_mark_of_nothing_is_refused(mark, remedy):
    with pytest.raises(ValueError, match=remedy):
        readme.with_numbers(f"<!--{mark}-->1<!---->", [row("6")])


@pytest.mark.parametrize("value", ["\u221e", "\u2212\u221e", "\u2013"])
def test_what_is_infinite_or_not_defined_has_its_place_and_is_refused(value):
    rows = [row("6", measured=f"ratio {value}; gain 5 points; runs 1,234")]
    filled = readme.with_numbers("<!--6#2--><!----> <!--6#3%--><!---->", rows)
    assert readme.MARK.sub(r"\g<text>", filled) == "5 1.23e5 %"
    with pytest.raises(ValueError, match=f"6#1.*{value}, 5, 1,234"):
        readme.with_numbers("<!--6#1-->1<!---->", rows)


def test_the_short_table_has_the_numbered_claims_and_what_smaller_scales_decided():
    smaller = [row("1-reduced", scale="reduced", n=3, verdict="undecided"), row("1-grid", verdict="not run")]
    fitted = row("1-fitted", scale="fitted", n=5, verdict="partly")
    waiting = row("1", verdict="not run", scale="paper", n=0)
    others = row("5", calibrated="Figure 5"), row("6", verdict="partly"), row("9-levels"), row("x")
    table = readme.short_table([waiting, *smaller, *others])
    assert r"| 1 | a \| b | paper | 0 | **not run** (reduced, n = 3: undecided) |" in table
    assert "**not run** (fitted, n = 5: partly) |" in readme.short_table([waiting, *smaller, fitted])
    assert f"| 5 | a \\| b | untrained | 5 | **reproduced**{readme.NO_TEST} |" in table
    assert "| 9-levels |" not in table and "| x |" not in table
    assert "\n1 partly, 1 not run. " in table and "No test (1 reproduced)" in table


def test_the_readme_is_short_and_says_what_the_claims_say(tmp_path):
    text = readme.README.read_text(encoding="utf-8")
    assert len(text.encode()) < 9000
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    readme.update(PUBLISHED, copy)
    assert copy.read_text(encoding="utf-8") == text, "make publish, or bnstudy.analysis.readme.update, writes it anew"
    assert all(command in text for command in ("make reproduce", "make test", "make help"))


def test_the_page_on_speed_has_a_place_for_its_table():
    text = readme.SPEED.read_text(encoding="utf-8")
    assert "<!-- bench:begin -->" in text and "<!-- bench:end -->" in text
