"""What the paper's network bears at its own depth: how losses become verdicts, and that every run is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy import figures, findings, frames, outcomes
from bnstudy.findings import Evidence, Verdict

GRID = findings.load(synthetic.FINDINGS / "stability_grid.py")
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
    assert evidence.measured.endswith("with BN 0 of 30 diverge at the paper's rates, 5 of 5 learn at 0.1")


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
    fig = figures.new(GRID.size, "t", "s", stand_in=False)
    data = made(AS_PUBLISHED)
    GRID.plot(fig, data)
    fig.draw_without_rendering()
    lines = [line for ax in fig.axes for line in ax.lines]
    assert sum(len(line.get_xdata()) > 2 for line in lines) == data["steps"]["run_id"].nunique() == 70  # type: ignore[arg-type]
    crosses = [line for line in lines if line.get_marker() == "x"]
    assert len(crosses) == 20
    assert {np.asarray(line.get_ydata()).item() for line in crosses} == {10 * outcomes.DIVERGENCE_LOSS}
    told = [text.get_text() for text in fig.axes[5].texts]
    assert told == ["with BN: 5 learn", "without BN: 5 diverge"]


@pytest.mark.parametrize(
    ("finding", "data"),
    [
        (GRID, made(AS_PUBLISHED)),
        (GRID, made({"batch": ["l"]}, (0.1,))),
        (TEN, made({"none": ["ccl"], "batch": ["lll"]}, RATES[:3])),
        (TEN, made({"none": ["d"], "batch": ["l"]}, (1e-4,))),
    ],
)
def test_it_draws_and_tells_the_numbers(finding: findings.Finding, data: Mapping[str, pd.DataFrame]) -> None:
    fig = figures.new(finding.size, "t", "s", stand_in=False)
    finding.plot(fig, data)
    fig.draw_without_rendering()
    lines = finding.numbers(data)
    assert lines and all(frames.DASH in (line.ours_batch, line.ours_none) or line.ours_none for line in lines)
    finding.evidence(data)
