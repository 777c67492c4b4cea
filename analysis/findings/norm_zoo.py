"""Which part of BN allows large learning rates: BN, its halves, other norms, and networks without norms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats, zoo
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread
from bnstudy.analysis.stats import Scale

FOLLOWS = Part("rank correlation of limit and growth of activations over the arms", below=-0.7)
SCALES = Part("limit with variance only over that with BN", above=0.25, scale=Scale.log)
CENTRES = Part("limit with mean only over that with BN", below=0.25, scale=Scale.log)
SHARE = Part("gain of a classifier from zero over that of one BN at the end", above=0.5, below=0.85)
KNOWN = Need(
    "number of arms of a seed at which no rate learns up to the first that fails", "a limit is not known", below=0.5
)
GAINS = Need("gain of one BN at the end over none", "one BN at the end gains nothing over none", above=0)
INSIDE = Need("number of the three arms whose best rate is at an end of the grid",
              "a best rate at the grid's edge is no optimum", below=1)  # fmt: skip
END, ZERO = "batch_before_pooling", "zero_classifier"

TITLE = "The norm zoo: BN, its parts, and what stands in its place"
CAPTION = (
    "ResNet-32 on 10,000 images of CIFAR-10, eight epochs at a constant rate. (a) Largest rate of the grid at which a "
    "network learns (mean of the last 50 losses below 2.25) against the growth of its activations before training: "
    "the standard deviation behind the last block over that behind the first, on one mini-batch. Geometric means with "
    "95 % intervals over seeds. (b) Test accuracy at each arm's best rate (of highest mean; a diverged run counts as "
    "10 %), one dot a seed, bar: mean with 95 % interval."
)
SWEEP = "norm_zoo"
NEEDS = {
    "runs": "status in ('completed', 'diverged') and depth == 32",
    "norm_zoo_start/activation_moments": "step == 0 and run_depth == 32 and site == 'activation'",
}
SIZE = (10.8, 5.0)
MARKERS = dict(zip(zoo.ARMS, "osD^vP<>XphH", strict=True))
GRID = "Limit: the largest rate, of a grid by factors of about 3, up to which every tried one learns; seed by seed."
CLAIMS = (
    Claim(
        id="B5-growth",
        where="Bjorck et al. (2018), section 3: bounded activations",
        scale="reduced",
        says="The more activations grow with depth at initialisation, the smaller the largest learning rate.",
        criterion=Criterion(
            (FOLLOWS,), partial=(Part(FOLLOWS.of, below=0),), needs=(KNOWN,), remark=f"Spearman's, twelve arms. {GRID}"
        ),
        published="the paper's account; no number",
    ),
    Claim(
        id="B5-parts",
        where="the two halves of BN",
        scale="reduced",
        says="It is BN's scaling and not its centring that allows large learning rates.",
        criterion=Criterion(
            (SCALES, CENTRES), partial=1, needs=(KNOWN,),
            remark=f"A quarter lies between one step of the grid and two. {GRID}",
        ),
        published="no number",
    ),
    Claim(
        id="B5-classifier",
        where="Bjorck et al. (2018), section 3.2: BN at the end; Zhang et al. (2019)",
        scale="reduced",
        says="A classifier that starts at zero gives two thirds of what one BN at the end gives.",
        criterion=Criterion(
            (SHARE,),
            partial=(Part(SHARE.of, above=0.25, below=1),),
            needs=(GAINS, INSIDE),
            remark="In test accuracy over the network without either, each at its best rate, seed by seed; the bounds "
            "are those of claim 10.",
        ),
        published="no number",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs, growth = zoo.named(frames["runs"]), _growth(frames)
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
    _accuracies(right, runs)
    figures.panel(right, "b", "test accuracy at the best rate")
    handles = [
        figures.entry(zoo.ARMS[arm].label, MARKERS[arm], colour=figures.COLOURS[arm], ms=5.5, mew=0)
        for arm in _there(runs)
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=6)


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = zoo.named(frames["runs"])
    limit = zoo.cells(runs).pivot(index="seed", columns="arm", values="low").reindex(columns=list(zoo.ARMS))
    growth = _growth(frames).pivot(index="seed", columns="arm", values="growth").reindex(columns=list(zoo.ARMS))
    both = {seed: (limit.loc[seed].rank(), growth.loc[seed].rank()) for seed in limit.index.intersection(growth.index)}
    follows = {seed: float(of.corr(grown)) for seed, (of, grown) in both.items() if of.notna().all() and len(grown)}
    best = {arm: zoo.best(runs[runs["arm"] == arm]) for arm in (ZERO, END, "none")}
    gain = {arm: stats.effect(best[arm][1], best["none"][1]) for arm in (ZERO, END)}
    at_an_end = float(sum(not inside for _, _, inside in best.values()))
    values = {
        FOLLOWS.key: pd.Series(follows, dtype=float).reindex(limit.index),
        SCALES.key: stats.effect(limit["variance_only"], limit["batch"], Scale.log),
        CENTRES.key: stats.effect(limit["mean_only"], limit["batch"], Scale.log),
        KNOWN.of: limit.isna().sum(axis=1),
    }
    share = {
        SHARE.key: gain[ZERO] / gain[END],
        GAINS.of: gain[END],
        INSIDE.of: pd.Series(at_an_end, index=gain[END].index),
    }
    limits_of = {key: criteria.single(of) for key, of in values.items()}
    return {
        "B5-growth": limits_of,
        "B5-parts": limits_of,
        "B5-classifier": {key: criteria.single(of) for key, of in share.items()},
    }


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs, growth = zoo.named(frames["runs"]), _growth(frames)
    limit = zoo.cells(runs)
    lines = []
    for arm in _there(runs):
        cells = {
            "largest rate that learns": spread(limit[limit["arm"] == arm]["low"]),
            "growth of activations": spread(growth[growth["arm"] == arm]["growth"]),
            "test accuracy at the best rate (%)": spread(zoo.best(runs[runs["arm"] == arm])[1]),
        }
        for what, value in cells.items():
            ours = (DASH, str(value)) if arm == "none" else (str(value), DASH)
            lines.append(Comparison(f"{what}, {zoo.ARMS[arm].label}", DASH, DASH, *ours))
    return lines


def _growth(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per arm and seed: `growth`, root mean variance of the channels behind the last block over the first."""
    rows = zoo.named(frames["norm_zoo_start/activation_moments"])
    std = rows[rows["block_output"]].groupby(["arm", "seed", "depth"])["variance"].mean() ** 0.5
    by_depth = std.reset_index().sort_values("depth", kind="stable")
    ends = by_depth.groupby(["arm", "seed"])["variance"].agg(["first", "last"])
    return (ends["last"] / ends["first"]).rename("growth").reset_index()


def _there(runs: pd.DataFrame) -> list[str]:
    return [arm for arm in zoo.ARMS if (runs["arm"] == arm).any()]


def _accuracies(ax: Axes, runs: pd.DataFrame) -> None:
    order = _there(runs)
    for row, arm in enumerate(order):
        _, values, _ = zoo.best(runs[runs["arm"] == arm])
        of, colour = stats.interval(values), figures.COLOURS[arm]
        ax.plot(values, row + np.linspace(-0.16, 0.16, len(values)), "o", color=colour, ms=4, mew=0, alpha=0.85)
        if of.n > 1:
            ax.fill_betweenx([row - 0.32, row + 0.32], of.low, of.high, color=colour, alpha=0.25, lw=0)
        ax.plot([of.mean] * 2, [row - 0.32, row + 0.32], color=colour, lw=2)
    ax.set_yticks(range(len(order)), [zoo.ARMS[arm].label for arm in order])
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel("test accuracy (%)")
    ax.grid(False, axis="y")
