"""Which of the paper's learning rates its network trains at, at its own depth (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stability
from bnstudy.analysis.criteria import Criterion, HoldsFor, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import arms, number
from bnstudy.analysis.stats import Scale
from bnstudy.store import outcomes

PAPER_GRID = (3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.1)
DIVERGE = (0.003, 0.1, 1.0)  # rates at which the network without BN is to diverge
USED = 0.1  # the paper's rate with BN
LOST = Part("share of a seed's runs without BN at 0.003, 0.1 and 1 that diverge", above=0.99, holds_for=HoldsFor.every)
KEPT = Part("share of a seed's runs with BN at the paper's six rates that stay finite, that at 0.1 learning",
            above=0.99, holds_for=HoldsFor.every)  # fmt: skip

TITLE = "ResNet-110 during its first epoch, at the paper's learning rates"
CAPTION = (
    "All of CIFAR-10, 391 updates on mini-batches of 128 at a constant rate, fp32. Above: the loss of each "
    "mini-batch, a line a seed, both axes logarithmic; cross: the loss that ended a run, above 1000 or not finite (at "
    "the top). Below: means of ten successive losses of the runs that did not diverge; dashed: ln 10, the loss of "
    "guessing. In each panel: how many seeds learn (mean of the last 50 losses below 2.25), stay at chance or diverge; "
    "at chance a rate is too small where a larger one of the same arm and seed learns, too large where only smaller "
    "ones do. At the right: of each seed, the share of runs without BN at 0.003 and above that diverge, and of those "
    "with BN at the paper's six rates that stay finite, that at 0.1 learning; bars: means and 95 % intervals."
)
SWEEP = "stability_grid"
NEEDS = {"steps": "depth == 110 and epochs == 1"}
SIZE = (15.0, 5.4)
CLAIMS = (
    Claim(
        id="4-epoch",
        origin="paper",
        where="Section 3, text",
        scale="true depth, one epoch",
        says="Without BN larger learning rates cannot be used: training diverges.",
        criterion=Criterion(
            (LOST, KEPT),
            partial=1,
            min_seeds=5,
            remark="ResNet-110, all of CIFAR-10, one epoch. Diverges: a mini-batch loss above 1000, or not finite; "
            "learns: mean of the last 50 losses below 2.25. The six rates: 0.1, 0.003, 0.001, 0.0003, 0.0001, 0.00003.",
        ),
        published="0.1 diverges, 0.0001 trains; the grid is 0.1, 0.003, 0.001, 0.0003, 0.0001, 0.00003",
    ),
)


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    steps, runs = frames["steps"], stability.runs(frames["steps"])
    rates = sorted(runs["lr"].unique())
    left, right = fig.subfigures(1, 2, width_ratios=(len(rates), 1.35), squeeze=False)[0]
    axes = left.subplots(2, len(rates), sharex=True, sharey="row", squeeze=False)
    letters, last = "abcdefghijkl"[: len(rates)], "abcdefghijkl"[len(rates)]
    for (above, below), rate, letter in zip(axes.T, rates, letters, strict=True):
        part = steps[steps["run_lr"] == rate]
        stability.losses(above, part)
        stability.courses(below, part)
        figures.panel(above, letter, f"rate {number(rate)}")
        stability.labels(above, {arm: stability.tally(runs, arm, rate) for arm in arms(runs)})
        below.set_xlabel("update (1: the first)")
    axes[0, 0].set_ylabel("loss of the mini-batch")
    axes[1, 0].set_ylabel("mean of ten losses")
    _judged(right.subplots(), measure(frames)["4-epoch"], last)
    fig.legend(handles=stability.legend(runs), loc="outside lower center", ncols=6)


def _judged(ax: Axes, shares: Mapping[str, Sample], letter: str) -> None:
    for x, (arm, part) in enumerate({"none": LOST, "batch": KEPT}.items()):
        of = shares[part.key].values  # judged seed by seed
        figures.seeds(ax, x, of, arm, spacing=0.09, scale=Scale.plain, interval=False)
    ax.set_xlim(-0.6, 1.6)
    ax.set_xticks([0, 1], ["diverge at\n0.003, 0.1, 1", "finite at all six,\nlearn at 0.1"])
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share of a seed's runs")
    figures.panel(ax, letter, "judged")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = stability.runs(frames["steps"])
    lost = stability.outcomes_by_seed(runs, "none", DIVERGE) == outcomes.DIVERGED
    by_rate = stability.outcomes_by_seed(runs, "batch", PAPER_GRID)
    stays = (by_rate != outcomes.DIVERGED).assign(**{str(USED): by_rate[USED] == outcomes.LEARNS}).drop(columns=USED)
    return {"4-epoch": {LOST.key: criteria.single(lost.mean(axis=1)), KEPT.key: criteria.single(stays.mean(axis=1))}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return stability.numbers(stability.runs(frames["steps"]))
