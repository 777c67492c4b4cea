"""Sharpness against the learning rate: what counts as falling, and which rates count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

SHARPNESS = findings.load(synthetic.FINDINGS / "sharpness.py")
AT_PAPER_SCALE = {"17": "sharpness_paper", "17-matched": "sharpness_matched"}
FALLING = {0.01: 40.0, 0.03: 30.0, 0.1: 20.0, 0.3: 10.0, 1.0: 5.0}
Values = Mapping[float, float | Sequence[str]]  # rate -> eigenvalue after training, or what became of each seed


def frame(batch: Values, none: Values, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows = []
    for norm, of in (("batch", batch), ("none", none)):
        for lr, value in of.items():
            for seed in range(seeds):
                outcome = value[seed] if isinstance(value, Sequence) else "trained"
                run = {"run_id": f"{norm}{lr}{seed}", "norm": norm, "lr": lr, "seed": seed, "outcome": outcome}
                run |= {"converged": True, "num_iterations": 12 + seed}
                rows.append({**run, "step": 0, "eigenvalue": 3.0 + seed, "loss": 2.5})
                if outcome != "diverged":
                    end = 9.0 if isinstance(value, Sequence) else value
                    rows.append({**run, "step": 790, "eigenvalue": end * (1 + 0.05 * (seed - 2)), "loss": 0.1 + lr})
    return {"hessian_top_eigenvalue": pd.DataFrame(rows)}


def judged(batch: Values, none: Values, seeds: int = 5) -> dict[str, Evidence]:
    return SHARPNESS.evidence(frame(batch, none, seeds))


def test_flatter_at_every_larger_rate_reproduces() -> None:
    evidence = judged(FALLING, FALLING)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    means = [each.mean for each in evidence["17-reduced"].estimates.values()]
    assert means == pytest.approx([0.75, 2 / 3, 0.5, 0.5, 0.125])


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({0.03: 50.0}, Verdict.partly),
        ({0.01: 2.0, 0.03: 3.0}, Verdict.not_reproduced),
        ({0.1: ["trained"] * 4 + ["diverged"]}, Verdict.undecided),  # the rate has no sharpness of all seeds
        ({0.01: ["stalled"] * 5}, Verdict.undecided),
    ],
)
def test_each_arm_is_judged_by_itself(changed: Values, verdict: Verdict) -> None:
    of = {**FALLING, **changed}
    evidence = judged(of, FALLING)
    assert (evidence["17-reduced"].verdict, evidence["17-reduced-none"].verdict) == (verdict, Verdict.reproduced)
    evidence = judged(FALLING, of)
    assert (evidence["17-reduced"].verdict, evidence["17-reduced-none"].verdict) == (Verdict.reproduced, verdict)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({}, "reproduced"), ({0.03: 50.0}, "partly"), ({0.01: 2.0, 0.03: 3.0}, "not reproduced")],
)
def test_in_units_of_the_weights_it_is_judged_by_the_other_table(changed: Values, verdict: str) -> None:
    made = findings.load(synthetic.FINDINGS / "relative_sharpness.py")
    rising: Values = {rate: 1 / value for rate, value in FALLING.items() if isinstance(value, float)}
    frames = frame(rising, rising)
    frames["relative_sharpness"] = frame({**FALLING, **changed}, rising)["hessian_top_eigenvalue"]
    made.plot(figures.new(made.size, made.title, "synthetic", synthetic=False), frames)
    assert made.numbers(frames)
    assert str(made.evidence(frames)["17-reduced-relative"].verdict) == verdict


def test_an_eigenvalue_that_did_not_converge_is_none() -> None:
    data = frame(FALLING, FALLING)
    table = data["hessian_top_eigenvalue"]
    table.loc[(table["norm"] == "none") & (table["seed"] > 1) & (table["step"] > 0), "converged"] = False
    evidence = SHARPNESS.evidence(data)
    assert (evidence["17-reduced-none"].n, evidence["17-reduced-none"].verdict) == (2, Verdict.undecided)
    assert evidence["17-reduced"].n == 5


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(FALLING, FALLING, seeds=2).values()} == {Verdict.undecided}


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    data = frame(FALLING if arm == "batch" else {}, FALLING if arm == "none" else {})
    SHARPNESS.plot(figures.new(SHARPNESS.size, "t", "s", synthetic=False), data)
    assert SHARPNESS.numbers(data)
    absent = "17-reduced-none" if arm == "batch" else "17-reduced"
    assert SHARPNESS.evidence(data)[absent].verdict is Verdict.undecided


def test_the_table_tells_what_became_of_each_rate() -> None:
    data = frame(FALLING, {0.01: 40.0, 0.1: ["trained", "stalled", "diverged", "trained", "trained"]})
    told = {line.quantity: (line.ours_batch, line.ours_none) for line in SHARPNESS.numbers(data)}
    assert told["largest eigenvalue before training"] == ("5 [3 to 7]", "5 [3 to 7]")
    assert told["largest eigenvalue after training at 0.1"][1].endswith("; 1 stalled; 1 diverged")
    assert told["loss after training at 0.1"][0] == "0.2"
    assert told["products of Hessian and vector"] == ("14 [12 to 16]", "14 [12 to 16]")


def test_every_run_that_ended_has_its_mark() -> None:
    fig = figures.new(SHARPNESS.size, "t", "s", synthetic=False)
    grid = {0.01: 40.0, 0.1: 20.0, 1.0: 5.0}
    lost: dict[float, float | Sequence[str]] = {0.01: 40.0}
    lost[0.1] = ["trained", "stalled", "diverged", "trained", "trained"]
    SHARPNESS.plot(fig, frame(grid, lost))
    for ax in fig.axes:
        drawn = [line for line in ax.lines if str(line.get_marker()) == "o"]
        assert sum(len(np.asarray(line.get_xdata())) for line in drawn) == 15 + 9
        assert ax.get_xlabel() and ax.get_ylabel()
    limit = next(line for line in fig.axes[0].lines if line.get_color() == figures.MUTED)
    np.testing.assert_allclose(np.asarray(limit.get_ydata(), dtype=float), [200.0, 20.0, 2.0])
    before = [
        line for line in fig.axes[0].lines if len(np.asarray(line.get_ydata())) == 2 and line.get_linestyle() != "-"
    ]
    assert [float(np.asarray(line.get_ydata())[0]) for line in before] == pytest.approx([2520**0.2] * 2)  # of 3 to 7
    assert not math.isnan(fig.axes[2].get_ylim()[0])


@pytest.mark.parametrize("claim", AT_PAPER_SCALE)
@pytest.mark.parametrize(
    ("of", "verdict"),
    [
        ({0.0001: 40.0, 0.003: 20.0, 0.1: 5.0}, Verdict.reproduced),
        ({0.0001: 40.0, 0.003: 50.0, 0.1: 5.0}, Verdict.partly),
        ({0.0001: 5.0, 0.003: 20.0, 0.1: 40.0}, Verdict.not_reproduced),
        ({0.0001: 40.0, 0.003: 20.0, 0.1: ["trained"] * 4 + ["diverged"]}, Verdict.undecided),  # two rates are too few
        ({0.0001: 40.0, 0.1: 5.0}, Verdict.undecided),
    ],
)
def test_at_the_papers_scale_all_three_rates_are_needed(claim: str, of: Values, verdict: Verdict) -> None:
    finding = findings.load(synthetic.FINDINGS / f"{AT_PAPER_SCALE[claim]}.py")
    data = frame(of, {0.0001: 30.0})
    assert finding.evidence(data)[claim].verdict is verdict
    assert finding.evidence(frame(of, {}, seeds=2))[claim].verdict is Verdict.undecided
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "before training" in labels and "3.8/rate" in labels  # with momentum 0.9: 2 (1 + 0.9)
