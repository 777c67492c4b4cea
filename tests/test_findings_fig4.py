"""Figure 4: which updates count as diverging, how moments rise with depth, and when in the step they do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

FIG4 = findings.load(synthetic.FINDINGS / "fig4.py")
DEPTHS = (1, 8, 30, 44, 60, 80, 110)
SHOWN = {8: 16, 44: 32, 80: 64}  # layer: channels
FRACTIONS = np.linspace(0, 1, 21)
Change = Callable[[pd.DataFrame], None]


def made(seeds: int = 5, power: float = 24.0) -> pd.DataFrame:
    """The logarithm of layer l's largest variance grows evenly along the step, to l / 80 * `power` decades."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for depth in DEPTHS:
            count = SHOWN.get(depth, 1)
            shares = np.append(1.0, rng.random(count - 1))
            for fraction in FRACTIONS:
                largest = 10 ** (fraction * power * depth / 80 * (1 + 0.01 * seed))
                at = {"run_id": f"{seed}", "norm": "none", "lr": 0.01, "seed": seed, "step": 0, "depth": depth}
                at |= {"fraction": fraction, "step_size": fraction * 0.01, "loss": 100 * 1e4**fraction}
                rows += [
                    {**at, "channel": c, "mean": (-1) ** c * math.sqrt(largest * s), "variance": largest * s}
                    for c, s in enumerate(shares)
                ]
    return pd.DataFrame(rows)


def judged(change: Change = lambda rows: None, seeds: int = 5) -> dict[str, Evidence]:
    rows = made(seeds)
    change(rows)
    return FIG4.evidence({"moments_along_step": rows})


def test_it_is_judged_where_layer_80_is_as_published() -> None:
    """There layer 44 is at 44/80 of its decades, 16.75, and layer 8 at a tenth of them."""
    evidence = judged()
    assert {e.n for e in evidence.values()} == {5} and evidence["8"].verdict is Verdict.reproduced
    rises = [each.mean for each in evidence["8"].estimates.values()]
    assert rises == pytest.approx([5.6e16 ** (36 / 80)] * 2, rel=1e-3)
    levels = [each.mean for each in evidence["8-levels"].estimates.values()]
    assert levels == pytest.approx([5.6e16**0.1, 5.6e16 ** (44 / 80) / 5.4e6], rel=1e-3)


def test_the_published_variances_meet_the_criteria() -> None:
    def published(rows: pd.DataFrame) -> None:
        for depth, variance in zip((8, 44, 80), (1.0, 5.4e6, 6e16), strict=True):
            at = (rows["depth"] == depth) & (rows["channel"] == 0)
            rows.loc[at, "variance"] = variance ** (rows.loc[at, "fraction"] ** 4)
            rows.loc[(rows["depth"] == depth) & (rows["channel"] > 0), "variance"] = 0.0

    evidence = judged(published)
    assert evidence["8"].verdict is evidence["8-levels"].verdict is Verdict.reproduced
    assert evidence["8-late"].estimates["share of the step before layer 44 explodes"].mean > 0.8


def scale(factor: float, query: str) -> Change:
    def change(rows: pd.DataFrame) -> None:
        rows.loc[rows.query(query).index, "variance"] *= factor

    return change


def test_a_rise_that_is_too_small_is_a_part() -> None:
    assert judged(scale(1e-6, "depth == 44"))["8"].verdict is Verdict.partly
    assert judged(scale(0.01, "depth == 60"))["8"].estimates == judged()["8"].estimates


def test_an_explosion_early_in_the_step_is_not_late() -> None:
    early = judged(lambda rows: rows.loc[(rows["depth"] == 44) & (rows["fraction"] > 0.1), ["variance"]].pipe(
        lambda part: rows.loc.__setitem__((part.index, "variance"), 1e9)))["8-late"]  # fmt: skip
    assert early.verdict is not Verdict.reproduced
    assert early.estimates["share of the step before layer 44 explodes"].mean < 0.3


def test_only_updates_that_diverge_count() -> None:
    def tame(rows: pd.DataFrame) -> None:
        rows.loc[(rows["seed"] < 2) & (rows["fraction"] == 1), "loss"] = 999.0

    assert {e.n for e in judged(tame).values()} == {3}

    def none_diverges(rows: pd.DataFrame) -> None:
        rows["loss"] = 5.0

    evidence = judged(none_diverges)
    assert {(e.n, e.verdict) for e in evidence.values()} == {(0, Verdict.undecided)}
    rows = made()
    none_diverges(rows)
    FIG4.plot(figures.new(FIG4.size, "t", "s", synthetic=False), {"moments_along_step": rows})


def test_a_seed_whose_layer_80_never_gets_there_is_left_out() -> None:
    assert {e.n for e in judged(scale(1e-12, "depth == 80 and seed == 1")).values()} == {4}
    rows = made(power=8)
    assert {e.verdict for e in FIG4.evidence({"moments_along_step": rows}).values()} == {Verdict.undecided}
    FIG4.plot(figures.new(FIG4.size, "t", "s", synthetic=False), {"moments_along_step": rows})
    assert FIG4.numbers({"moments_along_step": rows})


def test_a_layer_that_overflowed_counts_as_infinite() -> None:
    def overflow(rows: pd.DataFrame) -> None:
        rows.loc[(rows["fraction"] == 1) & (rows["depth"] == 110), ["mean", "variance"]] = math.nan
        rows.loc[rows["fraction"] == 1, "loss"] = math.nan

    assert judged(overflow)["8"].verdict is Verdict.reproduced


def test_two_seeds_are_too_few_for_a_verdict() -> None:
    assert {e.verdict for e in judged(seeds=2).values()} == {Verdict.undecided}


@pytest.mark.parametrize(("panel", "statistic", "layer"), [(1, "mean", 44), (5, "variance", 80)])
def test_the_heat_maps_are_the_first_seed_up_to_its_rate(panel: int, statistic: str, layer: int) -> None:
    rows = made()
    fig = figures.new(FIG4.size, "t", "s", synthetic=False)
    FIG4.plot(fig, {"moments_along_step": rows})
    ax = next(ax for ax in fig.axes if ax.get_title(loc="left").endswith(f"{statistic}s, layer {layer}"))
    shown = np.asarray(ax.collections[0].get_array())
    reached = int(math.log10(5.6e16) / 24 * (len(FRACTIONS) - 1)) + 1  # rows up to the matched rate
    part = rows[(rows["seed"] == 0) & (rows["depth"] == layer) & (rows["fraction"] <= FRACTIONS[reached - 1])]
    limit = part[statistic].abs().max() / np.abs(shown[:-1]).max()
    assert statistic == "mean" or limit == pytest.approx(5.6e16)
    assert shown.shape == (reached + 1, SHOWN[layer])
    assert np.abs(shown[-1]).max() == pytest.approx(1)  # the end, where layer 80's is the published one
    for row in part.sample(30, random_state=0).to_dict("records"):
        place = round(row["fraction"] * (len(FRACTIONS) - 1)), row["channel"]
        assert shown[place] == pytest.approx(row[statistic] / limit)
    low, high = ax.get_ylim()
    assert low > 100 and high < 0  # none of the step on top, all of it at the bottom
