"""Sharpness along gradient descent: made courses are judged for what they are."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Verdict

FINDING = findings.load(synthetic.FINDINGS / "edge_of_stability.py")
RATES = (0.0125, 0.025, 0.05, 0.1, 0.2)


def frames(edge=(1.0, 1.05), scale_free=(1.0, 2.0), seeds=4, lost=(), outcome="diverged", fitted=2000, after=1.0):
    """Rate x sharpness / 2 late in the fit and scale-free sharpness at the end, with BN and without.

    At `lost` rates runs have another outcome; the loss falls below 0.1 at `fitted`, when sharpness is multiplied by
    `after`.
    """
    looks, free, steps = [], [], []
    for seed, lr, (arm, at) in itertools.product(range(seeds), RATES, zip(("batch", "none"), (0, 1), strict=True)):
        common = {"norm": arm, "lr": lr, "seed": seed, "outcome": outcome if lr in lost else "trained"}
        common["run_id"] = f"{arm}-{lr}-{seed}"
        steps += [{**common, "step": step, "loss": 0.5 if step < fitted else 0.05} for step in range(0, 2000, 10)]
        for step in range(0, 2001, 20):
            over = (edge[at] if step > 0.65 * fitted else 0.1) * (after if step > fitted else 1)
            value = 1e9 if lr in lost else 2 * over / lr * (1 + 0.002 * seed)
            looks.append({**common, "step": step, "eigenvalue": value, "converged": True})
        value = scale_free[at] * (1 + 0.002 * seed)
        free += [{**common, "step": step, "eigenvalue": value, "converged": True} for step in (0, 2000)]
    tables = {"hessian_top_eigenvalue": looks, "relative_sharpness": free, "steps": steps}
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


@pytest.mark.parametrize(
    ("how", "edge", "order"),
    [
        ({}, Verdict.reproduced, Verdict.reproduced),
        ({"edge": (0.4, 1.0)}, Verdict.partly, Verdict.reproduced),
        ({"edge": (0.4, 2.0)}, Verdict.not_reproduced, Verdict.reproduced),
        ({"scale_free": (3.0, 2.0)}, Verdict.reproduced, Verdict.partly),
        ({"lost": (0.2,)}, Verdict.reproduced, Verdict.reproduced),
        ({"lost": (0.2,), "outcome": "stalled"}, Verdict.reproduced, Verdict.reproduced),
        ({"fitted": 400, "after": 0.01}, Verdict.reproduced, Verdict.reproduced),  # what comes later does not count
        ({"fitted": 10}, Verdict.undecided, Verdict.reproduced),  # before the first look at it
        ({"fitted": 30}, Verdict.reproduced, Verdict.reproduced),
        ({"seeds": 2}, Verdict.undecided, Verdict.undecided),
    ],
)
def test_made_courses_are_judged_for_what_they_are(how, edge, order):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert found == {"B3-edge": edge, "B3-order": order}


@pytest.mark.parametrize(
    ("table", "rows", "changed"),
    [
        (
            "hessian_top_eigenvalue",
            "1000 < step < 2000 and step % 40 == 0",
            {},
        ),  # of every second look nothing is known
        ("hessian_top_eigenvalue", "step == 2000", {"B3-order"}),
        ("hessian_top_eigenvalue", "step > 1000", {"B3-edge", "B3-order"}),
        ("relative_sharpness", "step == 2000", {"B3-order"}),
    ],
)
def test_eigenvalues_that_did_not_converge_are_not_judged(table, rows, changed):
    tables = frames()
    lost = tables[table].query(rows).index
    tables[table].loc[lost, ["eigenvalue", "converged"]] = [1e9, False]
    verdicts = {claim: evidence.verdict for claim, evidence in FINDING.evidence(tables).items()}
    assert verdicts == {
        claim: Verdict.undecided if claim in changed else Verdict.reproduced for claim in ("B3-edge", "B3-order")
    }
