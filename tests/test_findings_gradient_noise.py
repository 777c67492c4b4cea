"""The noise of gradients: which slopes, constants and biases reproduce, and how they are formed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

NOISE = findings.load(synthetic.FINDINGS / "gradient_noise.py")
SIZES = (1, 4, 8, 16, 32, 64, 128)
NETWORKS = ("resnet20", "mlp")
Change = Mapping[tuple[str, str, int], Mapping[str, float]]  # norm, network, step -> slope, constant, bias (a share)


def frame(change: Change | None = None, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows: list[dict[str, Any]] = []
    draw = np.random.default_rng(0)
    for norm in ("batch", "none"):
        for network in NETWORKS:
            for step in (0, 80):
                told = {"slope": -1.0, "constant": 1.0, "bias": 0.0} | dict(
                    (change or {}).get((norm, network, step), {})
                )
                for seed in range(seeds):
                    single = 30.0 * (1 + seed)
                    for size in SIZES:
                        row: dict[str, Any] = {"run_id": f"{norm}{network}{seed}", "norm": norm}
                        row |= {"network": network, "seed": seed}
                        row |= {"step": step, "batch_size": size, "num_draws": 1000 // size, "num_examples": 5000}
                        row |= {"large_size": 1000, "gradient_squared": 2.0}
                        law = single * size ** told["slope"] * (5000 - size) / 4999
                        law *= 1 if size == 1 else told["constant"]
                        variance = law * math.exp(draw.normal(0, 0.02))
                        deviation = variance / (1 - told["bias"])
                        row |= {"mean_squared_deviation": deviation, "bias_squared": deviation - variance}
                        if norm == "batch" and size == 1:
                            row |= dict.fromkeys(("mean_squared_deviation", "bias_squared"), math.nan)
                            row |= {"num_draws": 0}
                        rows.append(row)
    return {"gradient_noise": pd.DataFrame(rows)}


def judged(change: Change | None = None, seeds: int = 5) -> dict[str, Evidence]:
    return NOISE.evidence(frame(change, seeds))


def everywhere(norm: str, **values: float) -> Change:
    return {(norm, network, step): values for network in NETWORKS for step in (0, 80)}


def test_the_law_reproduces() -> None:
    evidence = judged()
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}


@pytest.mark.parametrize(
    ("change", "claim", "verdict"),
    [
        (everywhere("none", slope=-0.8), "5", Verdict.not_reproduced),
        ({("none", "mlp", 80): {"slope": -1.3}}, "5", Verdict.partly),
        (everywhere("none", constant=1.4), "5-constant", Verdict.not_reproduced),
        ({("none", "resnet20", 0): {"constant": 0.7}}, "5-constant", Verdict.partly),
        (everywhere("batch", slope=-1.2), "5-bn", Verdict.not_reproduced),
        ({("batch", "resnet20", 80): {"slope": -0.85}}, "5-bn", Verdict.partly),
        (everywhere("batch", bias=0.3), "5-bias", Verdict.not_reproduced),
        ({("batch", "mlp", 0): {"bias": 0.2}}, "5-bias", Verdict.partly),
    ],
)
def test_what_does_not_fit_is_told_apart(change: Change, claim: str, verdict: Verdict) -> None:
    evidence = judged(change)
    assert evidence[claim].verdict is verdict
    others = {name for name in evidence if name != claim and not (claim == "5" and name == "5-constant")}
    assert {evidence[name].verdict for name in others} == {Verdict.reproduced}


def test_with_bn_the_slope_is_of_the_variance_without_of_the_deviation() -> None:
    """A bias that is large at small sizes bends the deviation alone."""
    data = frame()
    table = data["gradient_noise"]
    bias = table["mean_squared_deviation"] * 8 / table["batch_size"]
    table["mean_squared_deviation"] += bias
    table["bias_squared"] += bias
    evidence = NOISE.evidence(data)
    assert evidence["5-bn"].verdict is Verdict.reproduced
    assert evidence["5"].verdict is Verdict.not_reproduced


def test_the_slope_is_that_of_least_squares() -> None:
    data = frame(seeds=1)
    part = data["gradient_noise"].query("norm == 'none' and network == 'mlp' and step == 80 and batch_size > 1")
    x, y = np.log(part["batch_size"]), np.log(part["mean_squared_deviation"])
    expected = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    told = {line.quantity: line.ours_none for line in NOISE.numbers(data)}
    text = told["slope in the mini-batch size, perceptron after"]
    assert float(text.replace("\u2212", "-")) == pytest.approx(expected, abs=0.006)


def test_a_gradient_that_vanished_decides_nothing() -> None:
    data = frame()
    table = data["gradient_noise"]
    table.loc[(table["norm"] == "none") & (table["step"] == 80), "mean_squared_deviation"] = 0.0
    evidence = NOISE.evidence(data)
    assert evidence["5"].verdict is evidence["5-constant"].verdict is Verdict.undecided


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    data = frame()
    data["gradient_noise"] = data["gradient_noise"].query("norm == @arm")
    NOISE.plot(figures.new(NOISE.size, "t", "s", synthetic=False), data)
    assert NOISE.numbers(data)
    evidence = NOISE.evidence(data)
    absent = ("5", "5-constant") if arm == "batch" else ("5-bn", "5-bias")
    assert {evidence[name].verdict for name in absent} == {Verdict.undecided}


def test_runs_that_never_ended_leave_a_hole_after_training() -> None:
    data = frame()
    data["gradient_noise"] = data["gradient_noise"].query("step == 0")
    assert {e.verdict for e in NOISE.evidence(data).values()} == {Verdict.undecided}


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}


def test_the_line_of_equation_3_is_where_the_noise_is() -> None:
    fig = figures.new(NOISE.size, "t", "s", synthetic=False)
    NOISE.plot(fig, frame())
    lines = fig.axes[0].lines
    noise = next(line for line in lines if line.get_color() == figures.COLOURS["none"])
    law = next(line for line in lines if line.get_color() == figures.FAINT)
    np.testing.assert_array_equal(np.asarray(law.get_xdata()), SIZES)
    np.testing.assert_allclose(
        np.asarray(noise.get_ydata(), dtype=float), np.asarray(law.get_ydata(), dtype=float), rtol=0.1
    )
