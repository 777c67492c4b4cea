"""The noise of steps along training: slopes in the learning rate, and the arms at their own rates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

FINDING = findings.load(synthetic.FINDINGS / "noise_training.py")
RATES = (0.001, 0.01, 0.1)


def data(batch: float = 2.0, none: float = 2.0, ratio: float = 0.5, seeds: int = 5) -> dict[str, pd.DataFrame]:
    """Slopes of a step's noise after training in each arm; `ratio` of the noise without BN to that with BN at 0.01."""
    rows: list[dict[str, Any]] = []
    draw = np.random.default_rng(0)
    for norm, slope in (("batch", batch), ("none", none)):
        for seed in range(seeds):
            for lr in RATES:
                for step in (0, 10, 60):
                    level = 3.0 * (ratio if norm == "none" else 1.0) * math.exp(draw.normal(0, 0.01))
                    deviation = level * (lr / 0.01) ** (slope - 2 if step == 60 else 0)
                    row = {"run_id": f"{norm}{lr}{seed}", "norm": norm, "seed": seed, "lr": lr, "step": step}
                    rows.append(row | {"mean_squared_deviation": deviation, "gradient_squared": 4.0})
    return {"gradient_noise": pd.DataFrame(rows)}


def judged(**changes: Any) -> dict[str, Evidence]:
    return FINDING.evidence(data(**changes))


@pytest.mark.parametrize(
    ("batch", "none", "verdict"),
    [
        (2.0, 2.0, Verdict.reproduced),
        (1.6, 2.4, Verdict.reproduced),
        (1.4, 2.0, Verdict.partly),
        (2.0, 2.6, Verdict.partly),
        (1.2, 3.0, Verdict.not_reproduced),
    ],
)
def test_the_slope_decides(batch: float, none: float, verdict: Verdict) -> None:
    evidence = judged(batch=batch, none=none)["5-training"]
    assert evidence.verdict is verdict and evidence.n == 5
    told = next(line for line in FINDING.numbers(data(batch=batch, none=none)))
    assert float(told.ours_batch.split()[0]) == pytest.approx(batch, abs=0.02)
    assert float(told.ours_none.split()[0]) == pytest.approx(none, abs=0.02)


@pytest.mark.parametrize(("ratio", "verdict"), [(95.0, Verdict.reproduced), (105.0, Verdict.not_reproduced)])
def test_the_arms_are_compared_at_their_own_rates(ratio: float, verdict: Verdict) -> None:
    """At 0.1 the step with BN is 100 times as noisy as at 0.01."""
    assert judged(ratio=ratio)["5-own-rates"].verdict is verdict


def test_scatter_over_the_bound_decides_nothing() -> None:
    tables = data()
    rows = tables["gradient_noise"]
    rows.loc[(rows["norm"] == "none") & (rows["seed"] == 3), "mean_squared_deviation"] *= 1e7
    assert FINDING.evidence(tables)["5-own-rates"].verdict is Verdict.undecided


def test_runs_that_diverged_have_no_slope() -> None:
    tables = data()
    rows = tables["gradient_noise"]
    tables["gradient_noise"] = rows[~((rows["norm"] == "none") & (rows["lr"] == 0.1) & (rows["step"] == 60))]
    evidence = FINDING.evidence(tables)
    assert evidence["5-training"].verdict is Verdict.undecided
    assert evidence["5-own-rates"].verdict is Verdict.reproduced
    FINDING.plot(figures.new(FINDING.size, "t", "s", synthetic=False), tables)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    tables = data()
    tables["gradient_noise"] = tables["gradient_noise"].query("norm == @arm")
    FINDING.plot(figures.new(FINDING.size, "t", "s", synthetic=False), tables)
    assert FINDING.numbers(tables)
    assert {e.verdict for e in FINDING.evidence(tables).values()} == {Verdict.undecided}


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}
