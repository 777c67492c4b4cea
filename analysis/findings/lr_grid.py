"""Which learning rates the paper's network trains at, with BN and without (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import limits
from bnstudy.analysis.criteria import Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, claim, judge

TITLE = "ResNet-110: learning-rate limits with BN and without"
CAPTION = (
    "ResNet-110 on CIFAR-10 for 165 epochs at each learning rate. (a) Accuracy on the test images; a mark a run, line: "
    "mean, on the grid, of the runs that did not diverge; numbers below the axis: runs that diverged (mini-batch "
    "loss above 1000, or not finite); triangles: stalled (under 30 % on the training images). (b) Training minus test "
    "accuracy of the runs that trained. (c) The update that diverged. (d) The largest rate that trains, a bar a seed "
    "from a rate that does to one that does not; triangle: the largest that was tried trains; white dot: rates above "
    "the bar train again."
)
SWEEP = "lr_grid"
NEEDS = {"runs": "status in ('completed', 'diverged') and epochs == 165"}
SIZE = (9.6, 7.2)
CLAIMS = (
    Claim(
        id="4-largest",
        where="Section 3, text",
        scale="paper",
        says="The largest learning rate that trains is an order of magnitude larger with BN.",
        criterion=limits.larger(),
        published="0.1 against 0.0001 are the rates used",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    limits.grid_figure(fig, frames["runs"])


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {"4-largest": limits.ratios(limits.by_cell(frames["runs"], ["norm", "seed"]))}


@claim(
    id="4",
    origin="paper",
    where="Section 3, text",
    scale="paper",
    says="Without BN larger learning rates cannot be used: training diverges.",
    criterion="Without BN every seed trains at 0.0001 and diverges (mini-batch loss above 1000) at 0.1, while with "
    "BN every seed trains at 0.1.",
    published="0.1 diverges, 0.0001 trains; the grid is 0.1, 0.003, 0.001, 0.0003, 0.0001, 0.00003",
)
def diverges_at_large_rates(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    runs = frames["runs"]
    expected = {("none", 1e-4): "trained", ("none", 0.1): "diverged", ("batch", 0.1): "trained"}
    outcomes = {key: runs[(runs["norm"] == key[0]) & (runs["lr"] == key[1])]["outcome"] for key in expected}
    hit = {key: int((outcomes[key] == outcome).sum()) for key, outcome in expected.items()}
    n = min(len(each) for each in outcomes.values())
    return Evidence(
        measured=f"without BN {hit['none', 1e-4]} of {len(outcomes['none', 1e-4])} train at 0.0001 and "
        f"{hit['none', 0.1]} of {len(outcomes['none', 0.1])} diverge at 0.1; with BN {hit['batch', 0.1]} of "
        f"{len(outcomes['batch', 0.1])} train at 0.1",
        spread="",
        n=n,
        verdict=judge(n, full=all(hit[key] == len(outcomes[key]) for key in expected), partial=False),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return limits.grid_numbers(frames["runs"])
