"""Claims, verdicts, the files that hold them, and how they are written down."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import synthetic

from bnstudy.analysis import claims_page, findings
from bnstudy.analysis.findings import Claim, Evidence, Note, Verdict

ROOT = Path(__file__).resolve().parents[1]


def test_claims_are_counted_by_whose_they_are_and_never_all_together() -> None:
    judged = Evidence("m", "s", 5, Verdict.reproduced)
    given = {"1": {"origin": "paper"}, "2": {"origin": "paper", "calibrated": "Figure 5"}, "a": {"origin": "course"},
             "b": {}}  # fmt: skip
    found = [findings.row(claim(id=name, **more), judged, data="", commit="") for name, more in given.items()]
    assert {name: [r.id for r in of] for name, of in claims_page.grouped(found).items()} == {
        "paper": ["1"], "calibrated": ["2"], "course": ["a"], "ours": ["b"],
    }  # fmt: skip
    text = claims_page.markdown(found)
    assert [text.count(f"## {title}") for title in claims_page.GROUPS.values()] == [1] * 4
    assert "4 claims" not in text and "4 reproduced" not in claims_page.counted(found)


def test_an_undecided_claim_says_why() -> None:
    row = findings.row(claim(), Evidence("m", "s", 5, Verdict.undecided, reason="nothing fits"), data="", commit="",
                       given="ResNet-20; n = 5")  # fmt: skip
    text = claims_page.markdown([row])
    assert "**undecided** (nothing fits)" in text and "ResNet-20; n = 5" in text


def test_whose_a_claim_is_must_be_known() -> None:
    with pytest.raises(ValueError, match="origin = 'nobody': choose one of paper, course, ours"):
        claim(origin="nobody")
    assert claim().origin == "ours"  # nothing is the paper's unless it says so


def claim(**values: str) -> Claim:
    return Claim(**{"id": "1", "where": "here", "says": "so", "criterion": "if", "scale": "init"} | values)


def test_a_claim_needs_its_texts_and_a_known_scale() -> None:
    with pytest.raises(ValueError, match="scale = 'huge'"):
        claim(scale="huge")
    with pytest.raises(ValueError, match="criterion is empty"):
        claim(criterion=" ")


def test_a_hyphen_before_a_number_is_written_as_a_minus_sign() -> None:
    row = findings.row(claim(), Evidence("ResNet-20: -5 %", "-1.0 to 2e-5", 5, Verdict.partly), data="", commit="")
    assert (row.measured, row.spread) == ("ResNet-20: \u22125 %", "\u22121.0 to 2e-5")


@pytest.mark.parametrize(
    ("n", "full", "partial", "verdict"),
    [
        (5, True, True, Verdict.reproduced),
        (5, False, True, Verdict.partly),
        (5, False, False, Verdict.not_reproduced),
        (2, True, True, Verdict.undecided),
        (0, False, False, Verdict.undecided),
    ],
)
def test_the_common_rule(n: int, full: bool, partial: bool, verdict: Verdict) -> None:
    assert findings.judge(n, full=full, partial=partial) is verdict


def test_every_claim_of_the_paper_stands_exactly_once() -> None:
    found = [findings.load(path) for path in findings.discover(synthetic.FINDINGS)]
    rows = [findings.row_not_run(c, "", finding=f.name) for f in found for c in f.claims]
    findings.check_ids(rows)
    ids = [row.id for row in rows]
    assert {str(number) for number in range(1, 18)} <= set(ids)
    sweeps = {path.stem for path in (synthetic.FINDINGS.parents[1] / "sweeps").glob("*.yaml")}
    assert {f.sweep for f in found} <= sweeps


def test_a_claim_that_stands_twice_is_named() -> None:
    for second in ("fig7", "fig6"):
        rows = [findings.row_not_run(claim(id="11"), "", finding=owner) for owner in ("fig6", second)]
        with pytest.raises(ValueError, match=rf"claim 11 is in fig6 and in {second}"):
            findings.check_ids(rows)


def test_a_finding_that_lacks_a_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text("TITLE = 'x'\nCLAIMS = ()\n")
    with pytest.raises(ValueError, match=r"findings/half\.py lacks CAPTION, SWEEP"):
        findings.load(tmp_path / "half.py")
    with pytest.raises(ValueError, match="is not there"):
        findings.discover(tmp_path / "nowhere")


def test_every_claim_must_be_judged(tmp_path: Path) -> None:
    shutil.copy(synthetic.FINDINGS / "fig6.py", tmp_path / "fig6.py")
    with (tmp_path / "fig6.py").open("a") as file:
        file.write("\n\nfrom bnstudy.analysis.findings import Evidence, Verdict, claim\n\n\n")
        file.write("@claim(id='own', where='w', says='s', criterion='c', scale='init')\ndef judges(frames):\n")
        file.write("    return Evidence('', '', 0, Verdict.undecided)\n\n\ndel measure\n")
    with pytest.raises(ValueError, match=r"judged are \['own'\], the claims are \['11', 'own'\]"):
        findings.load(tmp_path / "fig6.py").evidence({})


def rows() -> list[findings.Row]:
    judged = Evidence("a | b <c>", "1 to 2", 5, Verdict.partly)
    return [
        findings.row_not_run(claim(id="10"), "a GPU"),
        findings.row(claim(id="zeta"), judged, data="synthetic data (x)", commit="0123", finding="f"),
        findings.row(claim(id="2", published="3"), judged, data="x", commit="0123", finding="f"),
    ]


def test_claims_are_written_in_order_and_escaped(tmp_path: Path) -> None:
    claims_page.write(rows(), tmp_path)
    entries = json.loads((tmp_path / "claims.json").read_text())
    assert [e["id"] for e in entries] == ["2", "10", "zeta"]
    contract = ["id", "where", "says", "criterion", "scale", "measured", "spread", "n", "verdict", "data", "commit"]
    assert list(entries[0])[:11] == contract
    assert entries[1]["verdict"] == "not run" and entries[1]["n"] == 0 and entries[1]["to_run"] == "a GPU"
    text = (tmp_path / "claims.md").read_text()
    assert "synthetic data" in text and "*a GPU*" in text
    assert r"a \| b \<c\>" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {13}


def test_without_a_stand_in_there_is_no_warning() -> None:
    assert "synthetic" not in claims_page.markdown([r for r in rows() if not r.data.startswith("synthetic")])


def test_a_tally_counts_every_row() -> None:
    assert claims_page.tallied(rows()) == {"partly": 2, "not run": 1}
    assert asdict(rows()[0])["finding"] == ""


def test_every_published_miss_has_an_explanation_and_a_test():
    published = json.loads((ROOT / "results" / "claims.json").read_text(encoding="utf-8"))
    known = findings.notes(ROOT / "analysis" / "findings")
    misses = {row["id"] for row in published if row["verdict"] in (Verdict.partly, Verdict.not_reproduced)}
    assert {name for name in misses if name not in known or not (known[name].explanation and known[name].test)} == set()


def test_notes_are_of_known_claims_and_keys(tmp_path):
    (tmp_path / "notes.toml").write_text("[9]\nreason = 'x'\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"claim 9 has reason; a note has disputed, explanation, test"):
        findings.notes(tmp_path)
    claim = Claim(id="9", where="x", says="x", criterion="x", scale="init")
    rows = [findings.row(claim, Evidence("1", "", 5, verdict), data="", commit="") for verdict in Verdict]
    with pytest.raises(ValueError, match=r"there is no claim 10"):
        findings.noted(rows, {"10": Note(disputed="x")})
    noted = findings.noted(rows, {"9": Note(explanation="why", test="how", disputed="who")})
    assert {row.verdict for row in noted if row.explanation == "why" and row.test == "how"} == {
        "partly", "not reproduced",
    }  # fmt: skip
    assert all(row.disputed == "who" for row in noted)
    text = claims_page.markdown(noted)
    assert "*What would test it:* how" in text and "## Where others disagree" in text
