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


def runs(changed: Deepest | None = None) -> pd.DataFrame:
    """Each network learns at one rate, another one at every depth; larger rates diverge."""
    rows = []
    for (arm, residual), deepest in {**AS_PUBLISHED, **(changed or {})}.items():
        for (seed, last), depth, rate in itertools.product(enumerate(deepest, 1), DEPTHS, RATES):
            best = RATES[DEPTHS.index(depth) % len(RATES)]
            outcome = outcomes.LEARNS if rate == best and depth <= last else "at chance"
            outcome = outcomes.DIVERGED if rate > best else outcome
            row = {"norm": arm, "residual": residual, "depth": depth, "lr": rate, "seed": seed, "outcome": outcome}
            rows.append({**row, "run_id": f"{arm}{residual}{depth}{rate}{seed}", "model": "deep_perceptron"})
    return pd.DataFrame(rows)


def judged(changed: Deepest | None = None) -> Evidence:
    return FINDING.evidence({"runs": runs(changed)})["B1-trains"]


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
    rows = runs()
    lost = (rows["seed"] == 2) & (rows["depth"] == 100) & (rows["lr"] == 10) & (rows["norm"] == "batch")
    assert FINDING.evidence({"runs": rows[~lost]})["B1-trains"].verdict is Verdict.undecided


def test_every_run_is_drawn_and_the_numbers_name_the_depths() -> None:
    fig = figures.new(FINDING.size, "t", "s", synthetic=False)
    FINDING.plot(fig, {"runs": runs()})
    fig.draw_without_rendering()
    marks = [line for ax in fig.axes for line in ax.lines]
    assert len(marks) == len(runs()) == 360
    assert sum(line.get_marker() == "x" for line in marks) == int((runs()["outcome"] == outcomes.DIVERGED).sum())
    plain, shortcuts = FINDING.numbers({"runs": runs()})
    assert (plain.ours_batch, plain.ours_none) == ("50, 50, 20", "20, 20, 20")
    assert (shortcuts.ours_batch, shortcuts.ours_none) == ("100, 100, 100", "10, 10, 5")
