"""Best rates by the size of the mini-batch: made accuracies are judged for what they are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, zoo
from bnstudy.analysis.findings import Verdict

FINDING = findings.load(synthetic.FINDINGS / "best_rates.py")
RATES = (0.004, 0.01131, 0.032, 0.0905, 0.256, 0.724, 2.048)
SMALL, LARGE, RATIO = "B6-small", "B6-large", "B6-ratio"


def frames(bests=None, height=0.7, scaled=True, seeds=4):
    """Accuracies that are parabolas in the log of the rate around the best rates of (arm, size); where these are not
    given BN's go with the size and SkipInit's stop at 0.02."""
    rows = []
    for seed, arm, size in itertools.product(range(seeds), ("batch", "skipinit", "none"), (16, 128, 1024)):
        best = (0.0113 * (size / 16) ** (1 if scaled else 0.2)) if arm == "batch" else 0.0113 * (size / 16) ** 0.2
        best = (bests or {}).get((arm, size), best)
        kind = zoo.ARMS[arm]
        run = {"model": kind.model, "norm": kind.norm, "norm_where": kind.where, "batch_size": size, "seed": seed}
        for lr in RATES:
            accuracy = max(0.1, height - 0.03 * math.log(lr / best) ** 2) + 0.001 * seed
            rows.append({**run, "lr": lr, "final_test_accuracy": accuracy, "outcome": "trained"})
    return {"runs": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, {SMALL: Verdict.reproduced, LARGE: Verdict.reproduced, RATIO: Verdict.reproduced}),
        ({"bests": {("batch", 16): 0.1}}, {SMALL: Verdict.not_reproduced}),
        ({"bests": {("batch", 1024): 0.05}}, {LARGE: Verdict.partly}),
        ({"bests": {("batch", 1024): 0.02}}, {LARGE: Verdict.not_reproduced}),
        ({"bests": {("skipinit", 16): 0.001}}, {SMALL: Verdict.undecided, LARGE: Verdict.reproduced}),
        ({"scaled": False}, {RATIO: Verdict.not_reproduced}),
        ({"height": 0.15}, dict.fromkeys((SMALL, LARGE, RATIO), Verdict.undecided)),
        ({"seeds": 2}, dict.fromkeys((SMALL, LARGE, RATIO), Verdict.undecided)),
    ],
)
def test_made_accuracies_are_judged_for_what_they_are(how, expected):
    found = {claim: evidence.verdict for claim, evidence in FINDING.evidence(frames(**how)).items()}
    assert {claim: found[claim] for claim in expected} == expected


def test_the_top_of_the_parabola_is_found_between_the_rates_of_the_grid():
    """The best rate is no rate of the grid."""
    assert FINDING.measure is not None
    found = FINDING.measure(frames(bests={("batch", 16): 0.02, ("skipinit", 16): 0.025}))[SMALL]
    assert next(iter(found.values())).values.to_numpy() == pytest.approx(0.8)


def test_every_run_is_drawn():
    data = frames()
    fig = figures.new(FINDING.size, "t", "s", synthetic=False)
    FINDING.plot(fig, data)
    for ax in fig.axes[:3]:
        marks = [np.asarray(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
        assert sum(map(len, marks)) == 3 * 4 * len(RATES)
    assert len(FINDING.numbers(data)) == 2 * 9
