"""What a figure's header says of seeds and runs."""

from __future__ import annotations

import pandas as pd
import pytest

from bnstudy.analysis import captions


@pytest.mark.parametrize(
    ("failed", "says"), [((), "n = 2 seeds an arm, 4 runs"), ((1,), "n = 2 with BN, 1 without BN, 3 runs"),
                         ((0, 1), "n = 1 seed an arm, 2 runs")],
)  # fmt: skip
def test_runs_that_failed_are_in_no_n(failed: tuple[int, ...], says: str) -> None:
    """Of each run two rows; `failed`: places among batch and none of seed 0."""
    ended = ["failed" if place in failed else "completed" for place in range(4)]
    runs = pd.DataFrame({"run_id": list("abcd"), "norm": ["batch", "none"] * 2, "seed": [0, 0, 1, 1], "status": ended})
    runs = runs.assign(norm_where="all")
    assert captions.counts({"epochs": pd.concat([runs, runs])}) == says
