"""First updates under four initialisers: what counts as training, and how claim 16 is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

TRAINING = findings.load(synthetic.FINDINGS / "init_training.py")
Course = Sequence[float]  # losses


def course(first: float, last: float, num: int = 150) -> Course:
    return [*np.geomspace(first, last, num // 3).tolist(), *[last] * (num - num // 3)]


BROKEN: Course = [1e9, math.inf]
AS_CLAIMED: Mapping[str, Course] = {
    "kaiming_normal": BROKEN,
    "xavier_uniform": course(140.0, 2.1),
    "xavier_normal": course(160.0, 2.15),
    "torch_default": course(2.31, 2.305),
}


def frame(changed: Mapping[str, Course] | None = None, seeds: int = 5) -> dict[str, pd.DataFrame]:
    steps = []
    for init, losses in {**AS_CLAIMED, **(changed or {})}.items():
        for seed in range(seeds):
            run = {"run_id": f"{init}{seed}", "norm": "none", "init": init, "seed": seed, "final_test_accuracy": 0.2}
            steps += [{**run, "step": step, "loss": loss * (1 + 0.01 * (seed - 2))} for step, loss in enumerate(losses)]
    return {"steps": pd.DataFrame(steps)}


def judged(changed: Mapping[str, Course] | None = None, seeds: int = 5) -> Evidence:
    return TRAINING.evidence(frame(changed, seeds))["16"]


def test_as_claimed() -> None:
    evidence = judged()
    assert evidence.verdict is Verdict.reproduced and evidence.n == 5
    assert next(iter(evidence.estimates.values())).mean == pytest.approx(1e9 / 160)


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"kaiming_normal": course(1e9, 2.1)}, Verdict.not_reproduced),  # trains after all
        ({"kaiming_normal": course(1e9, 2.3)}, Verdict.reproduced),  # guesses
        ({"kaiming_normal": course(1e4, 2.3)}, Verdict.not_reproduced),  # does not explode
        ({name: BROKEN for name in AS_CLAIMED}, Verdict.undecided),  # nothing trains
    ],
)
def test_other_outcomes(changed: Mapping[str, Course], verdict: Verdict) -> None:
    assert judged(changed).verdict is verdict


def test_a_loss_that_fell_to_a_guesss_is_not_training() -> None:
    """Regression: from 140 to 2.36 was called training, at an accuracy of 10 %."""
    evidence = judged({"xavier_uniform": course(140.0, 2.36), "xavier_normal": course(160.0, 2.5)})
    assert evidence.verdict is Verdict.undecided and "nothing trained" in evidence.reason


def test_an_initialiser_without_runs_decides_nothing() -> None:
    data = {name: table.query("init != 'xavier_normal'") for name, table in frame().items()}
    assert TRAINING.evidence(data)["16"].verdict is Verdict.undecided
    TRAINING.plot(figures.new(TRAINING.size, "t", "s", synthetic=False), data)
    assert TRAINING.numbers(data)


def test_two_seeds_are_too_few() -> None:
    assert judged(seeds=2).verdict is Verdict.undecided


def test_the_figure_zooms_in_on_a_guesss_loss_and_shows_accuracies() -> None:
    fig = figures.new(TRAINING.size, "t", "s", synthetic=False)
    TRAINING.plot(fig, frame())
    low, high = fig.axes[1].get_ylim()
    assert low < 2.2 < math.log(10) < high < 3
    dots = [line for line in fig.axes[2].lines if line.get_marker() == "o"]
    assert sum(len(np.asarray(line.get_xdata())) for line in dots) == 15  # a run that is not finite has none
