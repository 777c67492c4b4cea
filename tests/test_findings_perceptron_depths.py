"""Perceptrons by depth: made gradients of a known growth are judged for what they are."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Verdict

THEORY = math.pi / (math.pi - 1)
DEPTHS = (5, 10, 20, 50, 100)


def table(
    plain: float = THEORY, without: float = 1.0, power: float = 1.0, seeds: int = 4, shortcut: float = 1.0
) -> pd.DataFrame:
    """Gradients that grow by `plain` and `without` a layer, and with shortcuts as a power of the depth."""
    rows = []
    for seed in range(seeds):
        for depth in DEPTHS:
            for norm in ("batch", "none"):
                for residual in (False, True):
                    for layer in range(1, depth + 1):
                        factor = shortcut if residual else plain if norm == "batch" else without
                        square = (1 + 0.001 * seed) * factor ** (depth - layer) * (depth**power if residual else 1)
                        rows.append((seed, depth, norm, residual, layer, math.sqrt(square)))
    columns = ["seed", "run_depth", "norm", "residual", "depth", "gradient"]
    return pd.DataFrame(rows, columns=columns).assign(step=0, model="deep_perceptron")


def verdicts(**how):
    made = findings.load(synthetic.FINDINGS / "perceptron_depths.py")
    return {claim: evidence.verdict for claim, evidence in made.evidence({"gradient_norms": table(**how)}).items()}


@pytest.mark.parametrize(
    ("how", "claim", "verdict"),
    [
        ({}, "B1-factor", Verdict.reproduced),
        ({}, "B1-without", Verdict.reproduced),
        ({}, "B1-shortcuts", Verdict.reproduced),
        ({"plain": 1.2}, "B1-factor", Verdict.not_reproduced),
        ({"without": 1.2}, "B1-without", Verdict.not_reproduced),
        ({"power": 5.0}, "B1-shortcuts", Verdict.reproduced),
        ({"power": 0.0, "shortcut": 1.03}, "B1-shortcuts", Verdict.partly),
        ({"seeds": 2}, "B1-factor", Verdict.undecided),
    ],
)
def test_made_growth_is_judged_for_what_it_is(how, claim, verdict):
    assert verdicts(**how)[claim] == verdict
