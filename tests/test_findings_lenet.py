"""The learning-rate grid of LeNet: what counts as training at a rate, which rate is best, how outcomes are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures
from bnstudy.analysis.findings import Evidence, Verdict

LENET = synthetic.frames_of("lenet_lr")[0]
Accuracies = Mapping[float, Sequence[float | None]]  # rate -> test accuracy a seed; None: diverged; below 0.3: stalled


def grid(batch: Accuracies, none: Accuracies) -> dict[str, pd.DataFrame]:
    rows = []
    for norm, rates in (("batch", batch), ("none", none)):
        for lr, accuracies in rates.items():
            for seed, accuracy in enumerate(accuracies):
                outcome = "diverged" if accuracy is None else "stalled" if accuracy < 0.3 else "trained"
                rows.append({"run_id": f"{norm}{lr}{seed}", "norm": norm, "lr": lr, "seed": seed, "outcome": outcome,
                             "final_test_accuracy": accuracy, "final_train_accuracy": accuracy})  # fmt: skip
    return {"runs": pd.DataFrame(rows).astype({"final_test_accuracy": float, "final_train_accuracy": float})}


def judged(batch: Accuracies, none: Accuracies) -> dict[str, Evidence]:
    return LENET.evidence(grid(batch, none))


def test_as_the_paper_has_it() -> None:
    evidence = judged(
        batch={0.1: [0.96, 0.961, 0.962], 1.0: [0.98, 0.981, 0.982], 10.0: [0.7, 0.7, 0.7]},
        none={0.1: [0.96, 0.961, 0.963], 1.0: [0.965, 0.966, None], 10.0: [None, None, None]},
    )
    assert evidence["lenet-lr-1"].measured == "10 with BN, 0.1 without"  # one diverged seed spoils a rate
    assert evidence["lenet-lr-3"].verdict is Verdict.reproduced
    assert "without BN 4 diverged, 5 trained" in evidence["lenet-lr-1"].spread


def test_refuted() -> None:
    evidence = judged(
        batch={0.1: [0.96] * 3, 1.0: [0.97] * 3, 10.0: [None] * 3},
        none={0.1: [0.99] * 3, 1.0: [0.995] * 3, 10.0: [None] * 3},
    )
    assert {e.verdict for e in evidence.values()} == {Verdict.not_reproduced}


def test_a_best_rate_at_the_grids_edge_decides_nothing() -> None:
    evidence = judged({0.1: [0.6] * 3, 1.0: [0.9, 0.91, 0.92]}, {0.1: [0.5] * 3, 1.0: [0.7] * 3})["lenet-lr-2"]
    assert evidence.verdict is Verdict.undecided and "edge" in evidence.reason


def test_a_grid_that_ends_too_early_decides_nothing() -> None:
    both: Accuracies = {0.1: [0.8] * 3, 1.0: [0.8] * 3}
    assert judged(both, both)["lenet-lr-1"].verdict is Verdict.undecided


def test_no_common_rate_decides_nothing() -> None:
    evidence = judged({0.1: [0.8] * 3, 1.0: [0.9] * 3}, {0.1: [0.1] * 3, 1.0: [None] * 3})
    assert evidence["lenet-lr-3"].verdict is Verdict.undecided
    assert evidence["lenet-lr-1"].verdict is Verdict.undecided  # an arm that trains nowhere is no control
    assert "without BN" in evidence["lenet-lr-1"].reason


@pytest.mark.parametrize(
    ("lower", "verdict"),  # 0.94 does not fit
    [(0.985, Verdict.reproduced), (0.96, Verdict.not_reproduced), (0.94, Verdict.undecided)],
)
def test_at_a_matched_rate(lower: float, verdict: Verdict) -> None:
    assert judged({0.1: [0.99] * 3}, {0.1: [lower] * 3})["lenet-lr-3"].verdict is verdict


def test_two_seeds_are_too_few() -> None:
    evidence = judged({0.1: [0.9] * 2, 1.0: [0.9] * 2}, {0.1: [0.8] * 2, 1.0: [None] * 2})
    assert {e.verdict for e in evidence.values()} == {Verdict.undecided} and evidence["lenet-lr-1"].n == 2


def test_one_arm_alone() -> None:
    data = grid({0.1: [0.9] * 3, 1.0: [None] * 3}, {})
    LENET.plot(figures.new(LENET.size, "t", "s", synthetic=False), data)
    assert {e.verdict for e in LENET.evidence(data).values()} == {Verdict.undecided}


def test_every_run_has_its_mark() -> None:
    data = grid({0.1: [0.9, 0.8, 0.2], 1.0: [None] * 3}, {0.1: [0.1, 0.1, None], 1.0: [0.5, 0.6, 0.7]})
    fig = figures.new(LENET.size, "t", "s", synthetic=False)
    LENET.plot(fig, data)
    marks = {marker: 0 for marker in "ov"}
    for line in fig.axes[0].lines:
        if line.get_marker() in marks:
            marks[str(line.get_marker())] += len(line.get_xdata())  # type: ignore[arg-type]
    assert marks == {"o": 5, "v": 3}
    assert [(text.get_text(), text.get_color()) for text in fig.axes[0].texts] == [
        ("3", figures.COLOURS["batch"]), ("1", figures.COLOURS["none"])
    ]  # fmt: skip


def test_the_table_tells_what_became_of_each_rate() -> None:
    lines = LENET.numbers(grid({1.0: [0.9, 0.8, None]}, {1.0: [0.1, 0.1, 0.1]}))
    assert lines[0].ours_batch == "85.0 [80.0 to 90.0]; 1 diverged"
    assert lines[0].ours_none == "10.0 [10.0 to 10.0]; 3 stalled"
