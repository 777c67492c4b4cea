"""fp32 beside bf16: what counts as near, as the same onset of divergence, and as the same start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import pytest
import synthetic
from matplotlib.figure import Figure

from bnstudy.analysis import findings
from bnstudy.analysis.findings import Evidence, Verdict

PRECISION = findings.load(synthetic.FINDINGS / "precision.py")
Accuracies = Mapping[float, Sequence[float | None]]  # rate -> test accuracy a seed; None: diverged


def frames(cells: Mapping[tuple[str, str], Accuracies], apart: float = 0.0) -> dict[str, pd.DataFrame]:
    runs, moments = [], []
    for (norm, precision), rates in cells.items():
        for lr, accuracies in rates.items():
            for seed, accuracy in enumerate(accuracies):
                run = {"norm": norm, "precision": precision, "lr": lr, "seed": seed}
                outcome = "diverged" if accuracy is None else "trained"
                runs.append({"run_id": f"{run}", **run, "outcome": outcome, "final_test_accuracy": accuracy})
                shift = apart if precision == "bf16" else 0.0
                moments += [{**run, "depth": 1, "channel": c, "mean": c + shift, "variance": 1.0} for c in range(3)]
    return {
        "runs": pd.DataFrame(runs).astype({"final_test_accuracy": float}),
        "activation_moments": pd.DataFrame(moments),
    }


def both_arms(fp32: Accuracies, bf16: Accuracies) -> dict[tuple[str, str], Accuracies]:
    return {(norm, p): rates for norm in ("batch", "none") for p, rates in (("fp32", fp32), ("bf16", bf16))}


def judged(cells: Mapping[tuple[str, str], Accuracies], apart: float = 0.0) -> dict[str, Evidence]:
    return PRECISION.evidence(frames(cells, apart))


LIKE: Accuracies = {0.01: [0.30, 0.31, 0.32], 0.1: [0.4, 0.41, 0.42], 1.0: [None, None, None]}


def test_alike() -> None:
    evidence = judged(both_arms(LIKE, {**LIKE, 0.01: [0.31, 0.32, 0.33]}))
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert [each.mean for each in evidence["precision-1"].estimates.values()] == pytest.approx([0.5, 0.5])
    assert "with BN from 1 in fp32, 1 in bf16" in evidence["precision-2"].measured
    assert evidence["precision-3"].n == 3


def test_apart() -> None:
    evidence = judged(both_arms(LIKE, {0.01: [0.1] * 3, 0.1: [None] * 3, 1.0: [None] * 3}), apart=0.5)
    assert {e.verdict for e in evidence.values()} == {Verdict.not_reproduced}
    one_arm = both_arms(LIKE, LIKE) | {("none", "bf16"): {**LIKE, 0.1: [0.4, 0.41, None]}}
    assert judged(one_arm)["precision-2"].verdict is Verdict.partly
    assert judged(one_arm)["precision-1"].verdict is Verdict.reproduced  # a rate at which one diverges is none of these
    assert judged(both_arms(LIKE, LIKE), apart=1e-7)["precision-3"].verdict is Verdict.partly


def test_too_few_seeds_or_a_missing_precision_decide_nothing() -> None:
    few = {lr: accuracies[:2] for lr, accuracies in LIKE.items()}
    for cells in (both_arms(few, few), {("batch", "fp32"): LIKE, ("none", "fp32"): LIKE}):
        assert {e.verdict for e in judged(cells).values()} == {Verdict.undecided}


def test_it_draws_and_tells_the_numbers() -> None:
    made = frames(both_arms(LIKE, LIKE))
    figure = Figure(layout="constrained")
    PRECISION.plot(figure, made)
    assert len(figure.axes) == 2
    told = PRECISION.numbers(made)
    assert [row.ours_batch for row in told[:2]] == ["31.0 [30.0 to 32.0]"] * 2
    assert told[-1].ours_none == "3 diverged"
