"""Initialisers before training: what meets the criteria and what does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

SCHEMES = findings.load(synthetic.FINDINGS / "init_schemes.py")
DEPTHS = range(1, 111)
Loss = Mapping[tuple[str, str], tuple[float, float]]  # norm, initialiser -> loss, ln growth of the standard deviation

AS_SIMULATED: Loss = {
    ("none", "kaiming_normal"): (1e9, 18.0),
    ("none", "xavier_uniform"): (140.0, 5.0),
    ("none", "xavier_normal"): (160.0, 5.5),
    ("none", "torch_default"): (2.3, -1.2),
    ("batch", "kaiming_normal"): (3.1, 1.0),
    ("batch", "xavier_uniform"): (3.0, 1.0),
    ("batch", "xavier_normal"): (3.2, 1.0),
    ("batch", "torch_default"): (2.9, 1.0),
}


def frame(changed: Loss | None = None, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows = []
    for (norm, init), (loss, growth) in {**AS_SIMULATED, **(changed or {})}.items():
        for seed in range(seeds):
            for depth in DEPTHS:
                ln_std = 0.1 * seed + growth * (1 + 0.01 * seed) * (depth - 2) / 106
                rows.append(
                    {"run_id": f"{norm}{init}{seed}", "norm": norm, "init": init, "seed": seed, "depth": depth,
                     "loss": loss * (1 + 0.1 * (seed - 2)), "variance": math.exp(2 * ln_std)}
                )  # fmt: skip
    return {"moments_along_step": pd.DataFrame(rows)}


def judged(changed: Loss | None = None, seeds: int = 5) -> dict[str, Evidence]:
    return SCHEMES.evidence(frame(changed, seeds))


def test_what_a_simulation_gives_reproduces() -> None:
    evidence = judged()
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    means = {name: next(iter(e.estimates.values())).mean for name, e in evidence.items()}
    assert means["16-loss"] == pytest.approx(6.25e6) and means["16-bn"] == pytest.approx(3.2 / 2.9)


@pytest.mark.parametrize(
    ("changed", "claim", "verdict"),
    [
        ({("none", "xavier_normal"): (1e7, 5.5)}, "16-loss", Verdict.partly),
        ({("none", "kaiming_normal"): (500.0, 18.0)}, "16-loss", Verdict.not_reproduced),
        ({("none", "kaiming_normal"): (1e9, 6.0)}, "16-depth", Verdict.partly),
        ({("none", "torch_default"): (2.3, 9.0)}, "16-depth", Verdict.partly),
        (
            {("none", "kaiming_normal"): (1e9, 3.0), ("none", "torch_default"): (2.3, 9.0)},
            "16-depth",
            Verdict.not_reproduced,
        ),
        ({("batch", "kaiming_normal"): (20.0, 1.0)}, "16-bn", Verdict.partly),
        ({("batch", "kaiming_normal"): (1e9, 1.0)}, "16-bn", Verdict.not_reproduced),
    ],
)
def test_what_does_not_fit_is_told_apart(changed: Loss, claim: str, verdict: Verdict) -> None:
    evidence = judged(changed)
    assert evidence[claim].verdict is verdict
    assert {e.verdict for name, e in evidence.items() if name != claim} == {Verdict.reproduced}


def test_a_dead_network_has_no_growth() -> None:
    data = frame()
    table = data["moments_along_step"]
    dead = (table["init"] == "torch_default") & (table["norm"] == "none")
    table.loc[dead, "variance"] = 0.0
    assert SCHEMES.evidence(data)["16-depth"].verdict is Verdict.undecided
    SCHEMES.plot(figures.new(SCHEMES.size, "t", "s", synthetic=False), data)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    data = frame()
    data["moments_along_step"] = data["moments_along_step"].query("norm == @arm")
    SCHEMES.plot(figures.new(SCHEMES.size, "t", "s", synthetic=False), data)
    assert SCHEMES.numbers(data)
    evidence = SCHEMES.evidence(data)
    absent = ("16-loss", "16-depth") if arm == "batch" else ("16-bn",)
    assert {evidence[name].verdict for name in absent} == {Verdict.undecided}


def test_an_initialiser_without_runs_decides_nothing() -> None:
    data = frame()
    data["moments_along_step"] = data["moments_along_step"].query("init != 'xavier_normal'")
    assert {e.verdict for e in SCHEMES.evidence(data).values()} == {Verdict.undecided}
    SCHEMES.plot(figures.new(SCHEMES.size, "t", "s", synthetic=False), data)


def test_two_seeds_are_too_few() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}


def test_every_seed_has_its_dot_and_every_initialiser_its_line() -> None:
    fig = figures.new(SCHEMES.size, "t", "s", synthetic=False)
    SCHEMES.plot(fig, frame())
    dots = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert sum(len(np.asarray(line.get_xdata())) for line in dots) == 40
    for ax in fig.axes[1:]:
        lines = [line for line in ax.lines if len(np.asarray(line.get_xdata())) == 54]
        assert len(lines) == 4
        assert np.asarray(lines[0].get_xdata())[-1] == 108
        np.testing.assert_allclose(np.log(np.asarray(lines[0].get_ydata(), dtype=float)[0]), 0.2)  # median seed
    assert all(ax.get_ylabel() for ax in fig.axes)
