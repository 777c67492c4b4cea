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

FINDINGS = {
    name: findings.load(synthetic.FINDINGS / f"{name}.py")
    for name in ("best_rates_small", "best_rates_large", "rate_over_size")
}
RATES = (0.0005, 0.00141, 0.004, 0.01131, 0.032, 0.0905, 0.256, 0.724, 2.048)
ASKED = {16: RATES[:7], 128: RATES[2:], 1024: RATES[3:]}  # of a size
SWEEPS = {16: "best_rates_small", 128: "rate_over_size", 1024: "best_rates_large"}
SMALL, LARGE, RATIO = "B6-small", "B6-large", "B6-ratio"


def runs_of(bests=None, height=0.7, scaled=True, seeds=4):
    """Accuracies that are parabolas in the log of the rate around the best rates of (arm, size); where these are not
    given BN's go with the size and SkipInit's stop at 0.02."""
    rows = []
    for seed, arm, size in itertools.product(range(seeds), ("batch", "skipinit"), ASKED):
        if (arm, size) == ("skipinit", 128):
            continue
        best = (0.0113 * (size / 16) ** (1 if scaled else 0.2)) if arm == "batch" else 0.0113 * (size / 16) ** 0.2
        best = (bests or {}).get((arm, size), best)
        kind = zoo.ARMS[arm]
        run = {"model": kind.model, "norm": kind.norm, "norm_where": kind.where, "batch_size": size, "seed": seed}
        for lr in ASKED[size]:
            accuracy = max(0.1, height - 0.03 * math.log(lr / best) ** 2) + 0.001 * seed
            rows.append({**run, "lr": lr, "final_test_accuracy": accuracy, "outcome": "trained"})
    return pd.DataFrame(rows)


def frames_of(name, runs):
    """What the finding asks for, of the runs of all three sweeps."""
    asked = {}
    for table, query in FINDINGS[name].needs.items():
        sweep = table.rpartition("/")[0] or name
        of_sweep = runs[runs["batch_size"].map(SWEEPS) == sweep]
        asked[table] = of_sweep.assign(status="completed", depth=20).query(query)
    return asked


def judged(runs):
    return {
        claim: evidence.verdict
        for name, finding in FINDINGS.items()
        for claim, evidence in finding.evidence(frames_of(name, runs)).items()
    }


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, {SMALL: Verdict.reproduced, LARGE: Verdict.reproduced, RATIO: Verdict.reproduced}),
        ({"bests": {("batch", 16): 0.1}}, {SMALL: Verdict.not_reproduced}),
        ({"bests": {("batch", 1024): 0.05}}, {LARGE: Verdict.partly}),
        ({"bests": {("batch", 1024): 0.02}}, {LARGE: Verdict.not_reproduced}),
        ({"bests": {("batch", 16): 0.003, ("skipinit", 16): 0.003}}, {SMALL: Verdict.reproduced}),
        ({"bests": {("skipinit", 16): 0.0004}}, {SMALL: Verdict.undecided, LARGE: Verdict.reproduced}),
        ({"scaled": False}, {RATIO: Verdict.not_reproduced}),
        ({"height": 0.15}, dict.fromkeys((SMALL, LARGE, RATIO), Verdict.undecided)),
        ({"seeds": 2}, dict.fromkeys((SMALL, LARGE, RATIO), Verdict.undecided)),
    ],
)
def test_made_accuracies_are_judged_for_what_they_are(how, expected):
    found = judged(runs_of(**how))
    assert {claim: found[claim] for claim in expected} == expected


def test_the_top_of_the_parabola_is_found_between_the_rates_of_the_grid():
    """The best rate is no rate of the grid."""
    finding = FINDINGS["best_rates_small"]
    assert finding.measure is not None
    runs = runs_of(bests={("batch", 16): 0.02, ("skipinit", 16): 0.025})
    found = finding.measure(frames_of("best_rates_small", runs))[SMALL]
    assert next(iter(found.values())).values.to_numpy() == pytest.approx(0.8)


def test_the_sweeps_ask_for_these_rates():
    for size, sweep in SWEEPS.items():
        text = (synthetic.REPOSITORY / "sweeps" / f"{sweep}.yaml").read_text(encoding="utf-8")
        assert f"optim.lr: {','.join(map(str, ASKED[size]))}\n" in text and f"batch_size: {size}}}" in text


@pytest.mark.parametrize(("name", "num_runs", "num_lines"), [("best_rates_small", 56, 4), ("best_rates_large", 48, 4)])
def test_every_run_is_drawn(name, num_runs, num_lines):
    finding, data = FINDINGS[name], frames_of(name, runs_of())
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    fig.draw_without_rendering()
    marks = [np.asarray(line.get_xdata()) for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert sum(map(len, marks)) == num_runs == len(data["runs"])
    assert len(finding.numbers(data)) == num_lines


def test_every_ratio_of_rate_and_size_is_drawn():
    finding, data = FINDINGS["rate_over_size"], frames_of("rate_over_size", runs_of())
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    fig.draw_without_rendering()
    assert sum(len(np.asarray(line.get_xdata())) for line in fig.axes[0].lines) == sum(map(len, ASKED.values()))
    assert len(finding.numbers(data)) == 3
