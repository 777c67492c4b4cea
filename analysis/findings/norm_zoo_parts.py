"""Which half of BN allows large learning rates, and how much of one BN's gain is the start of the classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import criteria, figures, stats, zoo
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.stats import Scale

HALVES = ("batch", "mean_only", "variance_only")  # of which B5-parts compares the limits
END, ZERO = "batch_before_pooling", "zero_classifier"
SCALES = Part("limit with variance only over that with BN", above=0.25, scale=Scale.log)
CENTRES = Part("limit with mean only over that with BN", below=0.25, scale=Scale.log)
SHARE = Part("gain of a classifier from zero over that of one BN at the end", above=0.5, below=0.85)
KNOWN = Need(
    "number of the three arms of a seed at which no rate learns up to the first that fails",
    "a limit is not known",
    below=0.5,
)
WITHIN = Need(
    "number of the three arms of a seed that learn at the grid's largest rate", "a limit lies above the grid", below=0.5
)
GAINS = Need("gain of one BN at the end over none", "one BN at the end gains nothing over none", above=0)
INSIDE = Need("number of the three arms whose best rate is at an end of the grid",
              "a best rate at the grid's edge is no optimum", below=1)  # fmt: skip

TITLE = "BN's two halves, and a classifier that starts at zero"
CAPTION = (
    f"{zoo.SHOWN} (a) Largest rate of the grid at which a network learns (mean of the last 50 losses below 2.25), one "
    f"dot a seed, bar: geometric mean with 95 % interval. (b) {zoo.BEST}"
)
SWEEP = "norm_zoo_parts"
NEEDS = {"runs": zoo.ENDED}
SIZE = (10.0, 4.2)
CLAIMS = (
    Claim(
        id="B5-parts",
        where="the two halves of BN",
        scale="reduced",
        says="It is BN's scaling and not its centring that allows large learning rates.",
        criterion=Criterion(
            (SCALES, CENTRES), partial=1, needs=(KNOWN, WITHIN),
            remark=f"A quarter lies between one step of the grid and two. {zoo.GRID}",
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
    runs = zoo.named(frames["runs"])
    left, right = fig.subplots(1, 2, sharey=True)
    zoo.draw_limits(left, runs)
    figures.panel(left, "a", "largest rate that learns")
    zoo.draw_accuracies(right, runs)
    figures.panel(right, "b", "test accuracy at the best rate")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = zoo.named(frames["runs"])
    cells = zoo.cells(runs[runs["arm"].isin(HALVES)])
    cells = cells[cells.groupby("seed")["arm"].transform("nunique") == len(HALVES)]
    limit = cells.pivot(index="seed", columns="arm", values="low").reindex(columns=list(HALVES))
    best = {arm: zoo.best(runs[runs["arm"] == arm]) for arm in (ZERO, END, "none")}
    gain = {arm: stats.effect(best[arm][1], best["none"][1]) for arm in (ZERO, END)}
    at_an_end = float(sum(not inside for _, _, inside in best.values()))
    values = {
        "B5-parts": {
            SCALES.key: stats.effect(limit["variance_only"], limit["batch"], Scale.log),
            CENTRES.key: stats.effect(limit["mean_only"], limit["batch"], Scale.log),
            KNOWN.of: limit.isna().sum(axis=1),
            WITHIN.of: np.isinf(cells.pivot(index="seed", columns="arm", values="high")).sum(axis=1),
        },
        "B5-classifier": {
            SHARE.key: gain[ZERO] / gain[END],
            GAINS.of: gain[END],
            INSIDE.of: pd.Series(at_an_end, index=gain[END].index),
        },
    }
    return {claim: {key: criteria.single(of) for key, of in each.items()} for claim, each in values.items()}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    return zoo.numbers(zoo.named(frames["runs"]))
