"""LeNet's region of convergence: up to which learning rate does it train with BN and without?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import figures, limits
from bnstudy.analysis.criteria import Sample
from bnstudy.analysis.findings import Claim, Comparison, Evidence, Verdict, claim, judge
from bnstudy.analysis.frames import ARMS

EXERCISE = "Dive into Deep Learning, batch normalization, exercises"

TITLE = "LeNet: the region of convergence"
CAPTION = (
    "LeNet with sigmoids on Fashion-MNIST, plain SGD at a constant learning rate, ten epochs (preset quick: two). (a) "
    "Accuracy on the test images; a mark a run, line: mean, on the grid, of those that did not diverge; triangles: "
    "stalled (under 30 % on the training images); numbers below the axis: runs that diverged. (b) The largest rate "
    "that trains, a bar a seed from a rate that does to one that does not, line: geometric mean of the lower ends; "
    "triangle: the largest that was tried trains; white dot: rates above the bar train again."
)
SWEEP = "lenet_region"
NEEDS = {"runs": "status in ('completed', 'diverged') and model == 'lenet'"}
SIZE = (9.6, 4.2)
CLAIMS = (
    Claim(
        id="lenet-region-1",
        origin="course",
        where=EXERCISE,
        scale="reduced",
        says="The region of convergence of LeNet is wider with BN by an order of magnitude.",
        criterion=limits.larger(),
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs = frames["runs"]
    left, right = fig.subplots(1, 2)
    limits.draw_accuracies(left, runs)
    figures.panel(left, "a", "test accuracy after the last epoch")
    limits.draw_brackets(right, limits.by_cell(runs, ["norm", "seed"]), "norm")
    figures.panel(right, "b", "where training ends, a bar a seed")
    fig.legend(handles=limits.legend(runs), loc="outside lower center", ncols=5)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    return {"lenet-region-1": limits.ratios(limits.by_cell(frames["runs"], ["norm", "seed"]))}


@claim(
    id="lenet-region-2",
    where=EXERCISE,
    scale="reduced",
    says="It is an interval: between two rates that train every rate does.",
    criterion="No cell (arm and seed) in which a rate fails that lies between two that train: reproduced; in at "
    "most a fifth of the cells: partly. Undecided where in a cell no rate trains.",
)
def an_interval(frames: Mapping[str, pd.DataFrame]) -> Evidence:
    cells = limits.by_cell(frames["runs"], ["norm", "seed"])
    n = limits.seeds(cells) if set(cells["norm"]) >= set(ARMS) else 0
    non_monotone = cells["non_monotone"] > 0
    nowhere = cells["low"].isna() & ~non_monotone  # no two rates that train
    return Evidence(
        measured=f"{int(non_monotone.sum())} of {len(cells)} cells have such a rate",
        spread=", ".join(f"{figures.LABELS[arm]} {int(non_monotone[cells['norm'] == arm].sum())}" for arm in ARMS),
        n=n,
        verdict=Verdict.undecided
        if nowhere.any()
        else judge(n, full=not non_monotone.any(), partial=bool(non_monotone.mean() <= 0.2)),
    )


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return limits.grid_numbers(frames["runs"])
