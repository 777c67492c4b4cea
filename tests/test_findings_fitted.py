"""Figure 1 where networks fit: what is compared, when nothing is, and that one rule serves every claim."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

FITTED, WITHOUT = (findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("fitted", "fitted_without"))
ARMS = (("batch", 0.1), ("batch", 0.01), ("batch", 0.003), ("none", 0.01))
Values = Mapping[tuple[str, float], float]
TEST: Values = dict(zip(ARMS, (62.0, 56.0, 53.0, 56.3), strict=True))
SHARP: Values = dict(zip(ARMS, (2.0, 20.0, 60.0, 30.0), strict=True))


def made(
    test: Values | None = None, train: Values | None = None, sharp: Values | None = None,
    relative: Values | None = None, seeds: int = 5, noise: float = 0.3,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """Tables of every arm; seeds share a shift of their own, and each run has noise beside it."""
    draw = np.random.default_rng(0)
    shifts = draw.normal(0, 8, seeds)  # pairs take it out
    tables: dict[str, list[dict[str, object]]] = {name: [] for name in FITTED.needs}
    for norm, lr in ARMS:
        for seed in range(seeds):
            run = {"run_id": f"{norm}{lr}{seed}", "norm": norm, "seed": seed}
            end = ({**TEST, **(test or {})}[norm, lr] + shifts[seed] + draw.normal(0, noise)) / 100
            clean = {**dict.fromkeys(ARMS, 99.9), **(train or {})}[norm, lr] / 100
            tables["runs"].append({**run, "lr": lr, "final_test_accuracy": end})
            tables["splits"].append({**run, "split": "train", "accuracy": clean})
            for epoch in range(1, 7):
                tables["epochs"].append({**run, "run_lr": lr, "epoch": epoch, "epochs": 6,
                                         "train_accuracy": clean * epoch / 6,
                                         "test_accuracy": end * epoch / 6 if epoch % 2 == 0 else math.nan})  # fmt: skip
            for name, values in (("hessian_top_eigenvalue", sharp), ("relative_sharpness", relative)):
                value = {**SHARP, **(values or {})}[norm, lr] * math.exp(draw.normal(0, 0.1))
                tables[name].append({**run, "eigenvalue": value, "converged": True})
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def of_arm(arm: str, data: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: table[table["norm"] == arm] for name, table in data.items()}


def of_both(data: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables as the finding on both arms needs them, from two sweeps."""
    with_bn = {f"fitted/{name}": table for name, table in of_arm("batch", data).items()}
    return {name: table for name, table in (of_arm("none", data) | with_bn).items() if name in WITHOUT.needs}


def judged(data: Mapping[str, pd.DataFrame]) -> dict[str, Evidence]:
    return {**FITTED.evidence(of_arm("batch", data)), **WITHOUT.evidence(of_both(data))}


def verdicts(data: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    return {name.partition("-")[0]: str(e.verdict) for name, e in judged(data).items()}


def evidence(name: str, data: Mapping[str, pd.DataFrame]) -> Evidence:
    return judged(data)["2-rates" if name == "2" else f"{name}-fitted"]


def test_as_the_paper_has_it() -> None:
    assert verdicts(made()) == dict.fromkeys(("2", "3", "17", "1"), "reproduced")
    assert {e.n for e in judged(made()).values()} == {5}


@pytest.mark.parametrize(
    ("name", "changed", "verdict"),
    [
        ("1", {"test": {("none", 0.01): 62.0}}, Verdict.partly),  # far better without BN: BN is no better
        ("1", {"test": {("none", 0.01): 50.0}}, Verdict.not_reproduced),
        ("1", {"test": {("none", 0.01): 58.0}}, Verdict.partly),  # two points apart, at the bound
        ("1", {"test": {("none", 0.01): 54.0}}, Verdict.undecided),  # as far the other way
        ("1", {"train": {("none", 0.01): 98.9}}, Verdict.undecided),
        ("1", {"train": {("batch", 0.01): 98.9}}, Verdict.undecided),
        ("1", {"train": {("batch", 0.1): 98.9}}, Verdict.reproduced),  # no arm of this comparison
        ("1", {"seeds": 4}, Verdict.undecided),
        ("1", {"noise": 4.0}, Verdict.undecided),  # a noisy difference of 0 is not known to be within 2
        ("2", {"test": {("batch", 0.01): 52.0}}, Verdict.partly),
        ("2", {"test": {("batch", 0.1): 50.0}}, Verdict.not_reproduced),
        ("2", {"train": {("batch", 0.003): 98.9}}, Verdict.undecided),
        ("2", {"train": {("none", 0.01): 20.0}}, Verdict.reproduced),  # no arm of this comparison
        ("2", {"seeds": 4}, Verdict.undecided),
        ("3", {"test": {("batch", 0.01): 62.0}}, Verdict.partly),  # one step is none, over both the gap falls
        ("17", {"relative": {("batch", 0.01): 200.0}}, Verdict.partly),  # without scale it rises first
        ("17", {"relative": {("batch", 0.003): 1.0}}, Verdict.not_reproduced),
    ],
)
def test_other_outcomes(name: str, changed: dict[str, object], verdict: Verdict) -> None:
    assert evidence(name, made(**changed)).verdict is verdict  # type: ignore[arg-type]


def test_what_is_not_fitted_is_the_reason() -> None:
    for name, arm in (("1", ("none", 0.01)), ("2", ("batch", 0.1))):
        found = evidence(name, made(train={arm: 42.0}))
        assert (found.verdict, found.reason) == (Verdict.undecided, "networks do not fit their training data")


def test_one_seed_that_does_not_fit_is_enough() -> None:
    data = made()
    unfit = data["splits"]["run_id"] == "none0.013"
    data["splits"]["accuracy"] = data["splits"]["accuracy"].mask(unfit, 0.98)
    assert evidence("1", data).verdict is Verdict.undecided


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_a_further_seed_of_one_arm_decides_nothing(arm: str) -> None:
    more = made(seeds=6)
    kept = {table: rows[(rows["norm"] == arm) | (rows["seed"] < 5)] for table, rows in more.items()}
    found = evidence("1", kept)
    assert (found.verdict, found.n) == (Verdict.reproduced, 5)


@pytest.mark.parametrize(("name", "run_id"), [("2", "batch0.013"), ("1", "none0.013")])
def test_a_run_that_diverged_does_not_fit(name: str, run_id: str) -> None:
    data = made()
    lost = data["splits"]["run_id"] == run_id
    assert evidence(name, {**data, "splits": data["splits"][~lost]}).verdict is Verdict.undecided


def test_differences_are_paired() -> None:
    """Seeds some eight points apart, arms of a seed 0.1: seen in pairs alone."""
    assert verdicts(made(test={("none", 0.01): 56.1}, noise=0.1))["1"] == "reproduced"
    shuffled = made(noise=0.1)
    rows = shuffled["runs"]
    rows.loc[rows["norm"] == "none", "seed"] = 4 - rows.loc[rows["norm"] == "none", "seed"]
    assert verdicts(shuffled)["1"] != "reproduced"


@pytest.mark.parametrize("data", [made(), made(seeds=1)])
def test_it_draws_and_tells_the_numbers(data: Mapping[str, pd.DataFrame]) -> None:
    for finding, frames, num in ((FITTED, of_arm("batch", data), 5 * 3), (WITHOUT, of_both(data), 2 * 3)):
        fig = figures.new(finding.size, "t", "s", synthetic=False)
        finding.plot(fig, frames)
        fig.draw_without_rendering()
        assert len(finding.numbers(frames)) == num
