"""Cancellation parameter by parameter: which medians reproduce, partly or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Verdict

FINDING = findings.load(synthetic.FINDINGS / "table1_parameters.py")
LAYERS = (18, 54, 90, 100)


def data(medians: Mapping[tuple[str, int], float] | None = None, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows: list[dict[str, Any]] = []
    for norm in ("batch", "none"):
        for seed in range(seeds):
            for depth in LAYERS:
                median = {"batch": 100.0, "none": 2.0}[norm] if medians is None else medians[norm, depth]
                where = {"run_id": f"{norm}{seed}", "norm": norm, "seed": seed, "depth": depth, "num_entries": 9}
                told = [("ratio", p, median * 4 * p * p) for p in (0.05, 0.25, 0.5, 0.75, 0.95)]
                told += [("share_below", 4.0, 0.8)]
                rows += [{**where, "quantity": q, "x": x, "value": value} for q, x, value in told]
    return {"conv_gradient_entries": pd.DataFrame(rows)}


def where(**changes: float) -> dict[tuple[str, int], float]:
    """Medians by arm and layer; `none_54=5` changes one."""
    told = {(norm, depth): value for norm, value in (("batch", 100.0), ("none", 2.0)) for depth in LAYERS}
    return told | {(name.split("_")[0], int(name.split("_")[1])): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, (Verdict.reproduced, Verdict.reproduced)),
        ({"none_54": 4.1}, (Verdict.partly, Verdict.partly)),
        ({"batch_90": 19.0}, (Verdict.not_reproduced, Verdict.partly)),
        ({"none_54": 4.1, "none_90": 5.0, "batch_18": 19.0}, (Verdict.not_reproduced, Verdict.not_reproduced)),
        ({"none_100": 50.0}, (Verdict.reproduced, Verdict.partly)),
        ({"batch_18": math.inf}, (Verdict.reproduced, Verdict.reproduced)),
    ],
)
def test_which_medians_reproduce(changes: Mapping[str, float], verdicts: tuple[Verdict, Verdict]) -> None:
    evidence = FINDING.evidence(data(where(**changes)))
    assert (evidence["12-parameters"].verdict, evidence["12-parameters-layers"].verdict) == verdicts
    assert {e.n for e in evidence.values()} == {5}


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    tables = data()
    tables["conv_gradient_entries"] = tables["conv_gradient_entries"].query("norm == @arm")
    FINDING.plot(figures.new(FINDING.size, "t", "s", synthetic=False), tables)
    assert FINDING.numbers(tables)
    assert {e.verdict for e in FINDING.evidence(tables).values()} == {Verdict.undecided}


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in FINDING.evidence(data(seeds=2)).values()} == {Verdict.undecided}


def test_the_table_has_the_share_of_entries_that_agree() -> None:
    told = {line.quantity: line.ours_none for line in FINDING.numbers(data())}
    assert told["entries with a/b below 4 (%), layer 54"] == "80"
