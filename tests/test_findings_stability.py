"""What the paper's network bears at its own depth: how losses become verdicts, and that every run is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict
from bnstudy.store import outcomes

GRID = findings.load(synthetic.FINDINGS / "stability_grid.py")
DEPTH = findings.load(synthetic.FINDINGS / "stability_depth.py")
LARGEST = findings.load(synthetic.FINDINGS / "stability_largest.py")
TEN = findings.load(synthetic.FINDINGS / "stability_ten_epochs.py")
RATES = (3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.1, 1.0)
Words = Mapping[str, Sequence[str]]  # arm -> a word a seed, a letter a rate
AS_PUBLISHED: Words = {"batch": ["clllllc"] * 5, "none": ["cccdddd"] * 5}


def course(letter: str, num: int = 60) -> list[float]:
    """Losses of a run that learns, stays at chance, diverges, or has too few of them."""
    if letter == "d":
        return [5.0, 104.0, math.inf]
    if letter == "p":
        return [2.3] * 10
    return [4.0, *np.linspace(2.3, {"l": 2.0, "c": 2.3}[letter], num - 1).tolist()]


def made(words: Words, rates: Sequence[float] = RATES) -> dict[str, pd.DataFrame]:
    steps = [
        {"run_id": f"{arm}{seed}{rate}", "norm": arm, "seed": seed, "run_lr": rate, "step": step, "loss": loss}
        for arm, seeds in words.items()
        for seed, word in enumerate(seeds, 1)
        for rate, letter in zip(rates, word, strict=True)
        for step, loss in enumerate(course(letter))
    ]
    epochs = [
        {"run_id": f"{arm}{seed}{rate}", "norm": arm, "seed": seed, "run_lr": rate, "epoch": epoch,
         "train_loss": course(letter)[-1], "test_accuracy": 0.1 + 0.01 * epoch * (letter == "l")}
        for arm, seeds in words.items()
        for seed, word in enumerate(seeds, 1)
        for rate, letter in zip(rates, word, strict=True) if letter != "d"
        for epoch in range(1, 11)
    ]  # fmt: skip
    return {"steps": pd.DataFrame(steps), "epochs": pd.DataFrame(epochs)}


def judged(changed: Words | None = None) -> Evidence:
    return GRID.evidence(made({**AS_PUBLISHED, **(changed or {})}))["4-epoch"]


def test_as_the_paper_has_it() -> None:
    evidence = judged()
    assert (evidence.verdict, evidence.n) == (Verdict.reproduced, 5)
    assert [of.mean for of in evidence.estimates.values()] == [1, 1]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"batch": ["cllllld"] * 5}, Verdict.reproduced),  # 1 is none of the paper's rates
        ({"none": ["ccccddd"] * 5}, Verdict.reproduced),  # nothing is said of 0.001
        ({"none": ["lllllll", *["cccdddd"] * 4]}, Verdict.partly),  # one seed bears them
        ({"none": ["cccdddc", *["cccdddd"] * 4]}, Verdict.partly),
        ({"batch": ["clllldd", *["clllllc"] * 4]}, Verdict.partly),  # 0.1 diverges in one
        ({"batch": ["cllllcc", *["clllllc"] * 4]}, Verdict.partly),  # 0.1 stays at chance in one
        ({"batch": ["dcccccc"] * 5, "none": ["lllllll"] * 5}, Verdict.not_reproduced),
        ({"batch": ["clllllc"] * 4, "none": ["cccdddd"] * 5}, Verdict.undecided),  # four seeds
        ({"batch": ["clllllc"] * 4 + ["clplllc"]}, Verdict.undecided),  # one of the runs is not whole
        ({"none": []}, Verdict.undecided),
    ],
)
def test_other_outcomes(changed: Words, verdict: Verdict) -> None:
    assert judged(changed).verdict is verdict


def test_seeds_that_are_not_there_yet_leave_it_undecided() -> None:
    data = made(AS_PUBLISHED)
    steps = data["steps"]
    for lacking in (steps["run_lr"] != 0.1, (steps["run_lr"] != 0.003) | (steps["norm"] != "none")):
        evidence = GRID.evidence({"steps": steps[lacking]})["4-epoch"]
        assert (evidence.verdict, evidence.n) == (Verdict.undecided, 0)


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        (["cll", "cll", "cll"], Verdict.reproduced),
        (["cll", "ccl", "cll"], Verdict.partly),
        (["ccl", "ccl", "ccl"], Verdict.not_reproduced),  # another rate learns, that of the paper does not
        (["cdd"] * 3, Verdict.not_reproduced),
        (["cll", "cll"], Verdict.undecided),
    ],
)
def test_ten_epochs_at_the_papers_rate(words: Sequence[str], verdict: Verdict) -> None:
    data = made({"none": words, "batch": ["lll"] * len(words)}, RATES[:3])
    assert TEN.evidence(data)["4-ten-epochs"].verdict is verdict


def test_every_run_has_its_line_and_those_that_diverged_their_cross() -> None:
    fig = figures.new(GRID.size, "t", "s", synthetic=False)
    data = made(AS_PUBLISHED)
    GRID.plot(fig, data)
    fig.draw_without_rendering()
    above, below = fig.axes[:7], fig.axes[7:14]
    courses = [[line for ax in row for line in ax.lines if np.size(line.get_xdata()) > 2] for row in (above, below)]
    assert len(courses[0]) == data["steps"]["run_id"].nunique() == 70
    assert len(courses[1]) == 50  # those that did not diverge
    crosses = [line for ax in above for line in ax.lines if line.get_marker() == "x"]
    assert len(crosses) == 20
    assert {np.asarray(line.get_ydata()).item() for line in crosses} == {10 * outcomes.DIVERGENCE_LOSS}
    assert [text.get_text() for text in above[5].texts] == ["5 learn", "5 diverge"]
    dots = [line for line in fig.axes[14].lines if line.get_marker() == "o"]
    assert [np.asarray(line.get_ydata()).tolist() for line in dots] == [[1.0] * 5, [1.0] * 5]


Limits = Mapping[tuple[str, int], Sequence[float]]  # arm, depth -> the limit of each seed
LIMITS: Limits = {
    ("batch", 8): [0.9, 1.0, 1.1], ("batch", 20): [0.8, 0.9, 1.0], ("batch", 56): [0.7, 0.8, 0.7],
    ("batch", 110): [0.6, 0.7, 0.6, 0.65, 0.6],
    ("none", 8): [0.3, 0.32, 0.28], ("none", 20): [0.06, 0.07, 0.05], ("none", 56): [0.004, 0.005, 0.004],
    ("none", 110): [5e-4, 6e-4, 5e-4, 6e-4, 5e-4],
}  # fmt: skip


def searched(changed: Limits | None = None) -> dict[str, pd.DataFrame]:
    """Runs at the decades and around each limit. Up to it a run learns (without BN at 110 layers it stays finite),
    above it a run diverges, or with BN stays at chance."""
    runs, eigenvalues = [], []
    for (arm, depth), limits in {**LIMITS, **(changed or {})}.items():
        for seed, limit in enumerate(limits, 1):
            cell = {"norm": arm, "depth": depth, "seed": seed}
            for lr in sorted({*(10.0**i for i in range(-6, 2)), limit, 1.2 * limit}):
                alive = "learns" if (arm, depth) != ("none", 110) and lr > 1e-5 else "at chance"
                beyond = "at chance" if arm == "batch" else "diverged"
                outcome = alive if lr <= limit else beyond
                runs.append({**cell, "run_id": f"{arm}{depth}{seed}{lr}", "lr": lr, "outcome": outcome})
            eigenvalues.append({**cell, "run_id": f"h{arm}{depth}{seed}", "eigenvalue": 2 / limit, "converged": True})
    frame = pd.DataFrame(runs)
    return {
        "runs": frame[frame["depth"] < 110],
        "stability_largest/runs": frame[frame["depth"] == 110],
        "stability_curvature/hessian_top_eigenvalue": pd.DataFrame(eigenvalues),
    }


def deepest(changed: Limits | None = None) -> dict[str, pd.DataFrame]:
    return {"runs": searched(changed)["stability_largest/runs"]}


@pytest.mark.parametrize(
    ("finding", "data"),
    [
        (GRID, made(AS_PUBLISHED)),
        (GRID, made({"batch": ["l"]}, (0.1,))),
        (TEN, made({"none": ["ccl"], "batch": ["lll"]}, RATES[:3])),
        (TEN, made({"none": ["d"], "batch": ["l"]}, (1e-4,))),
        (DEPTH, searched()),
        (DEPTH, searched({key: [] for key in LIMITS if key != ("none", 8)})),
        (LARGEST, deepest()),
        (LARGEST, deepest({("batch", 110): []})),
    ],
)
def test_it_draws_and_tells_the_numbers(finding: findings.Finding, data: Mapping[str, pd.DataFrame]) -> None:
    fig = figures.new(finding.size, "t", "s", synthetic=False)
    finding.plot(fig, data)
    fig.draw_without_rendering()
    lines = finding.numbers(data)
    assert lines and all(frames.DASH in (line.ours_batch, line.ours_none) or line.ours_none for line in lines)
    finding.evidence(data)


def verdicts(changed: Limits | None = None) -> tuple[Verdict, Verdict]:
    """Of the largest rate at depth 110, and of its fall with depth."""
    largest, falls = LARGEST.evidence(deepest(changed)), DEPTH.evidence(searched(changed))
    return largest["4-largest-epoch"].verdict, falls["15-epoch"].verdict


def test_limits_as_expected_are_reproduced() -> None:
    largest, falls = LARGEST.evidence(deepest())["4-largest-epoch"], DEPTH.evidence(searched())["15-epoch"]
    assert (largest.verdict, falls.verdict) == (Verdict.reproduced, Verdict.reproduced)
    assert (largest.n, falls.n) == (5, 3)
    expected = (0.6 / 5e-4 * 0.7 / 6e-4 * 0.6 / 5e-4 * 0.65 / 6e-4 * 0.6 / 5e-4) ** (1 / 5)
    assert next(iter(largest.estimates.values())).mean == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({("none", 110): [0.015, 0.016, 0.014, 0.015, 0.015]}, ("reproduced", "reproduced")),  # 42 times
        ({("none", 110): [0.03, 0.033, 0.03, 0.03, 0.03]}, ("partly", "reproduced")),  # 20 times
        ({("none", 110): [0.03, 0.003, 0.03, 0.03, 0.03]}, ("partly", "partly")),  # 20 to 230 times
        ({("none", 110): [3.0, 3.5, 3.1, 3.0, 3.0]}, ("not reproduced", None)),
        ({("batch", 8): [300.0, 270.0, 330.0]}, ("reproduced", "partly")),  # with BN it falls as steeply
        ({("none", d): [0.001 * d] * 3 for d in (8, 20, 56, 110)}, ("undecided", "not reproduced")),  # three seeds
        ({("none", 56): [0.004, 0.005]}, ("reproduced", "undecided")),
        ({("batch", 110): [0.6, 0.7]}, ("undecided", "undecided")),
    ],
)
def test_other_limits(changed: Limits, expected: tuple[str | None, str | None]) -> None:
    for found, verdict in zip(verdicts(changed), expected, strict=True):
        assert verdict is None or found == verdict


def test_a_cell_without_a_limit_leaves_it_undecided() -> None:
    data = searched()
    runs = data["stability_largest/runs"]
    lost = (runs["norm"] == "none") & (runs["seed"] == 2)
    for outcome in ("diverged", "at chance"):  # nowhere finite; finite at every rate that was tried
        changed = runs.assign(outcome=runs["outcome"].mask(lost, outcome))
        assert LARGEST.evidence({"runs": changed})["4-largest-epoch"].verdict is Verdict.undecided
        assert DEPTH.evidence({**data, "stability_largest/runs": changed})["15-epoch"].verdict is Verdict.undecided


def test_cells_that_are_not_monotone_are_said() -> None:
    data = searched()
    runs = data["runs"]
    again = (runs["norm"] == "batch") & (runs["depth"] == 8) & (runs["seed"] == 1) & (runs["lr"] == 10)
    lines = DEPTH.numbers({**data, "runs": runs.assign(outcome=runs["outcome"].mask(again, "learns"))})
    assert [line.quantity for line in lines if "not monotone" in line.ours_batch] == ["limit, 8 layers"]


def test_every_seed_has_its_bar() -> None:
    fig = figures.new(DEPTH.size, "t", "s", synthetic=False)
    DEPTH.plot(fig, searched())
    fig.draw_without_rendering()
    assert sum(line.get_linewidth() == 4 for line in fig.axes[0].lines) == 24  # of three seeds, as shallow ones have
    pale = [line for line in fig.axes[0].lines if line.get_color() == figures.TINTS["none"]]
    assert len(pale) == 3


def test_every_rate_that_was_tried_has_its_mark() -> None:
    fig, data = figures.new(LARGEST.size, "t", "s", synthetic=False), deepest()
    LARGEST.plot(fig, data)
    fig.draw_without_rendering()
    marks = [line for line in fig.axes[0].lines if line.get_marker() in ("o", "x")]
    assert sum(np.size(line.get_xdata()) for line in marks) == len(data["runs"])
    assert sum(line.get_linewidth() == 4 for line in fig.axes[0].lines) == 10
