"""Claims judged again under variants: each variant sees its own runs, by the findings' own criteria."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Finding, Verdict
from bnstudy.analysis.robustness import BASE, Study, compared, draw
from bnstudy.config import compose
from bnstudy.config.schema import to_dict
from bnstudy.store.reduction import config_columns

NAMES = ("sensitivity", "sensitivity_training")
OF_SWEEP = {"sensitivity": "init", "sensitivity_training": "lenet_lr_grid"}


def study(name: str) -> Study:
    found = findings._module(synthetic.FINDINGS / f"{name}.py").STUDY
    assert isinstance(found, Study)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_judges_every_finding_of_the_sweep(name: str) -> None:
    every = [findings.load(path) for path in findings.discover(synthetic.FINDINGS)]
    expected = {f.name for f in every if f.sweep == OF_SWEEP[name]} - {"textbook_faster"}  # of more epochs than here
    assert {f.name for f in study(name).findings} == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["quick", pytest.param("full", marks=pytest.mark.slow)])
def test_every_run_of_the_sweep_is_of_one_variant_and_each_has_equally_many(name: str, preset: str) -> None:
    runs = pd.DataFrame([config_columns(to_dict(config)) for config in compose.expand(name, preset, ["seed=1"])])
    given = study(name)
    seen = []
    for change in ({}, *given.variants.values()):
        values = given.base | change  # type: ignore[operator]
        seen.append(runs.index[np.logical_and.reduce([runs[key] == value for key, value in values.items()])])
    assert sorted(i for index in seen for i in index) == list(runs.index)
    assert len({len(index) for index in seen}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_base_is_what_the_sweep_that_is_judged_again_has(name: str) -> None:
    base = study(name).base
    for config in compose.expand(OF_SWEEP[name], "full"):
        columns = config_columns(to_dict(config))
        assert {key: columns[key] for key in base} == base


def test_a_variant_is_judged_as_the_findings_judge_its_runs_and_no_others() -> None:
    """The published tables as the base; another variant is the same with the arms' names exchanged."""
    given = study("sensitivity")
    given = replace(given, findings=[f for f in given.findings if f.name in ("fig5", "fig6", "table1")])  # small tables
    tables = {table: frames.load(synthetic.REPOSITORY / "results", "init", table) for table in given.tables}
    swapped = {name: t.assign(norm=t["norm"].map({"batch": "none", "none": "batch"})) for name, t in tables.items()}
    both = {name: pd.concat([t, swapped[name].assign(normalise="unit")]) for name, t in tables.items()}
    judged = given.judged(both)
    for variant, alone in ((BASE, tables), ("images in [0, 1]", swapped)):
        for finding in given.findings:
            data = {name: alone[name].query(query) if query else alone[name] for name, query in finding.needs.items()}
            if finding.published:
                data["published"] = frames.published(given.curves, finding.published)
            direct = finding.evidence(data)
            assert {claim: judged[variant][claim] for claim in direct} == direct
    assert set(judged[BASE]) == set(given.says)
    assert {e.verdict for e in judged["Xavier's normal law"].values()} == {Verdict.not_run}
    assert judged["images in [0, 1]"]["11"].verdict is Verdict.not_reproduced


def test_the_published_tables_have_what_every_claim_is_judged_by() -> None:
    given = study("sensitivity")
    tables = {table: frames.load(synthetic.REPOSITORY / "results", "sensitivity", table) for table in given.tables}
    for variant, judged in given.judged(tables).items():
        lacking = {name for name, of in judged.items() if not of.n or not all(part.n for part in of.estimates.values())}
        assert not lacking, variant


def toy(verdicts: list[Verdict]) -> dict[str, Evidence]:
    return {str(i): Evidence("m", "s", 5, verdict) for i, verdict in enumerate(verdicts)}


@pytest.mark.parametrize(
    ("changed", "verdict"), [(0, Verdict.reproduced), (2, Verdict.partly), (3, Verdict.not_reproduced)]
)
def test_how_many_verdicts_must_be_alike(changed: int, verdict: Verdict) -> None:
    base = [Verdict.reproduced, Verdict.partly] * 3
    here = [Verdict.not_reproduced] * changed + base[changed:]
    evidence = compared({BASE: toy(base), "v": toy(here)}, "v")
    assert evidence.verdict is verdict and evidence.measured == f"{6 - changed} of 6 verdicts alike"
    assert evidence.spread.count("not reproduced instead of") == changed
    few = {BASE: toy(base), "v": {**toy(base), "0": replace(toy(base)["0"], n=2)}}
    assert compared(few, "v").verdict is Verdict.undecided


def test_only_what_the_base_decides_counts() -> None:
    """Of five claims the base decides two, one of which is as it was; a claim undecided in both is no agreement."""
    base = [Verdict.reproduced, Verdict.partly, Verdict.undecided, Verdict.undecided, Verdict.not_run]
    here = [Verdict.reproduced, Verdict.not_reproduced, Verdict.undecided, Verdict.partly, Verdict.not_run]
    judged = {BASE: toy(base), "v": toy(here)}
    judged[BASE]["4"] = judged["v"]["4"] = Evidence("", "", 0, Verdict.not_run)
    evidence = compared(judged, "v")
    assert (evidence.measured, evidence.n) == ("1 of 2 verdicts alike", 5)
    assert evidence.verdict is Verdict.not_reproduced
    assert evidence.spread == (
        "1: not reproduced instead of partly; not decided as studied: 2, 3; not measured in this sweep: 4"
    )
    lost = compared({BASE: toy(base[:2]), "v": toy([Verdict.reproduced, Verdict.undecided])}, "v")
    assert lost.measured == "1 of 2 verdicts alike" and "1: undecided instead of partly" in lost.spread
    assert compared({BASE: toy(base[:1]), "v": toy(base[:1])}, "v").verdict is Verdict.undecided  # one is not enough
    absent = compared({BASE: toy(base[:2]), "v": toy([Verdict.reproduced, Verdict.not_run])}, "v")
    assert "not measured in this sweep: 1" in absent.spread and absent.verdict is Verdict.undecided
    open_ended = {BASE: toy(base[2:4]), "v": toy(base[2:4])}
    assert compared(open_ended, "v").verdict is Verdict.undecided


def test_the_figure_has_a_cell_a_claim_and_variant_and_frames_what_differs() -> None:
    base, here = toy([Verdict.reproduced] * 3), toy([Verdict.reproduced, Verdict.partly, Verdict.not_run])
    fig = figures.new((6, 3), "t", "s", synthetic=False)
    ax = fig.subplots()
    draw(ax, {BASE: base, "v": here}, {"0": "says", "1": "more", "2": "most"})
    labels = [text for text in ax.texts if text.get_label() == "claim"]
    assert [text.get_text() for text in labels] == ["0: says", "1: more", "2: most"]
    cells = [text.get_text() for text in ax.texts if text not in labels]
    assert cells == ["reproduced"] * 3 + ["partly", "reproduced", "not measured"]  # row by row
    assert sum(not patch.get_fill() for patch in ax.patches) == 1


def lenet(changes: dict[str, Any], top_without: float) -> list[dict[str, Any]]:
    """Trains up to 3 with BN, and up to `top_without` without."""
    base = {"model": "lenet", "status": "completed", "warmup": 0.0, "weight_decay": 0.0}
    rows = []
    for norm, top, best in (("batch", 3.0, 0.85), ("none", top_without, 0.75)):
        for lr in (0.1, 1.0, 3.0, 10.0):
            for seed in range(5):
                accuracy = best - 0.01 * abs(math.log10(lr)) + 0.001 * seed
                outcome = "trained" if lr <= top else "diverged"
                final = {f"final_{side}_accuracy": accuracy for side in ("train", "test")}
                rows.append({**base, **changes, "norm": norm, "lr": lr, "seed": seed, "outcome": outcome, **final})
    return rows


def test_training_claims_are_judged_in_each_variant() -> None:
    finding: Finding = findings.load(synthetic.FINDINGS / "sensitivity_training.py")
    changes = {"sensitivity-warm-up": {"warmup": 0.1}, "sensitivity-decay-0.0001": {"weight_decay": 0.0001}}
    rows = lenet({}, 1.0) + lenet(changes["sensitivity-warm-up"], 3.0) + lenet({"weight_decay": 0.0001}, 1.0)
    evidence = finding.evidence({"runs": pd.DataFrame(rows)})
    verdicts = {name: e.verdict for name, e in evidence.items()}
    assert verdicts == {
        "sensitivity-warm-up": Verdict.not_reproduced,  # lenet-lr-1 fails, of two
        "sensitivity-decay-0.0001": Verdict.reproduced,
        "sensitivity-decay-0.0005": Verdict.undecided,  # not run
    }
    assert evidence["sensitivity-warm-up"].spread.startswith("lenet-lr-1: not reproduced instead of reproduced")
    finding.plot(figures.new(finding.size, "t", "s", synthetic=False), {"runs": pd.DataFrame(rows)})
