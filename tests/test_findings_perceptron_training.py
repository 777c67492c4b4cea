"""Perceptrons by depth and rate: which depth counts as trained, and what is said of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict
from bnstudy.store import outcomes

FINDING = findings.load(synthetic.FINDINGS / "perceptron_training.py")
DEPTHS = (5, 10, 20, 50, 100)
RATES = (1e-4, 0.001, 0.01, 0.1, 1.0, 10.0)
Deepest = Mapping[tuple[str, bool], Sequence[int]]  # arm, with shortcuts -> the deepest that learns, by seed
AS_PUBLISHED: Deepest = {
    ("batch", False): [50, 50, 20],
    ("batch", True): [100, 100, 100],
    ("none", False): [20, 20, 20],
    ("none", True): [10, 10, 5],
}


def steps(changed: Deepest | None = None) -> pd.DataFrame:
    """Each network learns at one rate, another one at every depth; larger rates diverge. Two rows a run: one of a loss
    that says nothing, before the last 50, and their mean.
    """
    rows = []
    for (arm, residual), deepest in {**AS_PUBLISHED, **(changed or {})}.items():
        for (seed, last), depth, rate in itertools.product(enumerate(deepest, 1), DEPTHS, RATES):
            best = RATES[DEPTHS.index(depth) % len(RATES)]
            outcome = outcomes.LEARNS if rate == best and depth <= last else "at chance"
            outcome = outcomes.DIVERGED if rate > best else outcome
            status = "diverged" if outcome == outcomes.DIVERGED else "completed"
            row = {"norm": arm, "residual": residual, "depth": depth, "run_lr": rate, "seed": seed, "status": status}
            right = 0.95 if outcome == outcomes.DIVERGED else 0.6 if outcome == outcomes.LEARNS else 0.1
            rows += [{**row, "step": step, "accuracy": right, "loss": 100.0} for step in range(50)]
            rows.append({**row, "step": -1, "accuracy": 0.1 if outcome == outcomes.LEARNS else 1.0, "loss": 100.0})
    return pd.DataFrame(rows)


def judged(changed: Deepest | None = None) -> Evidence:
    return FINDING.evidence({"steps": steps(changed)})["B1-trains"]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.reproduced),
        ({("batch", False): [100, 50, 50]}, Verdict.partly),  # one seed trains at 100
        ({("batch", False): [10, 50, 50]}, Verdict.partly),
        ({("batch", True): [100, 50, 100]}, Verdict.partly),
        ({("batch", False): [0, 0, 0], ("batch", True): [20, 20, 20]}, Verdict.not_reproduced),
        ({("none", False): [100, 100, 100]}, Verdict.reproduced),  # nothing is claimed of it
        ({("batch", False): [50, 50], ("batch", True): [100, 100]}, Verdict.undecided),
    ],
)
def test_the_deepest_network_that_learns_decides(changed: Deepest, verdict: Verdict) -> None:
    assert judged(changed).verdict is verdict


def test_a_seed_without_all_of_its_runs_does_not_count() -> None:
    rows = steps()
    lost = (rows["seed"] == 2) & (rows["depth"] == 100) & (rows["run_lr"] == 10) & (rows["norm"] == "batch")
    assert FINDING.evidence({"steps": rows[~lost]})["B1-trains"].verdict is Verdict.undecided


def test_every_run_is_drawn_and_the_numbers_name_the_depths() -> None:
    fig = figures.new(FINDING.size, "t", "s", synthetic=False)
    FINDING.plot(fig, {"steps": steps()})
    fig.draw_without_rendering()
    marks = [line for ax in fig.axes for line in ax.lines]
    assert len(marks) == len(steps()) / 51 == 360
    assert sum(line.get_marker() == "x" for line in marks) == (steps()["status"] == "diverged").sum() / 51
    plain, shortcuts = FINDING.numbers({"steps": steps()})
    assert (plain.ours_batch, plain.ours_none) == ("50, 50, 20", "20, 20, 20")
    assert (shortcuts.ours_batch, shortcuts.ours_none) == ("100, 100, 100", "10, 10, 5")
