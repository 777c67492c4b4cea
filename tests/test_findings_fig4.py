"""Figure 4: which updates count as diverging, how moments rise with depth, and when in the step they do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy import figures, findings
from bnstudy.findings import Evidence, Verdict

FIG4 = findings.load(synthetic.FINDINGS / "fig4.py")
DEPTHS = (1, 8, 30, 44, 60, 80, 110)
SHOWN = {8: 16, 44: 32, 80: 64}  # layer: channels
FRACTIONS = np.linspace(0, 1, 21)
Change = Callable[[pd.DataFrame], None]


def made(seeds: int = 5) -> pd.DataFrame:
    """At the end of the step the largest variance of layer l is 10 ** (l / 8), times the rate over 0.003."""
    rows = []
    for lr in (0.003, 0.01):
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            for depth in DEPTHS:
                count = SHOWN.get(depth, 1)
                shares = np.append(1.0, rng.random(count - 1))
                for fraction in FRACTIONS:
                    largest = 10 ** (depth / 8) * (lr / 0.003) * fraction ** (depth / 8)
                    at = {"run_id": f"{lr}-{seed}", "norm": "none", "lr": lr, "seed": seed, "step": 0, "depth": depth}
                    at |= {"fraction": fraction, "step_size": fraction * lr, "loss": 100 * 1e4**fraction}
                    rows += [
                        {**at, "channel": c, "mean": (-1) ** c * math.sqrt(largest * s), "variance": largest * s}
                        for c, s in enumerate(shares)
                    ]
    return pd.DataFrame(rows)


def judged(change: Change = lambda rows: None, seeds: int = 5) -> dict[str, Evidence]:
    rows = made(seeds)
    change(rows)
    return FIG4.evidence({"moments_along_step": rows})


def test_an_explosion_with_depth_meets_the_criteria() -> None:
    evidence = judged()
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    assert evidence["8"].measured == (
        "at 0.003 10, 3.2e5, 1e10 at layers 8, 44, 80 (rises by 31623, 31623); "
        "at 0.01 33, 1.1e6, 3.3e10 at layers 8, 44, 80 (rises by 31623, 31623)"
    )
    # (l / 8) powers of the fraction reach a tenth at 0.1 ** (8 / l): 0.66 and 0.79, on the grid 0.7 and 0.8
    assert evidence["8-late"].measured == "from 70 % of the step at layer 44, 80 % at layer 80"


def test_the_published_variances_meet_the_criterion() -> None:
    def published(rows: pd.DataFrame) -> None:
        for depth, variance in zip((8, 44, 80), (1.0, 5.4e6, 5.6e16), strict=True):
            rows.loc[(rows["depth"] == depth) & (rows["fraction"] == 1) & (rows["channel"] > 0), "variance"] = 0.0
            rows.loc[(rows["depth"] == depth) & (rows["fraction"] == 1) & (rows["channel"] == 0), "variance"] = variance

    evidence = judged(published)
    assert evidence["8"].verdict is Verdict.reproduced
    lines = {line.quantity: line for line in FIG4.numbers({"moments_along_step": _with(published)})}
    for layer in SHOWN:
        line = lines[f"largest channel variance, layer {layer}, at 0.003"]
        assert line.ours_none == line.paper_none


def _with(change: Change) -> pd.DataFrame:
    rows = made()
    change(rows)
    return rows


def scale(factor: float, query: str) -> Change:
    def change(rows: pd.DataFrame) -> None:
        rows.loc[rows.query(query).index, "variance"] *= factor

    return change


def test_one_seed_that_rises_less_is_a_part_and_three_refute() -> None:
    assert judged(scale(0.01, "depth == 44 and seed == 2 and lr == 0.003"))["8"].verdict is Verdict.partly
    assert judged(scale(0.01, "depth == 44 and seed < 3 and lr == 0.003"))["8"].verdict is Verdict.not_reproduced
    assert judged(scale(0.01, "depth == 44 and lr == 0.01"))["8"].verdict is Verdict.reproduced  # is not judged
    assert judged(scale(0.01, "depth == 60"))["8"] == judged()["8"]


def test_an_explosion_early_in_the_step_is_not_late() -> None:
    early = "fraction >= 0.3 and fraction < 1 and depth == 44 and seed {}"
    assert judged(scale(1e9, early.format("== 2")))["8-late"].verdict is Verdict.partly
    assert judged(scale(1e9, early.format("< 3")))["8-late"].verdict is Verdict.not_reproduced
    assert judged(scale(1e9, early.format("< 3")))["8"].verdict is Verdict.reproduced


def test_only_updates_that_diverge_count() -> None:
    def tame(rows: pd.DataFrame) -> None:
        rows.loc[(rows["seed"] < 2) & (rows["fraction"] == 1), "loss"] = 999.0

    assert {e.n for e in judged(tame).values()} == {3}

    def none_diverges(rows: pd.DataFrame) -> None:
        rows["loss"] = 5.0

    evidence = judged(none_diverges)
    assert {(e.n, e.verdict) for e in evidence.values()} == {(0, Verdict.undecided)}
    FIG4.plot(figures.new(FIG4.size, "t", "s", stand_in=False), {"moments_along_step": _with(none_diverges)})


def test_a_layer_that_overflowed_counts_as_infinite() -> None:
    def overflow(rows: pd.DataFrame) -> None:
        end = rows["fraction"] == 1
        rows.loc[end & (rows["depth"] == 80) & (rows["channel"] == 3), ["mean", "variance"]] = math.nan
        rows.loc[end, "loss"] = math.nan

    evidence = judged(overflow)
    assert evidence["8"].verdict is Verdict.reproduced and evidence["8"].n == 5
    assert "3.2e5, ∞ at layers" in evidence["8"].measured
    assert evidence["8-late"].verdict is Verdict.reproduced

    def everywhere(rows: pd.DataFrame) -> None:
        overflow(rows)
        rows.loc[(rows["fraction"] == 1) & (rows["depth"] == 44), "variance"] = math.inf

    assert judged(everywhere)["8"].verdict is Verdict.not_reproduced  # infinity against infinity is no rise
    for change in (overflow, everywhere):
        data = {"moments_along_step": _with(change)}
        FIG4.plot(figures.new(FIG4.size, "t", "s", stand_in=False), data)
        assert FIG4.numbers(data)


def test_two_seeds_are_too_few_for_a_verdict() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}


def test_other_rates_alone_give_no_verdict() -> None:
    rows = made()
    data = {"moments_along_step": rows[rows["lr"] == 0.01]}
    assert {e.verdict for e in FIG4.evidence(data).values()} == {Verdict.undecided}
    FIG4.plot(figures.new(FIG4.size, "t", "s", stand_in=False), data)
    assert FIG4.numbers(data)


@pytest.mark.parametrize(("panel", "statistic", "layer"), [(1, "mean", 44), (5, "variance", 80)])
def test_the_heat_maps_are_the_first_seed_at_the_judged_rate(panel: int, statistic: str, layer: int) -> None:
    rows = made()
    fig = figures.new(FIG4.size, "t", "s", stand_in=False)
    FIG4.plot(fig, {"moments_along_step": rows})
    ax = next(ax for ax in fig.axes if ax.get_title(loc="left").endswith(f"{statistic}s, layer {layer}, at 0.003"))
    shown = np.asarray(ax.images[0].get_array())
    part = rows[(rows["seed"] == 0) & (rows["lr"] == 0.003) & (rows["depth"] == layer)]
    limit = part[statistic].abs().max()
    assert shown.shape == (len(FRACTIONS), SHOWN[layer])
    for row in part.sample(30, random_state=0).to_dict("records"):
        place = round(row["fraction"] * (len(FRACTIONS) - 1)), row["channel"]
        assert shown[place] == pytest.approx(row[statistic] / limit)
    low, high = ax.get_ylim()
    assert low > 100 and high < 0  # none of the step on top, all of it at the bottom
