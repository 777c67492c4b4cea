"""Whether the learning rate over the size of the mini-batch is what counts (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnstudy.analysis import best_rates, criteria, figures, stats
from bnstudy.analysis.criteria import Criterion, Need, Part, Sample
from bnstudy.analysis.findings import Claim, Comparison
from bnstudy.analysis.frames import DASH, spread

SIZES = (16, 128, 1024)
DASHES = (":", (0, (4, 1.6)), "-")
SAME = {
    pair: Part("size of the difference of test accuracies with BN at one ratio of rate and size, mean over the ratios",
               below=3, unit="points", at=f"{pair[0]} and {pair[1]}")
    for pair in itertools.pairwise(SIZES)
}  # fmt: skip
LEARNT = Need("highest test accuracy with BN at each size, the lowest of them", "a network did not learn", above=30)

TITLE = "Test accuracy by learning rate over size of the mini-batch, with BN"
CAPTION = (
    f"{best_rates.SHOWN}, with BN, mini-batches of 16, 128 and 1024. Final test accuracy (a diverged run counts as "
    "10 %) against rate over size, mean over seeds and 95 % interval (bar)."
)
SWEEP = "rate_over_size"
RUNS = ("runs", "best_rates_small/runs", "best_rates_large/runs")
NEEDS = dict.fromkeys(RUNS, f"{best_rates.ENDED} and norm == 'batch'")
SIZE = (7.2, 4.4)
CLAIMS = (
    Claim(
        id="B6-ratio",
        origin="paper",
        where="Bjorck et al. (2018), section 3, equation 3",
        scale="reduced",
        says="It is the rate over the size of the mini-batch that counts.",
        criterion=Criterion(
            tuple(SAME.values()), partial=1, needs=(LEARNT,),
            remark="Seed by seed, at ratios that both sizes have; epochs are the same; a diverged run counts as 10 %.",
        ),
        published="noise of a step, by rate squared over size; no accuracies",
    ),
)  # fmt: skip


def plot(fig: Figure, frames: Mapping[str, pd.DataFrame]) -> None:
    runs, ax = _runs(frames), fig.subplots()
    for place, (size, dashes) in enumerate(zip(SIZES, DASHES, strict=True)):
        part = stats.over_seeds(runs[runs["batch_size"] == size], ["ratio"], "percent")
        figures.whiskers(ax, part, "ratio", "batch", label=f"{size} images", factor=1.06 ** (place - 1), ls=dashes)
    ax.set_xscale("log")
    ax.set_xlabel("learning rate over images in a mini-batch")
    ax.set_ylabel("test accuracy (%)")
    ax.legend(loc="lower center")


def measure(frames: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Sample]]:
    runs = _runs(frames)
    values = {part.key: _apart(runs, *pair) for pair, part in SAME.items()} | {LEARNT.of: _lowest(runs)}
    return {"B6-ratio": {key: criteria.single(of) for key, of in values.items()}}


def numbers(frames: Mapping[str, pd.DataFrame]) -> list[Comparison]:
    runs = _runs(frames)
    highest = runs.groupby(["batch_size", "seed"])["percent"].max()
    return [
        Comparison(f"highest test accuracy, mini-batches of {size} (%)", DASH, DASH, str(spread(values)), DASH)
        for size, values in highest.groupby("batch_size")
    ]


def _runs(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run with BN, with percent (chance where it diverged), and ratio: rate over size."""
    runs = best_rates.by_run(pd.concat([frames[name] for name in RUNS], ignore_index=True))
    return runs.assign(ratio=(runs["lr"] / runs["batch_size"]).map(lambda ratio: float(f"{ratio:.2e}")))


def _apart(runs: pd.DataFrame, small: int, large: int) -> pd.Series:
    """By seed: the mean distance of the accuracies with BN of the two sizes, over the ratios that both have."""
    part = runs[(runs["arm"] == "batch") & runs["batch_size"].isin([small, large])]
    pairs = part.assign(step=np.round(np.log(part["ratio"]), 1))
    wide = pairs.pivot_table(index=["seed", "step"], columns="batch_size", values="percent").reindex(
        columns=[small, large]
    )
    return (wide[small] - wide[large]).abs().dropna().groupby("seed").mean()


def _lowest(runs: pd.DataFrame) -> pd.Series:
    """By seed: the lowest, over sizes, of the highest accuracy with BN at each size."""
    part = runs[runs["arm"] == "batch"]
    return part.groupby(["seed", "batch_size"])["percent"].max().groupby("seed").min()
