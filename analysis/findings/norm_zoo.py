"""Whether the largest learning rate follows the growth of activations: BN, its parts, other norms, and none."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats, zoo
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.stats import Scale

FOLLOWS = Part("rank correlation of limit and growth of activations over the arms", below=-0.7)
KNOWN = Need(
    "number of arms of a seed at which no rate learns up to the first that fails", "a limit is not known", below=0.5
)

TITLE = "The norm zoo: BN, its parts, and what stands in its place"
CAPTION = (
    f"{zoo.SHOWN} (a) Largest rate of the grid at which a network learns (mean of the last 50 losses below 2.25) "
    "against the growth of its activations before training: the standard deviation behind the last block over that "
    "behind the first, on one mini-batch. Geometric means with 95 % intervals over seeds. "
    f"(b) {zoo.BEST}"
)
SWEEP = "norm_zoo"
RUNS = ("norm_zoo_parts/runs", "runs")
START = "norm_zoo_start/activation_moments"
NEEDS = {
    **dict.fromkeys(RUNS, zoo.ENDED),
    START: "step == 0 and run_depth == 32 and site == 'activation'",
}
SIZE = (10.8, 5.0)
MARKERS = dict(zip(zoo.ARMS, "osD^vP<>XphH", strict=True))
CLAIMS = (
    Claim(
        id="B5-growth",
        where="Bjorck et al. (2018), section 3: bounded activations",
        scale="reduced",
        says="The more activations grow with depth at initialisation, the smaller the largest learning rate.",
        criterion=Criterion(
            (FOLLOWS,), partial=(Part(FOLLOWS.of, below=0),), needs=(KNOWN,),
            remark=f"Spearman's, twelve arms, of the seeds that have every one. {zoo.GRID}",
        ),
        published="the paper's account; no number",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs, growth = _runs(frames), _growth(frames)
    limit = zoo.cells(runs)
    left, right = fig.subplots(1, 2, width_ratios=(1.2, 1))
    for arm, marker in MARKERS.items():
        x = stats.interval(growth[growth["arm"] == arm]["growth"], Scale.log)
        y = stats.interval(limit[limit["arm"] == arm]["low"], Scale.log)
        if x.n and y.n:
            left.plot([x.low, x.high], [y.mean] * 2, color=figures.COLOURS[arm], lw=1.1, alpha=0.75)
            left.plot([x.mean] * 2, [y.low, y.high], color=figures.COLOURS[arm], lw=1.1, alpha=0.75)
            left.plot([x.mean], [y.mean], marker, color=figures.COLOURS[arm], ms=6.5, mew=0.8, mec="white")
    left.set_xscale("log")
    figures.plain_log(left)
    left.set_xlabel("growth of the standard deviation from the first block to the last")
    left.set_ylabel("largest rate that learns")
    figures.panel(left, "a", "limit against growth")
    zoo.draw_accuracies(right, runs)
    figures.panel(right, "b", "test accuracy at the best rate")
    handles = [
        figures.entry(zoo.ARMS[arm].label, MARKERS[arm], colour=figures.COLOURS[arm], ms=5.5, mew=0)
        for arm in zoo.there(runs)
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    arms = list(zoo.ARMS)
    cells = zoo.cells(_runs(frames))
    cells = cells[cells.groupby("seed")["arm"].transform("nunique") == len(arms)]
    limit = cells.pivot(index="seed", columns="arm", values="low").reindex(columns=arms)
    growth = _growth(frames).pivot(index="seed", columns="arm", values="growth").reindex(columns=arms)
    both = {seed: (limit.loc[seed].rank(), growth.loc[seed].rank()) for seed in limit.index.intersection(growth.index)}
    follows = {seed: float(of.corr(grown)) for seed, (of, grown) in both.items() if (of.notna() & grown.notna()).all()}
    values = {
        FOLLOWS.key: pd.Series(follows, dtype=float).reindex(limit.index),
        KNOWN.of: limit.isna().sum(axis=1),
    }
    return {"B5-growth": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return zoo.numbers(_runs(frames), _growth(frames))


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return zoo.named(pd.concat([frames[name] for name in RUNS], ignore_index=True))


def _growth(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per arm and seed: `growth`, root mean variance of the channels behind the last block over the first."""
    rows = zoo.named(frames[START])
    std = rows[rows["block_output"]].groupby(["arm", "seed", "depth"])["variance"].mean() ** 0.5
    by_depth = std.reset_index().sort_values("depth", kind="stable")
    ends = by_depth.groupby(["arm", "seed"])["variance"].agg(["first", "last"])
    return (ends["last"] / ends["first"]).rename("growth").reset_index()
