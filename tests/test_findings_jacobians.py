"""Condition numbers of the network's Jacobians: what meets the criteria, what does not, and slow twins."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings
from bnstudy.analysis.findings import Evidence, Verdict

JACOBIANS = findings.load(synthetic.FINDINGS / "jacobians.py")
STARTS = (0, 3, 37, 39, 73, 107, 109)
Conditions = Mapping[str, Mapping[int, float]]


def growing(at_end: float, *, arm_factor: float = 1.0) -> dict[int, float]:
    """Condition numbers that rise from 1 behind layer 109 to `at_end` from the image."""
    return {start: arm_factor * at_end ** (1 - start / 109) for start in STARTS}


def frame(conditions: Conditions, seeds: int = 5) -> dict[str, pd.DataFrame]:
    rows = []
    for norm, of in conditions.items():
        for seed in range(seeds):
            run = {"run_id": f"{norm}{seed}", "norm": norm, "seed": seed}
            for example in range(4):
                for start, condition in of.items():
                    where = {**run, "stretch": "to_features", "start": start, "example": example, "count": 64}
                    largest = 5.0 * (1 + 0.1 * example)
                    shaken = condition * (1 + 0.02 * seed) * (1 + 0.3 * (example == 3))
                    for place in range(0, 64, 9):
                        value = largest * shaken ** (-place / 63)
                        rows.append({**where, "index": place, "value": value})
                for start in (77, 107):
                    where = {**run, "stretch": "to_next", "start": start, "example": example, "count": 4096}
                    values = [(0, 2.0), (2048, 1.0), (3000, 0.4), (3500, 1e-16), (4095, 0.0)]
                    rows += [{**where, "index": index, "value": value} for index, value in values]
    return {"jacobian_singular_values": pd.DataFrame(rows)}


def judged(batch: Mapping[int, float], none: Mapping[int, float], seeds: int = 5) -> dict[str, Evidence]:
    return JACOBIANS.evidence(frame({"batch": batch, "none": none}, seeds))


def test_worse_without_bn_and_worse_with_depth_reproduces() -> None:
    evidence = judged(growing(8), growing(200))
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert {e.n for e in evidence.values()} == {5}
    assert next(iter(evidence["jacobians-1"].estimates.values())).mean == pytest.approx(25)


def test_the_opposite_does_not() -> None:
    falling = {start: 200 ** (start / 109) for start in STARTS}
    evidence = judged(growing(200), falling)
    assert {e.verdict for e in evidence.values()} == {Verdict.not_reproduced}


def test_some_pairs_and_some_stretches_are_a_part() -> None:
    data = frame({"batch": growing(8), "none": growing(200)})
    table = data["jacobian_singular_values"]
    at = (table["seed"] == 1) & (table["norm"] == "batch") & (table["index"] == 63)
    table.loc[at, "value"] = 1e-4
    assert JACOBIANS.evidence(data)["jacobians-1"].verdict is Verdict.undecided  # one pair far the other way round
    bent = {**growing(200), 37: 400.0}
    assert judged(growing(8), bent)["jacobians-2"].verdict is Verdict.partly


def test_the_condition_number_is_the_median_over_images_of_largest_over_smallest() -> None:
    data = frame({"batch": growing(8), "none": growing(200)}, seeds=1)
    table = data["jacobian_singular_values"]
    ratios = []
    for example in range(4):
        rows = table.query(f"norm == 'none' and stretch == 'to_features' and start == 37 and example == {example}")
        ratios.append(max(rows["value"]) / min(rows["value"]))
    told = {line.quantity: line.ours_none for line in JACOBIANS.numbers(data)}
    assert float(told["condition number, from behind layer 37"]) == pytest.approx(np.median(ratios), rel=5e-3)


def test_a_smallest_value_lost_in_rounding_is_an_infinite_condition_number() -> None:
    data = frame({"batch": growing(8), "none": growing(200)})
    table = data["jacobian_singular_values"]
    table.loc[(table["norm"] == "none") & (table["start"] == 0) & (table["index"] == 63), "value"] = 1e-17
    evidence = JACOBIANS.evidence(data)["jacobians-1"]
    assert evidence.verdict is Verdict.reproduced and "left out: 5" in evidence.spread  # larger than any number
    assert JACOBIANS.evidence(data)["jacobians-2"].verdict is Verdict.reproduced  # infinite from the image alone
    JACOBIANS.plot(figures.new(JACOBIANS.size, "t", "s", synthetic=False), data)


def test_one_seed_with_an_infinite_condition_number_is_left_out_of_the_order() -> None:
    data = frame({"batch": growing(8), "none": growing(200)})
    table = data["jacobian_singular_values"]
    table.loc[(table["norm"] == "none") & (table["seed"] == 2) & (table["index"] == 63), "value"] = 0.0
    evidence = JACOBIANS.evidence(data)
    assert {e.verdict for e in evidence.values()} == {Verdict.reproduced}
    assert (evidence["jacobians-1"].n, evidence["jacobians-2"].n) == (5, 4)
    assert "left out: 1" in evidence["jacobians-1"].spread


def test_a_network_that_has_no_jacobian_is_not_judged() -> None:
    data = frame({"batch": growing(8), "none": growing(200)})
    table = data["jacobian_singular_values"]
    table.loc[table["norm"] == "none", "value"] = math.nan
    evidence = JACOBIANS.evidence(data)
    assert {e.verdict for e in evidence.values()} == {Verdict.undecided}


def test_values_that_relu_sets_to_zero_are_not_drawn() -> None:
    fig = figures.new(JACOBIANS.size, "t", "s", synthetic=False)
    JACOBIANS.plot(fig, frame({"batch": growing(8), "none": growing(200)}))
    blocks = fig.axes[3]
    assert len(blocks.lines) == 4  # two blocks, two arms
    for line in blocks.lines:
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), [2.0, 1.0, 0.4])
        np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), [0, 204800 / 4095, 300000 / 4095])
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in fig.axes)


@pytest.mark.parametrize("arm", ["batch", "none"])
def test_an_arm_without_runs_is_a_hole_not_a_crash(arm: str) -> None:
    half = frame({arm: growing(8)})
    JACOBIANS.plot(figures.new(JACOBIANS.size, "t", "s", synthetic=False), half)
    assert JACOBIANS.numbers(half)
    evidence = JACOBIANS.evidence(half)
    assert evidence["jacobians-1"].verdict is Verdict.undecided
    assert (evidence["jacobians-2"].verdict is Verdict.undecided) == (arm == "batch")  # of the arm without BN alone


def test_two_seeds_are_too_few_for_a_verdict() -> None:
    assert {e.verdict for e in judged(growing(8), growing(200), seeds=2).values()} == {Verdict.undecided}
