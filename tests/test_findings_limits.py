"""The findings on the largest learning rate that trains: how brackets become verdicts, and that every run is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, limits
from bnstudy.analysis.findings import Evidence, Verdict

GRID = (1e-4, 1e-3, 0.01, 0.1, 1.0)
GRIDS = tuple(findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("lr_grid", "lr_grid_reduced"))
DEPTHS = tuple(findings.load(synthetic.FINDINGS / f"{name}.py") for name in ("depth_lr", "depth_lr_reduced"))
REGION = findings.load(synthetic.FINDINGS / "lenet_region.py")
LETTERS = {"t": "trained", "s": "stalled", "d": "diverged"}
Cells = Mapping[tuple[str, int], Sequence[str]]  # norm, depth -> a word a seed, a letter a rate of GRID

AS_PUBLISHED: Cells = {("batch", 110): ["stttd", "sttts", "ssttd"], ("none", 110): ["tsddd", "ttddd", "tdddd"]}
BY_DEPTH: Cells = {("none", 20): ["ttttd"] * 3, ("none", 32): ["tttdd", "ttttd", "tttdd"], ("none", 110): ["ttddd"] * 3}


def runs(cells: Cells) -> dict[str, pd.DataFrame]:
    rows = [
        {"run_id": f"{norm}{depth}{seed}{lr}", "norm": norm, "depth": depth, "seed": seed, "lr": lr,
         "outcome": LETTERS[letter], "diverged_step": 7 if letter == "d" else math.nan,
         "final_test_accuracy": {"t": 0.6, "s": 0.1, "d": math.nan}[letter] + 0.01 * seed,
         "final_train_accuracy": {"t": 0.7, "s": 0.1, "d": math.nan}[letter]}
        for (norm, depth), words in cells.items()
        for seed, word in enumerate(words)
        for lr, letter in zip(GRID, word, strict=True)
    ]  # fmt: skip
    return {"runs": pd.DataFrame(rows)}


def test_two_runs_at_one_rate_have_no_bracket() -> None:
    """A sweep of two batch sizes: which of the two counted would depend on the order of the rows."""
    twice = runs(AS_PUBLISHED)["runs"]
    twice = pd.concat([twice, twice.assign(outcome="diverged")])
    with pytest.raises(ValueError, match=r"learning rate 1e.4 \(norm = batch, seed = 0\): several runs"):
        limits.by_cell(twice, ["norm", "seed"])


def judged(finding: findings.Finding, cells: Cells) -> dict[str, Evidence]:
    return finding.evidence(runs(cells))


def largest(cells: Cells) -> Evidence:
    return judged(GRIDS[0], cells)["4-largest"]


@pytest.mark.parametrize("finding", GRIDS, ids=lambda finding: finding.name)
def test_as_the_paper_has_it(finding: findings.Finding) -> None:
    evidence = judged(finding, AS_PUBLISHED)
    reduced = finding.name == "lr_grid_reduced"  # which has a third claim, and Holm's correction leaves the factor open
    assert {name.removesuffix("-reduced"): e.verdict for name, e in evidence.items() if name[:2] != "2-"} == {
        "4": Verdict.reproduced, "4-largest": Verdict.partly if reduced else Verdict.reproduced,
    }  # fmt: skip
    assert {e.n for e in evidence.values()} == {3}


def test_an_end_that_nobody_has_seen_decides_only_what_it_cannot_turn() -> None:
    beyond = {("batch", 110): ["ttttt"] * 3}
    assert largest({**beyond, ("none", 110): ["tddds"] * 3}).verdict is Verdict.reproduced  # at least as much larger
    either = largest({**beyond, ("none", 110): ["ttttd"] * 3})
    assert (either.verdict, either.reason) == (Verdict.undecided, limits.ENDS_KNOWN.reason)
    both = largest({**beyond, ("none", 110): ["ttttt"] * 3})
    assert (both.verdict, both.reason) == (Verdict.undecided, limits.ENDS_KNOWN.reason)


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        (["tdddd", "tdddd", "tdddd"], Verdict.reproduced),
        (["tttdd", "tttdd", "tttdd"], Verdict.partly),  # by a factor of ten, and not by more
        (["ttttd", "ttttd", "ttttd"], Verdict.not_reproduced),
        (["ttttt", "ttttt", "ttttt"], Verdict.not_reproduced),  # wherever it ends, it is not below BN's
        (["tdddd", "ttttd", "tttdd"], Verdict.undecided),
        (["ttddd", "ttddd"], Verdict.undecided),
    ],
)
def test_an_order_of_magnitude(without: Sequence[str], verdict: Verdict) -> None:
    assert largest({("batch", 110): ["ttttd"] * 3, ("none", 110): without}).verdict is verdict


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
        ("tttts", "tttsd", (Verdict.undecided, Verdict.reproduced)),  # at 0.1 the control stalls
        ("tttdd", "tttdd", (Verdict.not_reproduced, Verdict.not_reproduced)),
    ],
)
def test_at_a_laptops_scale(batch: str, none: str, verdicts: tuple[Verdict, Verdict]) -> None:
    data = runs({("batch", 20): [batch] * 3, ("none", 20): [none] * 3})["runs"]
    rising = data["final_test_accuracy"] + 0.05 * data["lr"].rank(method="dense")  # the larger, the better
    evidence = GRIDS[1].evidence({"runs": data.assign(final_test_accuracy=rising)})
    assert (evidence["4-reduced"].verdict, evidence["2-best-reduced"].verdict) == verdicts
    poor = GRIDS[1].evidence({"runs": data.assign(final_test_accuracy=0.4 * rising)})
    assert poor["2-best-reduced"].verdict is Verdict.undecided and "generalises" in poor["2-best-reduced"].reason


def test_what_the_search_adds_is_no_part_of_the_grid() -> None:
    data = runs(AS_PUBLISHED)["runs"]
    more = data[(data["seed"] == 0) & (data["lr"] == 0.01)].assign(lr=0.03, run_id="more", final_test_accuracy=0.99)
    both = pd.concat([data, more], ignore_index=True)
    assert limits.grid(both)["lr"].max() == 1 and set(limits.grid(both)["lr"]) == set(GRID)
    assert len(GRIDS[0].numbers({"runs": both})) == 1 + len(GRID)


@pytest.mark.parametrize("finding", DEPTHS, ids=lambda finding: finding.name)
@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, Verdict.reproduced),
        ({("none", 20): ["ttddd"] * 3, ("none", 110): ["ttttd"] * 3}, Verdict.not_reproduced),
        ({("none", 110): ["ttddd", "ttttd", "ttttd"]}, Verdict.undecided),  # one seed alone falls
        ({("none", 110): ["tdddd"] * 2}, Verdict.undecided),
    ],
)
def test_by_depth(finding: findings.Finding, changed: Cells, verdict: Verdict) -> None:
    (evidence,) = judged(finding, {**BY_DEPTH, **changed}).values()
    assert evidence.verdict is verdict


def test_a_region_with_a_hole_is_no_interval() -> None:
    assert judged(REGION, AS_PUBLISHED)["lenet-region-2"].verdict is Verdict.reproduced
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
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, made)
    fig.draw_without_rendering()
    assert all(ax.get_xlabel() or ax.get_xticks().size for ax in fig.axes)
    assert finding.numbers(made)
    finding.evidence(made)


def test_every_run_has_its_mark() -> None:
    fig = figures.new(REGION.size, "t", "s", synthetic=False)
    REGION.plot(fig, runs(AS_PUBLISHED))
    marks = dict.fromkeys("ov", 0)
    for line in fig.axes[0].lines:
        if (marker := str(line.get_marker())) in marks:
            marks[marker] += len(line.get_xdata())  # type: ignore[arg-type]
    assert marks == {"o": 12, "v": 6}
    assert sum(int(text.get_text()) for text in fig.axes[0].texts) == 12  # that diverged
