"""Figure 3: how far a step may go, at both ends of the step sizes and between them, and what follows for claim 7."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict

FIG3 = findings.load(synthetic.FINDINGS / "fig3.py")
PUBLISHED = frames.published(synthetic.FINDINGS.parent / "paper_curves", "fig3")
STEPS = np.geomspace(1.5e-5, 0.2, 25)
WIDE = {"batch": 0.06, "none": 6e-4}
Frames = dict[str, pd.DataFrame]


def made(ranges: Mapping[str, float] = WIDE, *, seeds: int = 5, batches: int = 7, power: float = 9.0) -> Frames:
    """Relative losses (a / range) ** power, straight lines on log axes, the range a little larger from seed to seed."""
    rows = []
    for norm, usable in ranges.items():
        for seed in range(seeds):
            for step in range(batches):
                run = {"run_id": f"{norm}{seed}", "norm": norm, "seed": seed, "step": step}
                relative = (STEPS / (usable * (1 + 0.1 * seed))) ** power
                rows += [
                    {**run, "step_size": a, "loss": 2 * r, "relative_loss": r}
                    for a, r in zip(STEPS, relative, strict=True)
                ]
    return {"loss_along_step": pd.DataFrame(rows), "published": PUBLISHED}


def judged(data: Frames, change: Callable[[pd.DataFrame], None] = lambda rows: None) -> dict[str, Evidence]:
    change(data["loss_along_step"])
    return FIG3.evidence(data)


def at(rows: pd.DataFrame, **values: object) -> pd.Series:
    return np.logical_and.reduce([rows[key] == value for key, value in values.items()])


def test_a_wide_range_with_bn_meets_the_criteria_and_an_equal_one_does_not() -> None:
    evidence = judged(made())
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    assert [each.mean for each in evidence["7-batches"].estimates.values()] == pytest.approx([100.0] * 7)
    explosion = next(iter(evidence["7-explosion"].estimates.values())).mean
    assert explosion == pytest.approx(6e-4 * 1e6 ** (1 / 9) * np.prod([1, 1.1, 1.2, 1.3, 1.4]) ** 0.2)
    alike = judged(made({"batch": 0.02, "none": 0.01}, power=2))
    assert {e.verdict for e in alike.values()} == {Verdict.not_reproduced}


def test_the_published_curves_meet_the_criterion() -> None:
    seen = PUBLISHED.dropna().assign(step=PUBLISHED["mini_batch"] - 1, run_id=PUBLISHED["norm"])
    data = {"loss_along_step": pd.concat([seen.assign(seed=s) for s in range(5)]), "published": PUBLISHED}
    evidence = FIG3.evidence(data)
    assert evidence["7"].verdict is Verdict.reproduced
    assert all(each.mean > 60 for each in evidence["7"].estimates.values())
    assert evidence["7-batches"].verdict is Verdict.undecided  # three of seven were shown
    lines = {line.quantity: line for line in FIG3.numbers(data)}
    for line in lines.values():
        if not line.quantity.startswith("step size with"):
            assert line.ours_batch.split(" [")[0] == line.paper_batch
            assert line.ours_none.split(" [")[0] == line.paper_none
    lowest = [float(lines[f"smallest relative loss, mini-batch {k}"].paper_batch) for k in (1, 4, 7)]
    assert lowest == pytest.approx([0.86, 0.71, 0.78], abs=0.01)


def test_one_narrow_mini_batch_is_a_part() -> None:
    def narrow(rows: pd.DataFrame) -> None:
        rows.loc[at(rows, norm="batch", step=3), "relative_loss"] *= 50.0**9

    evidence = judged(made(), narrow)
    assert evidence["7"].verdict is evidence["7-batches"].verdict is Verdict.partly
    assert [each.mean for each in evidence["7"].estimates.values()] == pytest.approx([100, 2, 100], rel=1e-3)


def test_a_range_beyond_the_step_sizes_counts_as_the_last_and_says_so() -> None:
    data = made()
    rows = data["loss_along_step"]
    rows.loc[at(rows, norm="batch", step=6), "relative_loss"] = 0.9
    assert FIG3.evidence(data)["7"].verdict is Verdict.reproduced
    told = {line.quantity: line.ours_batch for line in FIG3.numbers(data)}
    assert next(v for k, v in told.items() if "first rises" in k and k.endswith("7")).startswith("≥0.2")
    rows.loc[rows["step"] == 6, "relative_loss"] = 0.9
    assert FIG3.evidence(data)["7"].verdict is Verdict.partly  # neither arm's range is known: equal at the end


def test_a_range_below_the_step_sizes_counts_as_the_first_and_says_so() -> None:
    data = made()
    rows = data["loss_along_step"]
    rows.loc[at(rows, norm="none", step=0), "relative_loss"] = 3.0
    told = {line.quantity: line.ours_none for line in FIG3.numbers(data)}
    assert next(v for k, v in told.items() if "first rises" in k and k.endswith("1")).startswith("≤1.5e")


def test_the_range_ends_at_the_first_crossing_as_a_dense_walk_finds_it() -> None:
    rng = np.random.default_rng(3)
    data = made(seeds=5)
    rows = data["loss_along_step"]
    rows["relative_loss"] = np.exp(rng.normal(0, 1, len(rows)) + np.log(rows["step_size"] / 1e-3))
    expected = {}
    for (norm, seed, step), part in rows.groupby(["norm", "seed", "step"]):
        x, y = np.log(part["step_size"].to_numpy()), np.log(part["relative_loss"].to_numpy())
        walk = np.linspace(x[0], x[-1], 400_000)
        expected[norm, seed, step] = float(np.exp(walk[np.argmax(np.interp(walk, x, y) > math.log(1.02))]))
    for norm in ("batch", "none"):
        assert all(expected[norm, seed, 0] > STEPS[0] for seed in range(5))
    found = FIG3.measure(data)["7"] if FIG3.measure else {}
    for batch, sample in zip((1, 4, 7), found.values(), strict=True):
        wanted = {s: expected["batch", s, batch - 1] / expected["none", s, batch - 1] for s in range(5)}
        assert sample.values.to_dict() == pytest.approx(wanted, rel=1e-3)


def test_a_network_that_dies_at_a_larger_step_does_not_come_back_in() -> None:
    def dies(rows: pd.DataFrame) -> None:
        rows.loc[(rows["norm"] == "none") & (rows["step_size"] > 0.1), "relative_loss"] = 0.02

    assert judged(made(), dies)["7"].verdict is Verdict.reproduced


def test_a_loss_that_is_not_finite_is_beyond_any_bound() -> None:
    def overflow(rows: pd.DataFrame) -> None:
        rows.loc[(rows["norm"] == "none") & (rows["step_size"] > 2e-3), "relative_loss"] = math.nan

    evidence = judged(made(), overflow)
    assert evidence["7-explosion"].verdict is evidence["7"].verdict is Verdict.reproduced
    before = STEPS[STEPS <= 2e-3].max()
    assert next(iter(evidence["7-explosion"].estimates.values())).mean == pytest.approx(before, rel=0.2)


def test_no_explosion_in_one_seed_decides_nothing_and_none_at_all_refutes() -> None:
    def late(rows: pd.DataFrame) -> None:
        rows.loc[at(rows, norm="none", step=3, seed=2), "relative_loss"] = 0.5

    assert judged(made(), late)["7-explosion"].verdict is Verdict.undecided

    def never(rows: pd.DataFrame) -> None:
        rows.loc[rows["norm"] == "none", "relative_loss"] = 0.5

    assert judged(made(), never)["7-explosion"].verdict is Verdict.not_reproduced


def test_too_few_seeds_or_mini_batches_give_no_verdict() -> None:
    assert {e.verdict for e in judged(made(seeds=2)).values()} == {Verdict.undecided}
    evidence = judged(made(batches=6))  # a run that diverged at its seventh, say
    assert {e.verdict for e in evidence.values()} == {Verdict.undecided}


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    data = made({arm: 0.01})
    FIG3.plot(figures.new(FIG3.size, "t", "s", synthetic=False), data)
    assert FIG3.numbers(data)
    evidence = FIG3.evidence(data)
    assert evidence["7"].verdict is evidence["7-batches"].verdict is Verdict.undecided
    assert (evidence["7-explosion"].verdict is Verdict.undecided) == (arm == "batch")


def test_the_figure_shows_mean_and_published_curve() -> None:
    data = made()
    fig = figures.new(FIG3.size, "t", "s", synthetic=False)
    FIG3.plot(fig, data)
    ours = next(line for line in fig.axes[0].lines if line.get_linewidth() == 1.7)
    rows = data["loss_along_step"]
    logs = np.log(rows[at(rows, norm="batch", step=0)].assign(r=rows["relative_loss"].clip(0.25e-6, 12e6)).set_index(
        ["seed", "step_size"])["r"])  # fmt: skip
    np.testing.assert_allclose(np.asarray(ours.get_ydata(), dtype=float), np.exp(logs.groupby("step_size").mean()))
    seen = PUBLISHED[(PUBLISHED["norm"] == "batch") & (PUBLISHED["mini_batch"] == 1)]["relative_loss"]
    assert any(np.array_equal(np.asarray(line.get_ydata(), dtype=float), seen) for line in fig.axes[0].lines)
    assert [ax.get_xlabel() for ax in fig.axes].count("step size") == 3
