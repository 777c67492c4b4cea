"""Sharpness along gradient descent: made courses are judged for what they are."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Verdict

FINDING = findings.load(synthetic.FINDINGS / "edge_of_stability.py")
RATES = (0.05, 0.1, 0.2, 0.4, 0.8)


def frames(edge=(1.0, 1.05), scale_free=(1.0, 2.0), seeds=4, lost=()):
    """Rate x sharpness / 2 and scale-free sharpness at the end, with BN and without; at `lost` rates runs diverge."""
    looks, free = [], []
    for seed, lr, (arm, at) in itertools.product(range(seeds), RATES, zip(("batch", "none"), (0, 1), strict=True)):
        common = {"norm": arm, "lr": lr, "seed": seed, "status": "diverged" if lr in lost else "completed"}
        for step in range(0, 2001, 100):
            over = edge[at] if step > 1300 else 0.1
            value = 1e9 if lr in lost else 2 * over / lr * (1 + 0.002 * seed)
            looks.append({**common, "step": step, "eigenvalue": value})
        free += [{**common, "step": step, "eigenvalue": scale_free[at] * (1 + 0.002 * seed)} for step in (0, 2000)]
    return {"hessian_top_eigenvalue": pd.DataFrame(looks), "relative_sharpness": pd.DataFrame(free)}


@pytest.mark.parametrize(
    ("how", "edge", "order"),
    [
        ({}, Verdict.reproduced, Verdict.reproduced),
        ({"edge": (0.4, 1.0)}, Verdict.partly, Verdict.reproduced),
        ({"edge": (0.4, 2.0)}, Verdict.not_reproduced, Verdict.reproduced),
        ({"scale_free": (3.0, 2.0)}, Verdict.reproduced, Verdict.partly),
        ({"lost": (0.8,)}, Verdict.reproduced, Verdict.reproduced),
        ({"seeds": 2}, Verdict.undecided, Verdict.undecided),
    ],
)
def test_made_courses_are_judged_for_what_they_are(how, edge, order):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert found == {"B3-edge": edge, "B3-order": order}
