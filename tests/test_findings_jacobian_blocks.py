"""Single blocks' singular values, and what constant statistics leave out: what meets the criteria, what does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import synthetic

from bnstudy.analysis import figures, findings, frames
from bnstudy.analysis.findings import Evidence, Verdict

BLOCKS = findings.load(synthetic.FINDINGS / "jacobian_blocks.py")
COUPLING = findings.load(synthetic.FINDINGS / "jacobian_coupling.py")
STARTS = (0, *range(3, 109, 2))


def of_blocks(uneven: Mapping[str, float], *, odd: int = 0, seeds: int = 5) -> dict[str, pd.DataFrame]:
    """Largest over middle value as given, the same in every block; in the first `odd` of them the arms are swapped."""
    rows = []
    for norm, other in (("batch", "none"), ("none", "batch")):
        for seed in range(seeds):
            for place, start in enumerate(STARTS):
                ratio = uneven[other if place < odd else norm] * (1 + 0.001 * seed)
                for example in range(4):
                    where = {"run_id": f"{norm}{seed}", "norm": norm, "seed": seed, "start": start, "example": example}
                    for share in np.linspace(0, 1, 21).astype(np.float32):
                        value = ratio ** (1 - 2 * float(share)) * (1 + 5 * (example == 3))
                        rows.append({**where, "count": 100, "num_zero": 40, "share": share, "value": value})
    return {"jacobian_density": pd.DataFrame(rows)}


def blocks(uneven: Mapping[str, float], **options: int) -> Evidence:
    return BLOCKS.evidence(of_blocks(uneven, **options))["jacobians-3"]


@pytest.mark.parametrize(
    ("odd", "verdict"),
    [(0, Verdict.reproduced), (5, Verdict.reproduced), (6, Verdict.partly), (40, Verdict.not_reproduced)],
)
def test_nine_blocks_in_ten_reproduce_and_half_are_a_part(odd: int, verdict: Verdict) -> None:
    evidence = blocks({"none": 3.0, "batch": 1.5}, odd=odd)
    assert evidence.verdict is verdict and evidence.n == 5
    assert list(evidence.estimates.values())[1].mean == pytest.approx((54 - odd) / 54)


def test_the_opposite_and_few_seeds() -> None:
    assert blocks({"none": 1.5, "batch": 3.0}).verdict is Verdict.not_reproduced
    assert blocks({"none": 3.0, "batch": 1.5}, seeds=1).verdict is Verdict.undecided
    assert next(iter(blocks({"none": 3.0, "batch": 1.5}).estimates.values())).mean == pytest.approx(2)


def test_the_layer_is_the_blocks_last() -> None:
    fig = figures.new(BLOCKS.size, "t", "s", synthetic=False)
    BLOCKS.plot(fig, of_blocks({"none": 3.0, "batch": 1.5}, seeds=1))
    batch, none = (line for line in fig.axes[1].lines if len(np.asarray(line.get_xdata())) == 54)
    for line, uneven in ((batch, 1.5), (none, 3.0)):
        np.testing.assert_array_equal(line.get_xdata(), range(3, 110, 2))
        np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), uneven, rtol=1e-6)


def of_sizes(difference: float, factor: float, seeds: int = 5, odd: bool = False) -> dict[str, pd.DataFrame]:
    """At 128 as given, at smaller sizes worse; with `odd`, the last seed is far off."""
    rows = []
    for seed in range(seeds):
        for size, num_examples in ((4, 1), (16, 1), (64, 1), (128, 1), (8, 8)):
            far = 128 / size * (20 if odd and seed == seeds - 1 else 1)
            for index in range(64):
                frozen = 8.0 ** (-index / 63)
                rows.append(
                    {
                        "run_id": f"r{seed}", "norm": "batch", "seed": seed, "size": size, "num_examples": num_examples,
                        "count": 64, "index": index, "frozen": frozen, "difference": difference * far,
                        "coupled": frozen * (factor * far) ** (-index / 63),
                    }
                )  # fmt: skip
    return {"jacobian_coupling": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("difference", "factor", "verdict"),
    [
        (0.02, 1.1, Verdict.reproduced),
        (0.02, 1 / 1.1, Verdict.reproduced),
        (0.2, 1.1, Verdict.partly),
        (0.02, 0.5, Verdict.partly),
        (0.2, 2.0, Verdict.not_reproduced),
    ],
)
def test_near_and_alike_reproduces_and_one_of_the_two_is_a_part(
    difference: float, factor: float, verdict: Verdict
) -> None:
    evidence = COUPLING.evidence(of_sizes(difference, factor))["jacobians-4"]
    assert evidence.verdict is verdict and evidence.n == 5
    assert [each.mean for each in evidence.estimates.values()] == pytest.approx([100 * difference, factor])


def test_one_seed_far_off_decides_nothing() -> None:
    assert COUPLING.evidence(of_sizes(0.02, 1.1, odd=True))["jacobians-4"].verdict is Verdict.undecided


@pytest.mark.parametrize(
    ("finding", "frames"),
    [(BLOCKS, of_blocks({"none": 3.0, "batch": 1.5})), (COUPLING, of_sizes(0.02, 1.1))],
)
def test_they_are_drawn_and_told(finding: findings.Finding, frames: dict[str, pd.DataFrame]) -> None:
    fig = figures.new(finding.size, finding.title, "", synthetic=False)
    finding.plot(fig, frames)
    assert len(fig.axes) >= 3
    assert all(math.isfinite(limit) for ax in fig.axes for limit in (*ax.get_xlim(), *ax.get_ylim()))
    assert finding.numbers(frames)


def test_the_published_estimates_are_those_of_the_published_dense_jacobians() -> None:
    """Of two blocks of the third stage, in every seed: the largest value, and quantiles, which are drawn at random."""
    keys = ["norm", "seed", "start", "example"]
    results = synthetic.FINDINGS.parents[1] / "results"
    estimated = frames.load(results, "jacobian_blocks", "jacobian_density", None)
    dense = frames.load(results, "jacobians", "jacobian_singular_values", "stretch == 'to_next'")
    each = dict(iter(dense.sort_values("index").groupby(keys)))
    compared, apart = 0, []
    for key, rows in estimated[estimated["start"].isin(dense["start"].unique())].groupby(keys):
        if key not in each:
            continue
        exact, last = each[key], float((rows["count"] - rows["num_zero"]).iloc[0] - 1)
        wanted = np.interp(rows["share"] * last, exact["index"], exact["value"])
        middle = rows["share"].between(0.05, 0.9)
        apart.append(np.abs(rows["value"][middle] / wanted[middle] - 1).max())
        np.testing.assert_allclose(rows["value"].max(), exact["value"].max(), rtol=1e-5)
        compared += 1
    assert compared == 2 * 2 * 30 * 4
    assert max(apart) < 0.08 and np.mean(np.array(apart) < 0.06) > 0.98
