"""First updates under four initialisers: what counts as training, and how claim 16 is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy import figures, findings
from bnstudy.findings import Evidence, Verdict

TRAINING = findings.load(synthetic.FINDINGS / "init_training.py")
Course = tuple[Sequence[float], float]  # losses; variance of the outputs at the end


def course(first: float, last: float, variance: float = 0.1, num: int = 30) -> Course:
    return np.geomspace(first, last, num).tolist(), variance


BROKEN: Course = ([1e9, math.inf], math.nan)
AS_CLAIMED: Mapping[str, Course] = {
    "kaiming_normal": BROKEN,
    "xavier_uniform": course(140.0, 5.0),
    "xavier_normal": course(160.0, 6.0),
    "torch_default": course(2.31, 2.305),
}


def frame(changed: Mapping[str, Course] | None = None, seeds: int = 5) -> dict[str, pd.DataFrame]:
    steps, outputs = [], []
    for init, (losses, variance) in {**AS_CLAIMED, **(changed or {})}.items():
        for seed in range(seeds):
            run = {"run_id": f"{init}{seed}", "norm": "none", "init": init, "seed": seed}
            for step, loss in enumerate(losses):
                steps.append({**run, "step": step, "loss": loss * (1 + 0.05 * (seed - 2))})
            if len(losses) == 30 and math.isfinite(losses[-1]):
                outputs.append({**run, "variance": variance})
    columns = ["run_id", "norm", "init", "seed", "variance"]
    return {"steps": pd.DataFrame(steps), "moments_along_step": pd.DataFrame(outputs, columns=columns)}


def judged(changed: Mapping[str, Course] | None = None, seeds: int = 5) -> Evidence:
    return TRAINING.evidence(frame(changed, seeds))["16"]


def test_as_claimed() -> None:
    evidence = judged()
    assert evidence.verdict is Verdict.reproduced and evidence.n == 5
    assert evidence.measured.startswith("initial loss 6.25e6 times; Kaiming normal not finite in 5, Xavier uniform ")
    assert "torch's default trains in 5" in evidence.measured


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"kaiming_normal": course(1e9, 1e5)}, Verdict.partly),  # trains after all
        ({"kaiming_normal": course(1e9, 2.3, variance=0.0)}, Verdict.reproduced),  # dead: no images told apart
        ({"torch_default": course(2.3, 2.31)}, Verdict.reproduced),  # not training is no counterexample
        ({"xavier_uniform": course(2000.0, 5.0)}, Verdict.partly),  # trains from a large loss
        ({"xavier_uniform": course(1e7, 5.0), "kaiming_normal": course(1e9, 1e5)}, Verdict.not_reproduced),
        ({name: BROKEN for name in AS_CLAIMED}, Verdict.not_reproduced),  # nothing trains
    ],
)
def test_other_outcomes(changed: Mapping[str, Course], verdict: Verdict) -> None:
    assert judged(changed).verdict is verdict


def test_one_seed_that_dies_is_not_every_seed() -> None:
    data = frame({"kaiming_normal": course(1e9, 1e5)})
    data["moments_along_step"].loc[lambda rows: rows["run_id"] == "kaiming_normal3", "variance"] = 0.0
    evidence = TRAINING.evidence(data)["16"]
    assert "Kaiming normal trains in 4, dead in 1" in evidence.measured
    assert evidence.verdict is Verdict.reproduced


def test_a_run_that_ended_early_without_a_word_is_not_finite() -> None:
    assert "Xavier uniform not finite in 5" in judged({"xavier_uniform": ([140.0, 100.0], math.nan)}).measured


def test_the_loss_must_be_lower_on_average_over_the_last_updates() -> None:
    up = [140.0] * 20 + [141.0] * 10
    assert "Xavier uniform loss no lower in 5" in judged({"xavier_uniform": (up, 0.1)}).measured


def test_an_initialiser_without_runs_decides_nothing() -> None:
    data = frame()
    data = {name: table.query("init != 'xavier_normal'") for name, table in data.items()}
    assert TRAINING.evidence(data)["16"].verdict is Verdict.undecided
    TRAINING.plot(figures.new(TRAINING.size, "t", "s", stand_in=False), data)
    assert TRAINING.numbers(data)


def test_two_seeds_are_too_few() -> None:
    assert judged(seeds=2).verdict is Verdict.undecided


def test_every_run_has_its_mark() -> None:
    fig = figures.new(TRAINING.size, "t", "s", stand_in=False)
    TRAINING.plot(fig, frame({"torch_default": course(2.3, 2.3, variance=0.0)}))
    drawn = [line for line in fig.axes[1].lines if str(line.get_marker()) in ("o", "s", "v", "x")]
    marks = {str(line.get_label()): np.asarray(line.get_xdata()) for line in drawn}
    assert {label: len(x) for label, x in marks.items()} == {
        "trains": 10,
        "loss no lower": 0,
        "dead": 5,
        "not finite": 5,
    }
    assert len(fig.axes[0].lines) == 5  # four initialisers and the loss of a guess
