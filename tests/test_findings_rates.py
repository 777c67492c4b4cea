"""The findings on the largest learning rate that trains: how brackets become verdicts, and that every run is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic

from bnstudy import figures, findings, rates
from bnstudy.findings import Evidence, Verdict

GRID = (1e-4, 1e-3, 0.01, 0.1, 1.0)
GRIDS = tuple(findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("lr_grid", "lr_grid_reduced"))
DEPTHS = tuple(findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("depth_lr", "depth_lr_reduced"))
REGION = findings.load(synthetic.FINDINGS / "lenet_region.py")
LETTERS = {"t": "trained", "s": "stalled", "d": "diverged"}
Cells = Mapping[tuple[str, int], Sequence[str]]  # norm, depth -> a word a seed, a letter a rate of GRID

AS_PUBLISHED: Cells = {("batch", 110): ["stttt", "sttts", "ssttd"], ("none", 110): ["tsddd", "ttddd", "tdddd"]}
BY_DEPTH: Cells = {("none", 20): ["ttttd"] * 3, ("none", 32): ["tttdd", "ttttd", "tttdd"], ("none", 110): ["ttddd"] * 3}


def runs(cells: Cells) -> dict[str, pd.DataFrame]:
    rows = [
        {"run_id": f"{norm}{depth}{seed}{lr}", "norm": norm, "depth": depth, "seed": seed, "lr": lr,
         "outcome": LETTERS[letter], "diverged_step": 7 if letter == "d" else math.nan,
         "final_test_accuracy": {"t": 0.5, "s": 0.1, "d": math.nan}[letter] + 0.01 * seed,
         "final_train_accuracy": {"t": 0.6, "s": 0.1, "d": math.nan}[letter]}
        for (norm, depth), words in cells.items()
        for seed, word in enumerate(words)
        for lr, letter in zip(GRID, word, strict=True)
    ]  # fmt: skip
    return {"runs": pd.DataFrame(rows)}


def judged(finding: findings.Finding, cells: Cells) -> dict[str, Evidence]:
    return finding.evidence(runs(cells))


def largest(cells: Cells) -> Evidence:
    return judged(GRIDS[0], cells)["4-largest"]


@pytest.mark.parametrize("finding", GRIDS, ids=lambda finding: finding.name)
def test_as_the_paper_has_it(finding: findings.Finding) -> None:
    evidence = judged(finding, AS_PUBLISHED)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {3}


def test_brackets_in_words() -> None:
    told = largest(AS_PUBLISHED)
    assert told.measured == "0.1 [0.1 to 1]; 1 at or above with BN, 1e\u22124 [1e\u22124 to 0.001] without"
    assert told.spread == "medians a factor of 1000 apart"


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        (["ttddd", "ttddd", "ttddd"], Verdict.reproduced),
        (["tttdd", "tttdd", "tttdd"], Verdict.reproduced),  # 0.1 against 0.01
        (["sssss"] * 3, Verdict.undecided),  # it trains nowhere: nothing is known of where that would end
        (["ttddd", "ttddd", "ddddd"], Verdict.undecided),  # in one seed
        (["ttddd", "ttddd", "sdddd"], Verdict.undecided),
        (["tttdd", "ttttd", "tttdd"], Verdict.not_reproduced),  # in one seed no earlier
        (["ttttt", "ttttt", "ttttt"], Verdict.not_reproduced),
        (["ttddd", "ttddd"], Verdict.undecided),
    ],
)
def test_an_order_of_magnitude(without: Sequence[str], verdict: Verdict) -> None:
    assert largest({("batch", 110): ["ttttd"] * 3, ("none", 110): without}).verdict is verdict


def test_with_bn_a_seed_that_trains_nowhere_decides_nothing_either() -> None:
    assert largest({("batch", 110): ["ttttd", "ttttd", "sssss"], ("none", 110): ["ttddd"] * 3}).verdict is (
        Verdict.undecided
    )


def test_seeds_without_a_rate_that_trains_are_said_and_are_no_numbers() -> None:
    told = largest({("batch", 110): ["ttttd"] * 3, ("none", 110): ["ttddd", "sssss", "ddddd"]})
    assert told.measured == "0.1 with BN, 0.001; no rate trains in 2 of 3 cells without" and told.n == 1
    nowhere = rates.edges(runs({("none", 110): ["sssss", "ddddd"]})["runs"], ["norm", "seed"])
    assert rates.told(nowhere) == "no rate trains in 2 of 2 cells"
    assert nowhere["low"].isna().all() and nowhere["high"].tolist() == [math.inf, GRID[0]]


def test_less_than_an_order_of_magnitude_is_a_part() -> None:
    cells = rates.edges(runs(AS_PUBLISHED)["runs"], ["norm", "seed"])
    assert rates.evidence(cells, factor=2000).verdict is Verdict.partly


@pytest.mark.parametrize(
    ("batch", "none"), [("tttdt", "tsddd"), ("stttt", "stddd"), ("stttt", "tttsd")], ids=["with BN", "small", "large"]
)
def test_the_fourth_claim_asks_every_seed_at_its_rates(batch: str, none: str) -> None:
    cells = {("batch", 110): [batch, "ttttt", "ttttt"], ("none", 110): [none, "tdddd", "tdddd"]}
    assert judged(GRIDS[0], cells)["4"].verdict is Verdict.not_reproduced


@pytest.mark.parametrize(
    ("batch", "none", "verdicts"),
    [
        ("ttttt", "tttdd", (Verdict.reproduced, Verdict.reproduced)),
        ("tttts", "tttsd", (Verdict.partly, Verdict.reproduced)),  # at 0.1 it stalls
        ("tttdd", "tttdd", (Verdict.not_reproduced, Verdict.not_reproduced)),
        ("tttdd", "ttddd", (Verdict.reproduced, Verdict.reproduced)),
    ],
)
def test_at_a_laptops_scale(batch: str, none: str, verdicts: tuple[Verdict, Verdict]) -> None:
    data = runs({("batch", 20): [batch] * 3, ("none", 20): [none] * 3})["runs"]
    rising = data["final_test_accuracy"] + 0.1 * data["lr"].rank(method="dense")  # the larger, the better
    evidence = GRIDS[1].evidence({"runs": data.assign(final_test_accuracy=rising)})
    assert (evidence["4-reduced"].verdict, evidence["2-best-reduced"].verdict) == verdicts


def test_what_the_search_adds_is_no_part_of_the_grid() -> None:
    data = runs(AS_PUBLISHED)["runs"]
    more = data[data["seed"] == 0].assign(lr=0.03, run_id="more", final_test_accuracy=0.99)
    both = pd.concat([data, more], ignore_index=True)
    assert rates.grid(both)["lr"].max() == 1 and set(rates.grid(both)["lr"]) == set(GRID)
    assert rates.best(both[both["norm"] == "batch"]) == rates.best(data[data["norm"] == "batch"]) == 0.01
    assert len(GRIDS[0].numbers({"runs": both})) == 1 + len(GRID)


@pytest.mark.parametrize("finding", DEPTHS, ids=lambda finding: finding.name)
@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.reproduced),
        ({("none", 32): ["tdddd", "ttttd", "ttttd"]}, Verdict.partly),  # then it rises from 32 to 110
        ({("none", 110): ["ttttd"] * 3}, Verdict.not_reproduced),
        ({("none", 20): ["sssss", "ttttd", "ttttd"]}, Verdict.undecided),
        ({("none", 110): ["ddddd"] * 3}, Verdict.undecided),
        ({("none", 110): ["tdddd"] * 2}, Verdict.undecided),
    ],
)
def test_by_depth(finding: findings.Finding, changed: Cells, verdict: Verdict) -> None:
    (evidence,) = judged(finding, {**BY_DEPTH, **changed}).values()
    assert evidence.verdict is verdict


def test_a_rise_that_the_search_cannot_resolve_is_none() -> None:
    rows = [{"depth": depth, "seed": seed, "low": low, "norm": "none"} for seed in range(3)
            for depth, low in ((20, 0.1), (32, 0.12), (44, 0.05))]  # fmt: skip
    assert rates.depth_evidence(pd.DataFrame(rows)).verdict is Verdict.reproduced


def test_a_region_with_a_hole_is_no_interval() -> None:
    whole = judged(REGION, AS_PUBLISHED)
    assert [e.verdict for e in whole.values()] == [Verdict.reproduced] * 2
    torn = judged(REGION, {**AS_PUBLISHED, ("none", 110): ["tstdd", "ttddd", "tdddd"]})["lenet-region-2"]
    assert torn.measured == "1 of 6 cells have such a rate" and torn.verdict is Verdict.partly
    torn = judged(REGION, {**AS_PUBLISHED, ("none", 110): ["tstdd", "tdtdd", "tdddd"]})["lenet-region-2"]
    assert torn.verdict is Verdict.not_reproduced
    nowhere = judged(REGION, {**AS_PUBLISHED, ("none", 110): ["sssss", "ttddd", "tdddd"]})
    assert {e.verdict for e in nowhere.values()} == {Verdict.undecided}  # an empty cell is no interval


@pytest.mark.parametrize(
    ("finding", "cells"),
    [*((each, AS_PUBLISHED) for each in (*GRIDS, REGION)), *((each, BY_DEPTH) for each in DEPTHS),
     (REGION, {("batch", 0): ["ttttt"], ("none", 0): ["sssss"]}), (DEPTHS[0], {("none", 20): ["ddddd"]})],
)  # fmt: skip
def test_it_draws_and_tells_the_numbers(finding: findings.Finding, cells: Cells) -> None:
    made = runs(cells)
    fig = figures.new(finding.size, "t", "s", stand_in=False)
    finding.plot(fig, made)
    fig.draw_without_rendering()
    assert all(ax.get_xlabel() or ax.get_xticks().size for ax in fig.axes)
    assert finding.numbers(made)
    finding.evidence(made)


def test_every_run_has_its_mark() -> None:
    fig = figures.new(REGION.size, "t", "s", stand_in=False)
    REGION.plot(fig, runs(AS_PUBLISHED))
    marks = dict.fromkeys("ov", 0)
    for line in fig.axes[0].lines:
        if (marker := str(line.get_marker())) in marks:
            marks[marker] += len(line.get_xdata())  # type: ignore[arg-type]
    assert marks == {"o": 13, "v": 6}
    assert sum(int(text.get_text()) for text in fig.axes[0].texts) == 11  # that diverged
